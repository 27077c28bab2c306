ARG base=scratch
ARG version=1.2
FROM ${base}
ARG version
ARG other=${version}.3 third="a b"
ENV v=$version o=$other t=$third
LABEL unset=x${base}x
