ARG BASE
FROM $BASE
RUN pip install six==1.15.0
RUN pip install 'six>=1.10' packaging
RUN pip install -U six
