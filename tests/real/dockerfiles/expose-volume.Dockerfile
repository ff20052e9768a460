ARG BASE
FROM $BASE
EXPOSE 80 443/tcp 53/udp 8000-8003
VOLUME /data /more
VOLUME ["/json", "/list"]
