FROM scratch AS one
CMD ["from", "one"]
FROM one
ENTRYPOINT ["own"]
