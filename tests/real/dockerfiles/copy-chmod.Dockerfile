ARG BASE
FROM $BASE
COPY --chmod=600 data /c/
COPY --chmod=0755 app.py /c2/deep/app.py
COPY --chmod=4755 --chown=1:1 script.sh /c3
