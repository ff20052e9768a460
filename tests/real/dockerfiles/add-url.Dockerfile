ARG BASE
FROM $BASE
ARG FILES
WORKDIR /w
ADD $FILES/app.py .
ADD --checksum=sha256:9486029051d5075cceb185e01d48a3f3055ae950db83521ec6cb2ff16c09627a --chown=3:4 $FILES/app.py /named/file
ADD --chmod=755 $FILES/script.sh?query=1 $FILES/data/a.txt requirements.txt /some/
ADD $FILES/archive.tar.gz $FILES/with%20space.txt /kept/
ADD $FILES/data/a.txt named
