ARG BASE
FROM $BASE
COPY links /links
COPY links/to-file /followed
COPY links/to-folder /followed-folder
COPY dirlink/a.txt /through
