# escape=`
ARG BASE
FROM $BASE
ENV A=C:\x
RUN mkdir `
  /tick
