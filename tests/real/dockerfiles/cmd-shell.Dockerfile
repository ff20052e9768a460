ARG BASE
FROM $BASE
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENTRYPOINT exec app
CMD echo $HOME "x"
RUN mkdir /by-bash
