FROM scratch
CMD ['a', 'b']
ENTRYPOINT ["a", "b"
VOLUME [/a, /b]
