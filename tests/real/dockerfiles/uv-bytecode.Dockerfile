ARG BASE UV
FROM $UV AS uv
FROM $BASE
COPY --from=uv /uv /uvx /bin/
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
WORKDIR /app
COPY project .
RUN uv sync --frozen
RUN uv venv /opt/v && uv pip install --python /opt/v six
RUN UV_COMPILE_BYTECODE=0 uv pip install --python /opt/v click
