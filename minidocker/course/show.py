"""Show the engine's own source in a notebook, live: what is read is what runs."""

import importlib
import inspect
import os
import textwrap
from typing import Any

from minidocker.errors import MinidockerError

_PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_STYLE = "white-space:pre;overflow-x:auto;padding:0 5px;font-size:var(--jp-code-font-size)"  # no line is broken


class NoSuchSymbol(MinidockerError):
    """A dotted name that leads to nothing in the engine."""


class Source:
    """Some of the engine's source: coloured in a notebook, plain text everywhere else."""

    def __init__(self, title: str, text: str) -> None:
        """Keep what is shown; `title` says where it stands."""
        self.title, self.text = title, text

    def __repr__(self) -> str:
        """Return the plain text."""
        return f"# {self.title}\n{self.text}"

    def _repr_html_(self) -> str:
        from html import escape

        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import PythonLexer

        formatter = HtmlFormatter(nobackground=True, cssclass="highlight", prestyles=_STYLE)
        return f"<p><small>{escape(self.title)}</small></p>{highlight(self.text, PythonLexer(), formatter)}"


def show(*symbols: Any) -> Source:
    """Return the source of functions, classes or modules of the engine, by dotted name or as objects.

    Raises: NoSuchSymbol.
    """
    found = [resolve(symbol) if isinstance(symbol, str) else symbol for symbol in symbols]
    sources = [_source(thing) for thing in found]
    return Source(", ".join(title for title, _ in sources), "\n\n".join(text for _, text in sources))


def resolve(name: str) -> Any:
    """Return what a dotted name such as `minidocker.container.rootfs.pivot` stands for. Raises: NoSuchSymbol."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        try:
            thing: Any = importlib.import_module(module)
        except ModuleNotFoundError as missing:
            if not missing.name or not f"{module}.".startswith(f"{missing.name}."):
                raise
            continue
        for part in parts[end:]:
            if not hasattr(thing, part) and part not in getattr(thing, "__annotations__", {}):
                raise NoSuchSymbol(f"{name}: {thing.__name__} has no {part}")
            thing = getattr(thing, part, None)
        return thing
    raise NoSuchSymbol(f"{name}: there is no module of that name")


def _source(thing: Any) -> tuple[str, str]:
    """Return where a thing stands, and its text."""
    target: Any = thing.fget if isinstance(thing, property) else thing
    target = inspect.unwrap(target)
    try:
        path = inspect.getsourcefile(target) or ""
        lines, first = inspect.getsourcelines(target)
    except TypeError:
        raise NoSuchSymbol(f"{thing!r} has no source of its own: name the class or module that holds it") from None
    return f"{os.path.relpath(path, _PROJECT)}, line {max(first, 1)}", textwrap.dedent("".join(lines)).rstrip()
