ARG BASE
FROM $BASE
COPY data/sub /tmp
COPY data /root
COPY app.py /var/tmp/
