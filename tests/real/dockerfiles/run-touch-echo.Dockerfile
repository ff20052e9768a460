ARG BASE
FROM $BASE
ENV V=val
RUN touch /t1 /t2 && echo hello $V > /t1 && echo 'more  text' >> /t1 && echo -n x > /t3 && printf done > /t4
RUN cd /tmp && touch here && export Y=z && touch $Y && X=1 mkdir q
