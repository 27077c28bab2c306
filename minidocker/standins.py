"""Functions that stand in for the engine's own: a seam for whoever wants to try another version of one.

`replace` puts a function where the engine's is, here. The engine's own programs, a container's shim for one, are fresh
interpreters: `files` are what each of them runs before it works, and there call `replace` again.
"""

import sys

TYPE_CHECKING = False  # see `minidocker.explain`

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

files: list[str] = []  # Python files; only Python's own library and minidocker can be imported in them
LOAD = "from minidocker import standins; standins.load(sys.argv[2:-1]); "  # what a program does with them
_SPARED = "minidocker.course"  # judges the stand-ins, and must not run on them


def load(paths: list[str]) -> None:
    """Run files, each in a namespace of its own. Raises: OSError; what they raise."""
    for path in paths:
        with open(path, encoding="utf-8") as file:
            exec(compile(file.read(), path, "exec"), {"__name__": "standin"})  # noqa: S102, what this is for


def find(name: str) -> "tuple[Any, str, Any]":
    """Return the module or class that has what `name` (`minidocker.image.oci.Index.choose`) stands for, and that.

    Raises: LookupError where there is no such thing; ImportError where its module cannot be imported.
    """
    from importlib import import_module

    parts = name.split(".")
    owner: Any = import_module(parts[0])
    for number, part in enumerate(parts[1:-1], 2):
        if not hasattr(owner, part):
            try:
                import_module(".".join(parts[:number]))
            except ModuleNotFoundError as error:
                if error.name != ".".join(parts[:number]):
                    raise
                raise LookupError(f"there is no {name}") from None
        owner = getattr(owner, part)
    if parts[-1] not in vars(owner):
        raise LookupError(f"there is no {name}")
    return owner, parts[-1], vars(owner)[parts[-1]]


def replace(name: str, function: "Callable[..., Any]") -> "Callable[[], None]":
    """Have `function` called wherever the engine calls what `name` stands for; return what undoes it.

    Also the modules that have imported it by its name get the other one, and those imported later. Raises: as `find`.
    """
    owner, last, original = find(name)
    standin: Any = function
    for kind in (staticmethod, classmethod, property):
        if isinstance(original, kind):
            standin = kind(function)
    setattr(owner, last, standin)
    _put(standin, original)

    def undo() -> None:
        setattr(owner, last, original)
        _put(original, standin)

    return undo


def _put(new: "Any", old: "Any") -> None:
    """Give every module of the engine that knows `old` by some name `new` instead."""
    for name, module in list(sys.modules.items()):
        if name.startswith("minidocker.") and not name.startswith(_SPARED) and module is not None:
            for known in [key for key, value in vars(module).items() if value is old]:
                setattr(module, known, new)
