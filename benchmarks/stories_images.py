"""Images: pull, push, save, load, commit."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator

from measure import OURS, Story, Teller, run, timed
from peers import running_registry
from setting import Client, Setting, commands, layered, tellers

KEYS = ("pull", "pull-limit", "pull-eight", "pull-layers", "push", "commit", "save", "load")
LIMIT = (
    "of 0.67 s, 0.09 are the start of a command, 0.2 the system calls for 6,700 files and 0.2 the Python between them: "
    "[docs/decisions/0013](docs/decisions/0013-image-travel.md)"
)
CHANGES = "mkdir /changed; n=0; while [ $n -lt 1000 ]; do echo $n > /changed/$n; n=$((n+1)); done"


def stories(made: Setting) -> Iterator[Story]:
    """Yield them in the order of the table."""
    debian, eight = made.name("debian:bookworm"), made.name("eight:12")
    pulling = {**_pull(made, debian), "podman": _pull_by_podman(made, debian), "skopeo": lambda: _skopeo(made, debian)}
    yield Story("pull", "pull of `debian:bookworm`, one layer of 6,700 files", 0.40, pulling)
    limits = {OURS: lambda: _pull(made, debian)[OURS](), "the limit": lambda: _limit(made, _layer(made))}
    yield Story(
        "pull-limit",
        "the same, against the slower of decompressing and writing",
        1.3,
        limits,
        ("the limit",),
        why=LIMIT,
    )
    yield Story("pull-eight", "pull of eight layers of 12 MB", 0.40, _pull(made, eight))
    yield _growing(made)
    for client in made.both.values():
        client("pull", "-q", eight)
    yield Story("push", "push of the same to an empty registry", 0.60, _push(made, eight))
    for client in made.both.values():
        client("rmi", "-f", eight)
    _tag_again(made, debian)
    yield Story("commit", "`commit` after 1,000 changed files", 0.6, _commit(made))
    yield Story("save", "`save debian:bookworm`", 0.6, _save(made))
    yield Story("load", "`load` of the same", 0.6, _load(made))


def _pull(made: Setting, image: str) -> dict[str, Teller]:
    def tell(client: Client) -> float:
        for name in (image, image.rpartition("/")[2]):
            client("rmi", "-f", name, check=False)
        return timed(lambda: client("pull", "-q", image))

    return tellers(made.both, tell)


def _pull_by_podman(made: Setting, image: str) -> Teller:
    def tell() -> float:
        made.podman("rmi", "-f", image, image.rpartition("/")[2], check=False)
        return timed(lambda: made.podman("pull", "-q", "--tls-verify=false", image))

    return tell


def _tag_again(made: Setting, debian: str) -> None:
    """Give each engine the short name back that pulls take away, or `save` finds no image of that name."""
    for client in made.both.values():
        client("pull", "-q", debian)
        client("tag", debian, "debian:bookworm")


def _growing(made: Setting) -> Story:
    """Return the pull of sixteen layers, and keep how it grows from one on."""
    found: dict[str, list[tuple[int, float]]] = {who: [] for who in (*made.both, "the limit")}
    for layers in (1, 2, 4, 8, 16):
        name, context = made.name(f"layers:{layers}"), layered(made.folder("layers"), layers, 6_000_000)
        made.minidocker("build", "-q", "-t", name, context)
        made.minidocker("push", name)
        for who, tell in _pull(made, name).items():
            found[who].append((layers, min(tell() for _ in range(2))))
        made.minidocker("rmi", "-f", name)
        packed = f"{made.base}/layers-{layers}.tar.gz"
        run(["tar", "-czf", packed, "-C", context, "."])
        found["the limit"].append((layers, min(_limit(made, packed) for _ in range(3))))
    made.series["layers"] = found
    return Story("pull-layers", "pull of sixteen layers of 6 MB", 0.40, _pull(made, made.name("layers:16")))


def _skopeo(made: Setting, image: str) -> float:
    """Let skopeo copy, which verifies the layer but does not unpack it."""
    folder = made.folder("skopeo")
    return timed(lambda: run(["skopeo", "copy", "--src-tls-verify=false", f"docker://{image}", f"dir:{folder}"]))


def _layer(made: Setting) -> str:
    """Return debian's packed layer, as the registry has it."""
    found = run(["find", f"{made.registry.base}/data", "-name", "data", "-size", "+20M"]).split()
    return next(path for path in sorted(found, key=os.path.getsize, reverse=True) if _first_bytes(path) == b"\x1f\x8b")


def _first_bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(2)


def _limit(made: Setting, packed: str) -> float:
    """Return how long the slower of two takes: to decompress by the fastest library, to write the files by tar.

    The files go where no others were deleted just now, which on ext4 would make it slower by seconds: see
    `minidocker.image.unpacked.spread`. The limit is to be one for whoever knows that, too.
    """
    from isal import igzip

    from minidocker.image.unpacked import spread

    os.makedirs(f"{made.base}/limits", exist_ok=True)
    spread(f"{made.base}/limits")
    archive = f"{made.base}/{os.path.basename(os.path.dirname(packed))}-{os.path.basename(packed)}.tar"
    out = made.folder(f"limits/{os.urandom(4).hex()}")

    def decompress() -> None:
        with igzip.open(packed) as file:
            while file.read(1 << 20):
                pass

    seconds = timed(decompress)
    if not os.path.exists(archive):
        with open(archive, "wb") as file:
            subprocess.run(["gzip", "-dc", packed], stdout=file, check=True)  # it stays in memory, too
    seconds = max(seconds, timed(lambda: run(["tar", "-xf", archive, "-C", out])))
    shutil.rmtree(out)
    return seconds


def _push(made: Setting, image: str) -> dict[str, Teller]:
    """Push to a registry that has been started for it, and is ended after."""

    def tell(client: Client) -> float:
        registry = running_registry({})
        try:
            name = f"{registry.host}/eight:12"
            client("tag", image, name)
            seconds = timed(lambda: client("push", name))
            client("rmi", name)
            return seconds
        finally:
            registry.close()

    return tellers(made.both, tell)


def _commit(made: Setting) -> dict[str, Teller]:
    def tell(client: Client) -> float:
        client("run", "--name", "changed", "--network", "none", "busybox", "sh", "-c", CHANGES)
        seconds = timed(lambda: client("commit", "changed", "changed:1"))
        client("rm", "changed")
        client("rmi", "changed:1")
        return seconds

    return tellers(made.both, tell)


def _save(made: Setting) -> dict[str, Teller]:
    return commands(made.both, "save", "-o", f"{made.base}/saved.tar", "debian:bookworm")


def _load(made: Setting) -> dict[str, Teller]:
    """Load docker's own archive, under a name that goes again; what it is made of must not be there yet."""
    made.docker("save", "-o", f"{made.base}/load.tar", "debian:bookworm")

    def tell(client: Client) -> float:
        for name in (made.name("debian:bookworm"), "debian:bookworm"):
            client("rmi", "-f", name, check=False)
        time.sleep(0.1)
        return timed(lambda: client("load", "-i", f"{made.base}/load.tar"))

    return tellers(made.both, tell)
