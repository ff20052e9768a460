ARG BASE
FROM $BASE
ADD archive.tar.gz /unpacked/
ADD archive.tar /unpacked-plain
ADD --chown=9:9 archive.tar.gz /unpacked-owned/
COPY archive.tar.gz /kept.tar.gz
