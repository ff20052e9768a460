ARG BASE
FROM $BASE
COPY data /d
RUN mv /d /e && mv /e/a.txt /e/z.txt && mkdir /m && mv /e/b.txt /e/sub /m/
RUN mv /usr/share/misc /moved
