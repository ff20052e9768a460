ARG BASE UV
FROM $UV AS uv
FROM $BASE
COPY --from=uv /uv /uvx /bin/
ENV UV_LINK_MODE=copy
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache/uv \
    --mount=type=bind,source=project/uv.lock,target=uv.lock \
    --mount=type=bind,source=project/pyproject.toml,target=pyproject.toml \
    uv sync --locked --no-install-project
COPY project /app
RUN --mount=type=cache,target=/root/.cache/uv uv sync --locked
ENV PATH=/app/.venv/bin:$PATH
