FROM scratch
COPY app.py /
COPY data /deep/er
WORKDIR /w
CMD ["/app.py"]
