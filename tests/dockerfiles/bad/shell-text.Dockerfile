FROM busybox
SHELL x
