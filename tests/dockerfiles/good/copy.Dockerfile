FROM busybox AS a
COPY --chown=1:2 --chmod=0755 a b /c/
COPY ["with space", "/d/"]
FROM scratch
COPY --from=a --link /x /y
COPY --from=0 /x /y
ADD --checksum=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 http://example.org/a /b
ADD a.tar.gz *.txt /
RUN --network=none true
