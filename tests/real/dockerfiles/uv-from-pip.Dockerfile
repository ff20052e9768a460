ARG BASE
FROM $BASE AS build
RUN pip install uv
WORKDIR /app
COPY project .
RUN uv sync --frozen --no-editable
FROM $BASE
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH
