ARG BASE
FROM $BASE AS build
RUN python3 -m venv --without-pip /opt/venv && mkdir /src
RUN python3 -m venv /opt/tools && /opt/tools/bin/pip install click
FROM $BASE
COPY --from=build /opt/tools /opt/tools
COPY --from=build --chown=1000 /opt/venv /home/venv
ENV PATH="/opt/tools/bin:$PATH"
USER 1000
