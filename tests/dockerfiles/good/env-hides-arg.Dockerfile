FROM scratch
ENV v=1
ARG v=hidden
ENV after=$v
