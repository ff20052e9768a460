ARG BASE UV
FROM $UV AS uv
FROM $BASE
COPY --from=uv /uv /uvx /bin/
ENV UV_LINK_MODE=copy
WORKDIR /app
COPY project .
RUN uv sync --frozen --all-groups
RUN uv sync --frozen --no-dev
RUN uv venv /opt/mine && VIRTUAL_ENV=/opt/mine uv pip install packaging
RUN UV_PROJECT_ENVIRONMENT=/opt/mine uv sync --frozen --inexact --no-install-project --no-default-groups
