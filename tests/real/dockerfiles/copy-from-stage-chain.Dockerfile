ARG BASE
FROM $BASE AS a
RUN mkdir /x && touch /x/from-a
FROM a AS b
RUN touch /x/from-b
FROM scratch AS unused
COPY data /
FROM a
COPY --from=b /x/from-b /y/
ENV LAST=1
