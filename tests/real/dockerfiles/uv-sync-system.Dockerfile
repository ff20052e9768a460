ARG BASE UV
FROM $UV AS uv
FROM $BASE
COPY --from=uv /uv /uvx /bin/
ENV UV_LINK_MODE=copy
WORKDIR /app
COPY project .
ENV UV_PROJECT_ENVIRONMENT=/usr/local
RUN uv pip install --system packaging
RUN uv sync --frozen --no-dev
