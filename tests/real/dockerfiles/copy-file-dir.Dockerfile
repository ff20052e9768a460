ARG BASE
FROM $BASE
COPY app.py /new/place/
COPY app.py /renamed.py
COPY app.py /usr/local
COPY data /new/data
COPY data/ /etc
