ARG BASE
FROM $BASE
RUN --mount=type=cache,target=/root/.cache/pip mkdir -p /cm
RUN --mount=type=cache,target=/deep/new/cache touch /cm/x
