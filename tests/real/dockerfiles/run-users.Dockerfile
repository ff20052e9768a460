ARG BASE
FROM $BASE
RUN groupadd -r app && useradd -r -g app app
RUN useradd -m -u 1000 -s /bin/bash alice
RUN groupadd -g 3000 team && useradd --create-home --uid 1234 --gid 3000 --groups app,team --shell /usr/sbin/nologin --comment "Bob B" bob
RUN useradd --no-create-home --system --home-dir /srv/x sys2
RUN useradd -ms /bin/sh carol && usermod -aG team carol
RUN groupadd --gid=1500 extra && useradd -M -N -g extra eve && useradd -U -l -u 999999 big
RUN groupadd -f extra
RUN mkdir /srv/app && chown -R carol:team /srv/app
USER carol
RUN touch /srv/app/mine
