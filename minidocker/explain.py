"""What `minidocker --explain` prints: each step as the kernel sees it, beside the shell line that does the same.

Whoever carries out a step calls `step` just before it. By default nobody listens and it costs one comparison.
"""

# As in `typing`, whose import a command's first steps do without: docs/decisions/0002-start-up.md.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable

    Listener = Callable[[str, str], None]

_listener: "Listener | None" = None


def listen(listener: "Listener | None") -> None:
    """Hand every following step to `listener(kernel, shell)`; `None` stops it."""
    global _listener
    _listener = listener


def listening() -> bool:
    """Say whether anybody listens, for callers whose text is costly to make."""
    return _listener is not None


def step(kernel: str, shell: str = "") -> None:
    """Tell one step: `kernel` as a system call or request, `shell` as the command line that would do the same."""
    if _listener is not None:
        _listener(kernel, shell)


def shell(*words: str) -> str:
    """Return words as a shell takes them for one command; nothing where nobody listens, for whom they would be put."""
    if _listener is None:
        return ""
    import shlex

    return shlex.join(words)
