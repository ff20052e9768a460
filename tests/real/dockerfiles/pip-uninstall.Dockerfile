ARG BASE
FROM $BASE
RUN pip install click six && pip uninstall -y click not-there
RUN python -m venv /opt/v && . /opt/v/bin/activate && pip install idna six && pip uninstall --yes idna
RUN python -m pip uninstall -y six pip
