"""A learner's functions in the real engine, in place of its own.

    with use(parse=mine): …                   a function of this notebook's
    with use("03_pull"): …                    all that is written in a section's notebook
    minidocker --with exercises/03_pull.ipynb run …

What a learner's functions are called for is counted, also in the programs that the engine starts: in files beside the
notes on the course, one for each function, mapped into every process that runs it. A mapping outlives a change of root
and the closing of every descriptor.

    STATE.calls/NAME.py       what the engine's own programs run to have this function
    STATE.calls/NAME.count    how often it was called; there is none where it was never in place

A `with use(…)` begins to count afresh; one command after the other adds to what was counted.
"""

import ast
import functools
import mmap
import os
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from minidocker import standins
from minidocker.course import progress, values
from minidocker.errors import InvalidArgument, MinidockerError

_WORD = 8  # bytes of a count
_LOWEST = ("minidocker.container.", "minidocker.image.", "minidocker.linux.")  # all that the engine's programs import
_NAMED = 4  # functions that are named, where there are more
_active = 0  # how many uses there are, one within the other


class Part(NamedTuple):
    """A function of the engine that an exercise asks for; whether the learner's was last in place, and its calls."""

    name: str
    exercise: str
    mine: bool
    called: int


class Mine(NamedTuple):
    """A learner's function: the exercise, the engine's function, and the source from which it can be made again."""

    exercise: str
    name: str
    setup: str
    source: str
    function: Callable[..., Any]


class use:
    """Put a learner's functions into the engine for the time of a block.

    `sections` are names of sections, or paths of notebooks or of folders with notebooks; `functions` are named by the
    exercise or by the engine's function. Raises, on entering: MinidockerError for what is not there or cannot be run.
    """

    def __init__(self, *sections: str, **functions: Callable[..., Any]) -> None:
        self._sections = sections
        self._functions = functions
        self._afresh = True
        self._undo: list[Callable[[], None]] = []
        self._files: list[str] = []
        self.mine: list[Mine] = []

    def __enter__(self) -> "use":
        """Put them in place."""
        global _active
        found = [mine for section in self._sections for mine in _written(section)]
        found += [_given(name, function) for name, function in self._functions.items()]
        self.mine = list({mine.name: mine for mine in found}.values())
        folder = _folder()
        os.makedirs(folder, exist_ok=True)
        if not _active and self._afresh:
            forget()
        _active += 1
        try:
            for mine in self.mine:
                self._put(folder, mine)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _put(self, folder: str, mine: Mine) -> None:
        count = f"{folder}/{mine.exercise}.count"
        with open(count, "ab") as file:
            file.truncate(_WORD)  # a container that runs may have it mapped: it never gets shorter
        try:
            self._undo.append(standins.replace(mine.name, counting(mine.function, count)))
        except (LookupError, ImportError) as error:
            raise MinidockerError(f"the exercise {mine.exercise} has no place in the engine: {error}") from error
        if mine.source and mine.name.startswith(_LOWEST):
            path = f"{folder}/{mine.exercise}.py"
            with open(f"{path}.{os.getpid()}", "w", encoding="utf-8") as file:
                file.write(standin_source(mine, count))
            os.replace(f"{path}.{os.getpid()}", path)
            standins.files.append(path)
            self._files.append(path)

    def __exit__(self, *_: object) -> None:
        """Put the engine's own back."""
        global _active
        _active -= 1
        while self._undo:
            self._undo.pop()()
        while self._files:
            standins.files.remove(self._files.pop())

    @staticmethod
    def parts() -> list[Part]:
        """Return the functions of the engine that exercises ask for: see `parts`."""
        return parts()


def begin(paths: list[str], say: Callable[[str], None]) -> None:
    """Put what is written in notebooks into the engine for the rest of this process, and say what that is.

    Calls are added to those that were counted before: one command after the other. Raises: as `use`.
    """
    used = use(*paths)
    used._afresh = False
    used.__enter__()
    names = [mine.name.removeprefix("minidocker.") for mine in used.mine]
    if not names:
        say(f"nothing is written in {', '.join(paths)} yet: the engine does all itself")
    elif len(names) <= _NAMED:
        say(f"yours: {', '.join(names)}")
    else:
        say(f"yours: {', '.join(names[:_NAMED])} and {len(names) - _NAMED} more")


def parts() -> list[Part]:
    """Return every function of the engine that an exercise asks for: (name, exercise, mine, called)."""
    from minidocker.course import catalogue

    try:
        exercises = catalogue.load().exercises
    except (MinidockerError, OSError):
        return []
    found = []
    for exercise in exercises:
        if exercise.replaces:
            called = _calls(f"{_folder()}/{exercise.name}.count")
            found.append(Part(exercise.replaces, exercise.name, called >= 0, max(0, called)))
    return found


def counting(function: Callable[..., Any], path: str) -> Callable[..., Any]:
    """Return a function that does what `function` does, and counts its calls in the file at `path`."""
    with open(path, "r+b") as file:
        count = mmap.mmap(file.fileno(), _WORD)

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        struct.pack_into("<Q", count, 0, struct.unpack_from("<Q", count)[0] + 1)
        return function(*args, **kwargs)

    return counted


def arrive(name: str, function: Callable[..., Any], count: str) -> None:
    """Put a learner's function into one of the engine's own programs: what ends every file of `standins.files`."""
    try:
        standins.replace(name, counting(function, count))
    except (ImportError, OSError):
        return  # this program never imports the function's module; or other functions have been put in place since


def standin_source(mine: Mine, count: str) -> str:
    """Return the file that puts a function into the engine's own programs.

    There is no library but Python's own there: an import of the set-up's that fails is passed over.
    """
    lines = []
    for node in ast.parse(mine.setup).body:
        text = ast.get_source_segment(mine.setup, node) or ""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            text = f"try:\n    {ast.unparse(node)}\nexcept ImportError:\n    pass"
        lines.append(text)
    last = mine.name.rpartition(".")[2]
    lines += [mine.source, "from minidocker.course.use import arrive", f"arrive({mine.name!r}, {last}, {count!r})"]
    return "\n".join(lines) + "\n"


def _written(section: str) -> list[Mine]:
    """Return the functions that are written in a section's notebook, or in the notebooks of a folder."""
    from minidocker.course import catalogue
    from minidocker.course.generate import STUB

    found = []
    for path in [path for word in section.split(",") for path in _notebooks(word)]:
        if _can_be_restored(path):
            catalogue.learners(path)  # says how, where it is missing or broken
        for exercise in catalogue.read(path):
            if exercise.replaces and STUB[-1] not in exercise.solution:
                function = _run(exercise.name, exercise.replaces, exercise.setup, exercise.solution)
                source = (exercise.name, exercise.replaces, exercise.setup, exercise.solution)
                found.append(Mine(*source, function))
    return found


def _notebooks(word: str) -> list[str]:
    """Return the notebooks that a word stands for. Raises: InvalidArgument."""
    from minidocker.course import catalogue

    if os.path.isdir(word):
        return sorted(f"{word}/{name}" for name in os.listdir(word) if name.endswith(".ipynb") and name[0] != ".")
    if os.path.exists(word):
        return [word]
    path = f"{catalogue.folder()}/exercises/{word.removesuffix('.ipynb')}.ipynb" if "/" not in word else word
    if os.path.exists(path) or _can_be_restored(path):
        return [path]
    raise InvalidArgument(f"{word!r} is neither a notebook nor a section of the course, such as 03_pull")


def _can_be_restored(path: str) -> bool:
    """Say whether a path is that of a learner's notebook in a course that has its solution."""
    folder, name = os.path.split(os.path.abspath(path))
    course, kind = os.path.split(folder)
    return kind == "exercises" and os.path.exists(f"{course}/solutions/{name}")


def _run(exercise: str, name: str, setup: str, source: str) -> Callable[..., Any]:
    """Return the function that a learner's cell defines. Raises: MinidockerError with what it raises."""
    import linecache

    names: dict[str, Any] = {"__name__": "exercise"}
    file = values.compiled_as(f"for {exercise}")
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    try:
        exec(compile(setup, "<setup>", "exec", dont_inherit=True), names)  # noqa: S102, it is what was asked for
        exec(compile(source, file, "exec", dont_inherit=True), names)  # noqa: S102
        function: Callable[..., Any] = names[name.rpartition(".")[2]]
    except Exception as error:
        raise MinidockerError(f"your {exercise} cannot be used: {type(error).__name__}: {error}") from error
    return function


def _given(name: str, function: Callable[..., Any]) -> Mine:
    """Return a function of a notebook's own, for the exercise, or for the engine's function, of that name."""
    import linecache

    from minidocker.course import catalogue

    found = [e for e in catalogue.load().exercises if name in (e.name, e.replaces.rpartition(".")[2]) and e.replaces]
    if len(found) != 1:
        several = ", ".join(e.name for e in found)
        raise InvalidArgument(f"{name} may be {several}: name the exercise" if several else f"no exercise is {name}")
    exercise = found[0]
    code = getattr(function, "__code__", None)
    source = "".join(linecache.getlines(code.co_filename)) if code else ""
    last = exercise.replaces.rpartition(".")[2]
    if source and function.__name__ != last:
        source += f"\n{last} = {function.__name__}\n"
    return Mine(exercise.name, exercise.replaces, exercise.setup, source, function)


def _folder() -> str:
    return f"{progress.path()}.calls"


def forget(exercise: str = "") -> None:
    """Count the calls of an exercise's function anew, or of all: none of them is in place."""
    folder = _folder()
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if name == f"{exercise}.count" or (not exercise and name.endswith(".count")):
            os.unlink(f"{folder}/{name}")


def _calls(path: str) -> int:
    """Return a count, -1 where there is none."""
    try:
        with open(path, "rb") as file:
            return int.from_bytes(file.read(_WORD), "little")
    except OSError:
        return -1
