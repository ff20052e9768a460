ARG BASE
FROM $BASE
ADD app.py /added/
ADD data /added-data
ADD --chown=7:8 archive.txt /added/
