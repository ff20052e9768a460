ARG BASE
FROM $BASE
COPY --link app.py /linked/app.py
COPY --link --chown=3:4 data /linked/data/
WORKDIR /w
COPY --link data rel
