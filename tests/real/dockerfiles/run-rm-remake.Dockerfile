ARG BASE
FROM $BASE
COPY data /d
RUN rm -rf /d && mkdir /d && touch /d/new
RUN rm -rf /usr/share/misc && mkdir -p /usr/share/misc/x
