"""Builds: small steps, the cache, big and many files. Docker has two builders; ours is held against the faster."""

import os
from collections.abc import Iterator

from measure import Story, Teller, run, timed
from setting import Client, Setting, tellers

KEYS = ("build", "build-cached", "copy-files", "copy-1GB")
SEVEN = """\
FROM debian:bookworm
ENV GREETING=hello
WORKDIR /srv
COPY page .
RUN echo $GREETING > greeting
RUN mkdir -p data && touch data/one
RUN ls -l > listing
CMD ["cat", "greeting"]
"""
NETWORK = (
    "each RUN gets a network of its own, 20 ms of which `nft` needs to say whether the rules are still there; against "
    "docker's classic builder alone it is met"
)
BIG = (
    "to hash it twice and to compress it takes 3.4 s of processor time: "
    "[docs/decisions/0014](docs/decisions/0014-build-speed.md)"
)
DOCKERS = ("docker", "docker, BuildKit")


def stories(made: Setting) -> Iterator[Story]:
    """Yield them in the order of the table."""
    seven = made.folder("seven")
    _write(f"{seven}/Dockerfile", SEVEN)
    _write(f"{seven}/page", "a page\n")
    fresh, cached = _build(made, seven, "--no-cache"), _build(made, seven)
    yield Story("build", "`build --no-cache`, seven small steps on debian:bookworm", 0.25, fresh, DOCKERS, why=NETWORK)
    yield Story("build-cached", "the same, all cached", 1.0, cached, DOCKERS)
    yield _growing(made)
    big = made.folder("big")
    _write(f"{big}/Dockerfile", "FROM busybox\nCOPY file /file\n")
    with open(f"{big}/file", "wb") as file:
        for _ in range(1000):
            file.write(os.urandom(500_000) + b"compressible, and so it goes\n" * 17_241)
    name = "`build`: COPY of one file of 1 GB"
    yield Story("copy-1GB", name, 0.6, _build(made, big, "--no-cache"), DOCKERS, 5, why=BIG)


def _growing(made: Setting) -> Story:
    """Return the COPY of ten thousand files, and keep how it grows from a hundred on."""
    found: dict[str, list[tuple[int, float]]] = {}
    for files in (100, 1_000, 10_000):
        context = copying(made, files)
        building = _build(made, context, "--no-cache")
        for who, tell in building.items():
            found.setdefault(who, []).append((files, min(tell() for _ in range(2))))
        limit = min(_copy(context, made.folder("copied")) for _ in range(3))
        found.setdefault("the limit", []).append((files, limit))
    made.series["files"] = found
    del building["docker"]  # it takes twice as long as BuildKit
    return Story("copy-files", "`build`: COPY of a tree of 10,000 small files", 0.6, building, ("docker, BuildKit",))


def _copy(tree: str, folder: str) -> float:
    return timed(lambda: run(["cp", "-r", tree, folder]))


def copying(made: Setting, files: int) -> str:
    """Return a context whose Dockerfile copies a tree of so many small files, a hundred in each folder."""
    context = made.folder(f"tree{files}")
    _write(f"{context}/Dockerfile", "FROM busybox\nCOPY tree /tree\n")
    for number in range(files):
        if number % 100 == 0:
            os.makedirs(f"{context}/tree/{number // 100}")
        _write(f"{context}/tree/{number // 100}/{number}", f"the content of file {number}\n" * 20)
    return context


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _build(made: Setting, context: str, *options: str) -> dict[str, Teller]:
    def tell(client: Client) -> float:
        seconds = timed(lambda: client("build", *options, "-t", "built", context))
        if options:  # what is kept for the cache would fill the disk
            client("rmi", "-f", "built")
        return seconds

    buildkit = made.docker._replace(env={"DOCKER_BUILDKIT": "1"})
    clients = {"minidocker": made.minidocker, "docker": made.docker, "docker, BuildKit": buildkit}
    return tellers(clients, tell)
