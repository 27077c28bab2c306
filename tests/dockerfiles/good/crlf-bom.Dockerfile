# syntax=docker/dockerfile:1
FROM scratch
ENV a=1 \
  b=2
CMD ["x"]
