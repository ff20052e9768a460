ARG BASE
FROM $BASE
WORKDIR /app
COPY editable ./
COPY project ./project
COPY <<END list.txt
-e ./project[fast]
idna
END
RUN pip install -e ./src-layout && pip install --no-deps -e /app/legacy
RUN pip install -e flat && pip install -r list.txt
RUN python -m venv /opt/v && /opt/v/bin/pip install -e flat
