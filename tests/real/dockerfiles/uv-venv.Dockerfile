ARG BASE UV
FROM $UV AS uv
FROM $BASE
COPY --from=uv /uv /uvx /bin/
ENV UV_LINK_MODE=copy
WORKDIR /work
RUN uv venv && uv venv /opt/named && uv venv --prompt here /opt/prompted
RUN uv venv --seed /opt/seeded && uv venv --system-site-packages --python 3.13 /opt/system
RUN mkdir /x && uv venv /x/.venv && uv venv --clear /x/.venv
COPY project /work/project
RUN cd project && uv venv
