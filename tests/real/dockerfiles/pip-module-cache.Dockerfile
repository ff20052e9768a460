ARG BASE
FROM $BASE
COPY requirements.txt /r/
RUN --mount=type=cache,target=/root/.cache/pip python -m pip install -r /r/requirements.txt && rm -rf /r
