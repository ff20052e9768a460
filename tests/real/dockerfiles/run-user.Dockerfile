ARG BASE
FROM $BASE
RUN mkdir /mine && chown 1000:1000 /mine
USER 1000:1000
RUN touch /mine/a && mkdir /mine/d && cp /etc/debian_version /mine/
USER www-data
RUN touch /tmp/w
