ARG BASE
FROM $BASE
COPY --chown=1000:2000 data /made/by/data
COPY --chown=33 app.py /n/
COPY --chown=www-data:staff script.sh /n/
COPY --chown=daemon app.py /m/app.py
