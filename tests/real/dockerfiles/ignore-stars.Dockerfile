ARG BASE
FROM $BASE
COPY . /all
COPY data /data
