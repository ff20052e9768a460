ARG BASE
FROM $BASE
RUN ln -s /usr/bin/env /env && ln -s a.txt /tmp/b && ln -sf /x /env && ln -s /etc/passwd /etc/group /srv/
RUN ln -sfn /new /env
