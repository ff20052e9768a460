ARG BASE
FROM $BASE
COPY ["with space.txt", "app.py", "/with space/"]
WORKDIR "/quoted"
