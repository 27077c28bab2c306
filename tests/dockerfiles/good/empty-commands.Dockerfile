FROM scratch
ENV a=""
CMD []
ENTRYPOINT []
