# comment
ARG BASE
FROM $BASE

RUN mkdir -p \
  # a comment
  /one \

  /two && \
  touch /one/x
ENV A=b \
    C=d
