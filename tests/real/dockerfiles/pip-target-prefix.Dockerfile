ARG BASE
FROM $BASE
RUN pip install --target=/opt/t six && pip install --prefix /opt/p click
