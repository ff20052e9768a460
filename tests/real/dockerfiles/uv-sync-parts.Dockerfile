ARG BASE UV
FROM $UV AS uv
FROM $BASE
COPY --from=uv /uv /uvx /bin/
ENV UV_LINK_MODE=copy
WORKDIR /app
COPY project .
ENV UV_PROJECT_ENVIRONMENT=/opt/venv UV_NO_DEV=1
RUN uv sync --frozen --extra fast --group lint --no-editable
RUN UV_PROJECT_ENVIRONMENT=/opt/lint uv sync --frozen --only-group lint
RUN UV_PROJECT_ENVIRONMENT=other uv --project /app sync --frozen --all-extras --all-groups --no-group dev
