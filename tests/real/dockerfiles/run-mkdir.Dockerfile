ARG BASE
FROM $BASE
RUN mkdir -p /a/b/c /d && mkdir -m 700 /e && mkdir -p /usr/local/new /tmp/t
RUN mkdir /f; mkdir /g
RUN true
RUN set -eux; mkdir /h; true
