"""How the engine's long stories tell what they are doing; `minidocker.cli` draws it, a notebook draws it otherwise."""

from collections.abc import Callable
from typing import NamedTuple


class Progress(NamedTuple):
    """One piece of news, shaped like a line of docker's JSON progress stream.

    `id` is the short digest of a layer, or a tag, or empty for news about the whole; `current` and `total` are bytes,
    0 where they are not known.
    """

    id: str
    status: str
    current: int = 0
    total: int = 0


Report = Callable[[Progress], None]


def silent(_news: Progress) -> None:
    """Tell nobody."""
