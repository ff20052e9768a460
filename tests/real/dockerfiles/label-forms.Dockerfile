ARG BASE
FROM $BASE
LABEL a=b "c d"="e f" g=h\
 i=j
LABEL single value here
MAINTAINER Some Body <some@body.example>
