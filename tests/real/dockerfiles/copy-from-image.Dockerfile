ARG BASE
FROM scratch
ARG BASE
COPY --from=BASEIMAGE /etc/debian_version /etc/os-release /etc/
COPY --from=BASEIMAGE /bin/true /true
