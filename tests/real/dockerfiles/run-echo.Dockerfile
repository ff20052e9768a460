ARG BASE
FROM $BASE
RUN echo "a\tb\\nc" > /e1 && echo -n 'x\0101' >> /e1 && echo -e "d" > /e2
RUN printf '%s=%d\n' one 1 two 22 > /p1 && printf "plain\n" >> /p1 && printf '%s %s|' a b c > /p2 && printf '100%%\tq\101' > /p3
SHELL ["/bin/bash", "-c"]
RUN echo "a\tb" > /b1 && echo -e "a\tb\n" >> /b1 && echo -ne '\0101' > /b2
