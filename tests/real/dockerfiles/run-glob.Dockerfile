ARG BASE
FROM $BASE
COPY data /d
WORKDIR /d
RUN mkdir /out && cp *.txt /out/ && rm -f *.none && cp -r /d/s* /out/
