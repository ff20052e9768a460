ARG BASE
FROM $BASE AS build
COPY --chown=1000:1000 data /out/data
RUN mkdir -p /out/empty && chmod 700 /out/empty && ln -s data/a.txt /out/link
FROM $BASE
COPY --from=build /out /result
COPY --from=0 /out/data/a.txt /single
COPY --from=build --chown=5:6 /out/data /owned
