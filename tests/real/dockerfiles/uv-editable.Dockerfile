ARG BASE UV
FROM $UV AS uv
FROM $BASE
COPY --from=uv /uv /uvx /bin/
ENV UV_LINK_MODE=copy
WORKDIR /app
COPY editable ./
RUN uv venv /opt/v && VIRTUAL_ENV=/opt/v uv pip install -e ./src-layout -e /app/legacy
RUN uv pip install --system --no-deps -e flat
