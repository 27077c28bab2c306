FROM scratch
HEALTHCHECK none
