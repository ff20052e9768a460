ARG BASE
FROM $BASE
COPY data /d
COPY other /d
COPY app.py /d/a.txt
