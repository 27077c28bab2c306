FROM busybox
USER --x=1 a
