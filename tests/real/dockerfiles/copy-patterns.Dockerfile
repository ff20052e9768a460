ARG BASE
FROM $BASE
COPY *.py *.tx? /p/
COPY data/[ab].txt /q/
COPY data/*/c.txt /r/
COPY data* /s/
COPY requirements*.txt nothing*.txt /t/
