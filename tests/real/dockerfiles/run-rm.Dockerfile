ARG BASE
FROM $BASE
COPY data /d
RUN rm -rf /d/sub /nothing && rm /d/a.txt
RUN rm -rf /d/*
RUN rm -rf /usr/share/doc /etc/debian_version
