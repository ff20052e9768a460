ARG BASE UV
FROM $UV AS uv
FROM $BASE
COPY --from=uv /uv /uvx /bin/
ENV UV_LINK_MODE=copy
WORKDIR /app
COPY requirements.txt constraints.txt ./
RUN uv pip install --system -r requirements.txt -c constraints.txt
RUN uv venv /opt/v && VIRTUAL_ENV=/opt/v uv pip install --no-cache click
RUN uv pip install --python /opt/v "idna<4"
RUN uv pip install --target /opt/t six
COPY project/pyproject.toml project/
RUN uv venv /opt/p && uv pip install --python /opt/p -r project/pyproject.toml --extra fast
RUN uv pip sync --python /opt/p requirements.txt && uv pip sync --system requirements.txt
