FROM busybox

# one
ENV a=1


RNU apt-get update
