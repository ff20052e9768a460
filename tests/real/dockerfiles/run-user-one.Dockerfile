ARG BASE
FROM $BASE
RUN useradd --create-home --shell /bin/bash app
USER app
WORKDIR /home/app
COPY --chown=app:app data ./data
RUN pip install --user six
