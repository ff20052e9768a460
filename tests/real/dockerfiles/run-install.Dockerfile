ARG BASE
FROM $BASE
COPY script.sh data/a.txt /s/
RUN install -d /i/a/b -m 700 && install -d -o 7 -g 8 -m 2750 /i/c /i/c2 && mkdir -m 711 /i/there && install -d /i/there
RUN install -m 640 /s/a.txt /i/file && install /s/a.txt /s/script.sh /i/a && install -D -m 444 /s/a.txt /i/new/deep/name
RUN install -o daemon -g bin /s/a.txt /i/owned && chmod +x /s/a.txt
