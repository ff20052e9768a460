ARG BASE
FROM $BASE
WORKDIR /crlf
COPY app.py .
