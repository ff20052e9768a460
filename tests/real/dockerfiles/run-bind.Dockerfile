ARG BASE
FROM $BASE AS other
RUN mkdir -p /made/deep && touch /made/deep/file && chmod 600 /made/deep/file
FROM $BASE
WORKDIR /w
RUN --mount=type=bind,source=data,target=/src cp -r /src /w/copied
RUN --mount=type=bind,from=other,source=/made,target=in cp -r in/. out
RUN --mount=from=other,target=/all --mount=type=tmpfs,target=/scratch touch /scratch/x && cp /all/made/deep/file /w/file
RUN --mount=type=bind,source=data/sub,target=/opt/new/place,rw touch /opt/new/place/gone && touch /opt/kept
RUN --mount=type=bind,source=requirements.txt,target=/tmp/r.txt pip install -r /tmp/r.txt
