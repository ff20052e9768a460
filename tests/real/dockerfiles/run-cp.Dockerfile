ARG BASE
FROM $BASE
COPY data shared /d/
COPY script.sh secret.pem /d/
RUN cp /d/script.sh /copy.sh && cp -r /d /e && cp -a /d/. /f/ || true
RUN mkdir /g && cp -a /d/sub /g/ && cp -rp /d/secret.pem /d/in.txt /g
RUN cp /etc/hostname /h1 2>/dev/null || true
RUN cp -r /etc/apt /apt-copy
