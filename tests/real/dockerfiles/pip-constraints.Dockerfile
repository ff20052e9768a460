ARG BASE
FROM $BASE
COPY requirements.txt constraints.txt /r/
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN pip3 install -q -c /r/constraints.txt -r /r/requirements.txt && pip cache purge || true
