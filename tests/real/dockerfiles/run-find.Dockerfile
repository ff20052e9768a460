ARG BASE
FROM $BASE
COPY data /d
COPY other /o
RUN mkdir -p /d/__pycache__/deep /o/x/__pycache__ && touch /d/__pycache__/a.pyc /o/x/__pycache__/b.pyc /o/c.pyo
RUN find /d /o -type d -name __pycache__ -exec rm -rf {} +
RUN find /o -depth \( -type f -a \( -name '*.pyc' -o -name '*.pyo' \) \) -exec rm -f '{}' \;
RUN find /d -name 'b*' -delete && find /d -maxdepth 1 -type f ! -name a.txt -exec chmod 600 {} +
RUN mkdir -p /e/empty/er /e/full && touch /e/full/x && find /e -type d -empty -delete
RUN find / -name nothing-like-this -delete ; find /o -mindepth 2 -name 'd.*' -exec chown 5:6 {} \;
RUN find /o -type d -name sub -exec rm -rf {} \; || true
WORKDIR /d
RUN find . -path './sub/*' -name keep.txt -prune -o -type f -name 'c*' -exec touch {} + && ls -la && cat a.txt
