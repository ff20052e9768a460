ARG BASE
FROM $BASE
COPY data /d
COPY script.sh shared /s/
RUN chmod 700 /d && chmod -R go-rwx,u+X /d/sub && chmod a+x /d/a.txt && chmod -R 755 /s
RUN chmod u=rw,go=r /d/b.txt && chmod +t /d && chmod g+s /d
