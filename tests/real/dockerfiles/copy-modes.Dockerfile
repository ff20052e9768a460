ARG BASE
FROM $BASE
COPY script.sh secret.pem shared /modes/
COPY shared /modes2
COPY shared/in.txt /modes3/
