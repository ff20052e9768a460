ARG BASE
FROM $BASE
RUN mkdir /home/u && chown 1000:1000 /home/u
ENV HOME=/home/u
USER 1000
RUN pip install --user six click
