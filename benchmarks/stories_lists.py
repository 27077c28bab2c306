"""Lists: `images` and `ps -a` with ten entries and with a thousand, beside an interpreter that does nothing."""

import os
import sys
from collections.abc import Iterator

from measure import OURS, Story, run
from setting import COMMAND, Client, Setting, commands

KEYS = ("list-images-10", "list-ps-10", "list-images-1000", "list-ps-1000", "list-images-growth", "list-ps-growth")
LISTS = (("images", ("images",)), ("ps", ("ps", "-a")))
FEW, MANY = 10, 1000
READING = (
    "a container is two small files, 30 µs; one file for all would have to be written by every shim, under a lock: "
    "[docs/decisions/0002](docs/decisions/0002-start-up.md)"
)
IMPORTS = "what is imported takes 15 ms"
ROWS = "a thousand names are read, sorted and put into columns in Python: 10 µs each"
WHY = {"images": ROWS, "ps": READING}


def stories(made: Setting) -> Iterator[Story]:
    """Yield them in the order of the table; docker has the same images and containers."""
    for client in made.both.values():
        for _ in range(FEW):
            client("create", "busybox")
    few = _ours(made, "few")
    yield from _lists(made, few, FEW)
    many = _ours(made, "many")
    _fill(many)
    yield from _lists(made, many, MANY)
    for key, words in LISTS:
        name = f"`{' '.join(words)}` with {MANY:,} entries, against {FEW}"
        both = commands({OURS: many, "with few": few}, *words)
        yield Story(f"list-{key}-growth", name, 1.3, both, ("with few",), 20, why=READING)


def _ours(made: Setting, name: str) -> Client:
    """Return our engine with a store of its own that holds busybox under FEW names and FEW containers."""
    base = made.folder(name)
    client = Client([COMMAND], {"MINIDOCKER_ROOT": f"{base}/root", "MINIDOCKER_RUN": f"{base}/run"})
    os.mkdir(f"{base}/root")
    client("pull", "-q", "busybox")
    for number in range(FEW):
        client("tag", "busybox", f"name{number}")
        client("create", "--name", f"c{number}", "busybox")
    return client


def _fill(client: Client) -> None:
    """Add names and containers, through the engine, in one process: a thousand commands would take minutes."""
    script = (
        "from minidocker import engine; from minidocker.container.options import RunOptions\n"
        "from minidocker.image.reference import parse\n"
        "home = engine.open_engine(); image = home.images.get('busybox')\n"
        f"for n in range({FEW}, {MANY}):\n"
        "    engine.create(home, 'busybox', RunOptions(command=('true',), name=f'c{n}'))\n"
        "    home.images.tag(image, parse(f'name{n}'))\n"
    )
    run([sys.executable, "-c", script], {**os.environ, **client.env})


def _lists(made: Setting, ours: Client, entries: int) -> Iterator[Story]:
    python = Client([sys.executable, "-I", "-c"], {})
    for key, words in LISTS:
        clients = {OURS: ours} | ({"docker": made.docker} if entries == FEW else {})
        both = commands(clients, *words) | commands({"python": python}, "pass")
        name = f"`{' '.join(words)}` with {entries:,} entries"
        yield Story(
            f"list-{key}-{entries}", name, 2.5, both, ("python",), 20, why=WHY[key] if entries == MANY else IMPORTS
        )
