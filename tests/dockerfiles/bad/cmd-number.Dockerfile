FROM busybox
CMD [1]
