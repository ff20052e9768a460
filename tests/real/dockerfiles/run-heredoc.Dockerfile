ARG BASE
FROM $BASE
RUN <<EOF
set -e
mkdir /hd
touch /hd/a
EOF
