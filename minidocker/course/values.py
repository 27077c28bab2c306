"""Values as data that JSON can carry, and back: what may travel between the judge and a learner's code.

None, bool, int, float, str are themselves, a list is a list; the rest is `{kind: content}`:

    bytes     {"bytes": base64}                   set, frozenset   {"set": […]}, {"frozenset": […]}
    tuple     {"tuple": […]}                      an iterator      {"iterator": […]}: all that it yields
    dict      {"dict": [[key, value], …]}         a binary stream  {"stream": base64}: what is left to read
    a NamedTuple  {"record": [module, name, [field, …], […]]}
    an exception  {"error": {…}}                  all else: what the caller's function makes of it

A NamedTuple and an exception are made anew only of classes in minidocker, and of those the receiver knows; never by
calling anything else that the sender names.
"""

import base64
import collections
import functools
import importlib
import io
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, NamedTuple

Json = Any
Each = Callable[[Any], list[Any]]
_MOST_YIELDED = 200_000
_PLAIN = (bool, int, float, str)
_OWN = re.compile(r"minidocker(\.[a-z]\w*)*")
_WIDEST = 90  # columns up to which the place in a line is marked
_CELL = "<your cell"  # how the names of compiled cells begin: see `compiled_as`


class Refused(Exception):
    """Something that cannot travel, or must not."""


class Trace(NamedTuple):
    """Where an error was raised in a learner's cell: line 0 where it was not. `kind` is the class's own name.

    `source` is that line; of a SyntaxError a second one marks the place.
    """

    kind: str
    text: str
    line: int
    source: str


def compiled_as(name: str) -> str:
    """Return the file name to compile a learner's cell by, so that errors are found in it."""
    return f"{_CELL} {name}>"


@functools.lru_cache(256)
def compiled(source: str, file: str) -> CodeType:
    """Return a cell compiled, once: a grader runs the same set-up and tests for many learners.

    Raises: SyntaxError, ValueError.
    """
    return compile(source, file, "exec", dont_inherit=True)


def pack(value: Any, other: Callable[[Any], Json]) -> Json:
    """Return a value as data; what is none is given to `other`. Raises: Refused."""

    def each(items: Any) -> list[Json]:
        return [pack(item, other) for item in items]

    if value is None:
        return None
    for plain in _PLAIN:
        if isinstance(value, plain):
            return value if type(value) is plain else plain(value)
    for kind, convert in _CONTAINERS:
        if isinstance(value, kind):
            return convert(value, each)
    if isinstance(value, (io.RawIOBase, io.BufferedIOBase)) and value.readable():
        return {"stream": _base64(value.read() or b"")}
    if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
        return {"iterator": each(_all(value))}
    return other(value)


def _pack_tuple(value: Any, each: Each) -> Json:
    fields = getattr(type(value), "_fields", None)
    if fields is None:
        return {"tuple": each(value)}
    return {"record": [type(value).__module__, type(value).__qualname__, list(fields), each(value)]}


def _base64(value: Any) -> str:
    return base64.b64encode(value).decode()


# How each kind of value is packed, and how it is made again of what has been unpacked within it.
_CONTAINERS: tuple[tuple[Any, Callable[[Any, Each], Json]], ...] = (
    (list, lambda value, each: each(value)),
    (tuple, _pack_tuple),
    (dict, lambda value, each: {"dict": [each(pair) for pair in value.items()]}),
    ((bytes, bytearray, memoryview), lambda value, _: {"bytes": _base64(value)}),
    (set, lambda value, each: {"set": each(value)}),
    (frozenset, lambda value, each: {"frozenset": each(value)}),
    (BaseException, lambda value, _: {"error": pack_error(value)}),
)
_MAKERS: dict[str, Callable[[Any, Each], Any]] = {
    "bytes": lambda content, _: base64.b64decode(content),
    "stream": lambda content, _: io.BytesIO(base64.b64decode(content)),
    "tuple": lambda content, each: tuple(each(content)),
    "dict": lambda content, each: dict(map(each, content)),
    "set": lambda content, each: set(each(content)),
    "frozenset": lambda content, each: frozenset(each(content)),
    "iterator": lambda content, each: iter(each(content)),
}


def _all(iterator: Iterator[Any]) -> Iterator[Any]:
    for number, item in enumerate(iterator):
        if number >= _MOST_YIELDED:
            raise Refused(f"an iterator yielded {_MOST_YIELDED} values and did not end")
        yield item


def unpack(data: Json, known: dict[str, Any], other: Callable[[dict[str, Any]], Any]) -> Any:
    """Return the value that `data` stands for. Raises: Refused, ValueError, TypeError, KeyError, RecursionError."""

    def each(items: Any) -> list[Any]:
        return [unpack(item, known, other) for item in items]

    if isinstance(data, list):
        return each(data)
    if not isinstance(data, dict):
        return data
    if "mine" in data or "yours" in data:
        return other(data)
    (kind, content), *more = data.items()
    if more:
        raise Refused("two kinds of value at once")
    if kind == "error":
        return unpack_error(content, known, other)
    if kind == "record":
        module, name, fields, items = content
        return _record(str(module), str(name), [str(field) for field in fields], known)(*each(items))
    if kind not in _MAKERS:
        raise Refused(f"{kind!r} is no kind of value")
    return _MAKERS[kind](content, each)


def _record(module: str, name: str, fields: list[str], known: dict[str, Any]) -> Any:
    """Return the NamedTuple class of that name; for one that is not known here, one with the same fields."""
    found = _class(module, name, known)
    if isinstance(found, type) and issubclass(found, tuple) and list(getattr(found, "_fields", ())) == fields:
        return found
    return collections.namedtuple("Record", fields)


def _class(module: str, name: str, known: dict[str, Any]) -> Any:
    """Return the class of that name in a module of minidocker, or among those known; None where there is none."""
    if module == "exercise":
        return known.get(name)
    if not _OWN.fullmatch(module):
        return None
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
    except ImportError:
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and found.__module__ == module else None


def pack_error(error: BaseException) -> Json:
    """Return an exception as data: the names of its classes, the nearest first, its arguments and its fields."""
    trace = traced(error)
    return {
        "classes": [[kind.__module__, kind.__qualname__] for kind in type(error).__mro__ if kind is not object],
        "args": [_packed_or_shown(arg) for arg in error.args],
        "fields": {name: _packed_or_shown(value) for name, value in vars(error).items() if name[:1] != "_"},
        "filename": _packed_or_shown(getattr(error, "filename", None)),
        "trace": list(trace),
    }


def _packed_or_shown(value: Any) -> Json:
    try:
        return pack(value, lambda thing: repr(thing)[:1000])
    except Exception:  # noqa: BLE001, the text is all that is left to tell
        return f"a {type(value).__name__}"


def traced(error: BaseException) -> Trace:
    """Return what went wrong, and the last line of a learner's cell on the way there."""
    known = getattr(error, "learner", None)
    if isinstance(known, Trace):
        return known
    try:
        text = str(error)
    except Exception:  # noqa: BLE001, an error of the learner's own may not even have a text
        text = ""
    line, source = 0, ""
    if isinstance(error, SyntaxError) and _is_learners(str(error.filename)):
        line, source = error.lineno or 0, _marked(error)
    for frame in traceback.extract_tb(error.__traceback__):
        if _is_learners(frame.filename):
            line, source = frame.lineno or 0, frame.line or ""
    return Trace(type(error).__name__, text[:4000], line, source[:200])


def _is_learners(file: str) -> bool:
    """Say whether a file name is that of a cell which learners write: the set-up and the scene are locked."""
    return file.startswith(_CELL) and file not in (compiled_as("setup"), compiled_as("scene"))


def _marked(error: SyntaxError) -> str:
    """Return the line that cannot be read and, in a second one, Python's mark below the place."""
    text = (error.text or "").rstrip()
    source = text.lstrip()
    begin = (error.offset or 0) - (len(text) - len(source))
    if not 0 < begin <= _WIDEST:
        return source
    end = (error.end_offset or 0) if error.end_lineno == error.lineno else 0
    return f"{source}\n{' ' * (begin - 1)}{'^' * max(1, min(end, _WIDEST) - (error.offset or 0))}"


def unpack_error(data: Json, known: dict[str, Any], other: Callable[[dict[str, Any]], Any]) -> BaseException:
    """Return the exception, of the nearest of its classes that is Python's own, minidocker's or known here.

    Its `learner` is the Trace. Nothing of the class's own is run. Raises: as `unpack`.
    """
    kind = _nearest(data["classes"], known)
    args = [unpack(arg, known, other) for arg in data["args"]]
    name, text, line, source = data["trace"]
    if issubclass(kind, OSError) and len(args) >= 2:
        filename = unpack(data["filename"], known, other)
        error: BaseException = OSError(args[0], args[1], *([filename] if filename is not None else []))
    else:
        error = kind.__new__(kind)
        error.args = tuple(args) if kind.__name__ == name or not text else (str(text),)
    for field, value in data["fields"].items():
        if str(field).isidentifier() and not str(field).startswith("_"):
            error.__dict__[str(field)] = unpack(value, known, other)
    error.__dict__["learner"] = Trace(str(name), str(text), int(line), str(source))
    return error


def _nearest(names: Any, known: dict[str, Any]) -> type[BaseException]:
    import builtins

    for module, name in names:
        found = getattr(builtins, str(name), None) if module == "builtins" else _class(str(module), str(name), known)
        if isinstance(found, type) and issubclass(found, BaseException):
            return found
    return Exception
