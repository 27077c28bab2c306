RUN x
FROM busybox
