ARG BASE
FROM $BASE
RUN pip install --no-deps --no-cache-dir jinja2 && pip --version && pip check || true
