FROM scratch
HEALTHCHECK --start-period=1.5s --interval=500ms cmd ["/check", "it"]
