ARG BASE
FROM $BASE
RUN mkdir /real && ln -s real /alias
COPY app.py /alias/app.py
COPY data /alias/data
WORKDIR /alias/w
