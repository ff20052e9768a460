ARG BASE
FROM $BASE
COPY app.py /bin/app
COPY data /lib/data
COPY app.py /var/run/app.py
