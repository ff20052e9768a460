ARG BASE
FROM $BASE
ENV A=1 B="two words" C=$A
ENV D four words here
ENV E=${A:+set} F=${NO:-none} G=\$A PATH=/opt/bin:$PATH
