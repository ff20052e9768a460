ARG BASE
FROM $BASE
ONBUILD COPY app.py /app/
ONBUILD RUN mkdir /later
USER nobody
