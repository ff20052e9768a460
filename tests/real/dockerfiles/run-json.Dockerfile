ARG BASE
FROM $BASE
RUN ["mkdir", "-p", "/json/$HOME"]
RUN ["touch", "/json/a b"]
