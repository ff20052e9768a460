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
