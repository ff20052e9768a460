ARG BASE UV
FROM $UV AS uv
FROM $BASE
COPY --from=uv /uv /uvx /bin/
ENV UV_LINK_MODE=copy
WORKDIR /w
COPY workspace .
RUN uv sync --locked
WORKDIR /w/packages/part
RUN UV_PROJECT_ENVIRONMENT=/opt/part uv sync --frozen --package part --no-editable
RUN UV_PROJECT_ENVIRONMENT=/opt/none uv sync --frozen --no-install-workspace
