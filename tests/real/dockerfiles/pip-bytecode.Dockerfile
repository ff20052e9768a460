ARG BASE
FROM $BASE
RUN python -m venv --without-pip /opt/v && pip install --compile --target /opt/t click && pip install --no-compile --target /opt/n six
WORKDIR /app
COPY project/src .
COPY --chmod=640 app.py old/app.py
RUN python -m compileall -q /app
USER 1000
RUN python -m compileall -q nowhere demo || true
