FROM scratch
ENV a=1 b="two words" c=three\ words d='$a' e="$a" f=
ENV old  the   "old" form $a
ENV g=${a:-x} h=${nope:-y} i=${nope:+z}j k="${a:+set}" l=$a$b
ENV a=changed m=$a
LABEL one=1 "two words"="and $a" three='$a'
LABEL old style label
MAINTAINER  Some One <one@example.org>
EXPOSE 80 53/udp 1000-1002/tcp 443
ENV ports="8080 8081/udp"
EXPOSE $ports
VOLUME /a /b
VOLUME ["/c d", "/e"]
WORKDIR /one
WORKDIR two/$a
WORKDIR ../three/
USER $a:grp
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=1m30s --timeout=5s --retries=4 CMD curl -f http://localhost/ || exit 1
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
CMD echo $HOME
ENTRYPOINT ["/entry", "a\tb", "\u00e9"]
ONBUILD RUN echo "later"  \
  and more
ONBUILD copy . /app
