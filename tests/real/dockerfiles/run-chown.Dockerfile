ARG BASE
FROM $BASE
COPY data /d
RUN chown -R www-data:www-data /d && chown 5 /d/a.txt && chown :6 /d/b.txt && chgrp -R staff /d/sub
