"""`.dockerignore`: which files of a build context are left out. Pure but for `read`.

Rules are tried in order and the last that matches decides; `!` takes files back. A rule that matches a directory
matches all below it.

See: docker build reference, .dockerignore file; Go, filepath.Match.
"""

import os
import re
import stat
from collections.abc import Iterable
from typing import NamedTuple

from minidocker.errors import InvalidArgument

_FOLDERS = "(?:.*/)?"


class Rule(NamedTuple):
    """One line: a pattern for whole paths below the context, and whether it takes back."""

    pattern: re.Pattern[str]
    keeps: bool


class Ignore:
    """The rules of one context."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self.takes_back = any(rule.keeps for rule in self.rules)

    def excludes(self, path: str) -> bool:
        """Say whether `path`, relative to the context and with slashes, is left out."""
        for rule in reversed(self.rules):
            if rule.pattern.fullmatch(path):
                return not rule.keeps
        return False


def parse(text: str) -> Ignore:
    """Read the rules of a `.dockerignore` file.

    Raises InvalidArgument for a pattern that cannot be meant.
    """
    rules: list[Rule] = []
    for raw in text.removeprefix("\ufeff").split("\n"):
        line = raw.strip()
        if raw.startswith("#") or not line:
            continue
        keeps = line.startswith("!")
        pattern = line[1:].strip() if keeps else line
        if not pattern:
            raise InvalidArgument('.dockerignore: illegal exclusion pattern: "!"')
        below = "(?:/.*)?"  # what matches a folder matches all that is in it
        rules.append(Rule(re.compile(translate(_clean(pattern)) + below, re.DOTALL), keeps))
    return Ignore(rules)


def _clean(pattern: str) -> str:
    """Take `.`, `..` and doubled slashes out, and the slashes at both ends: patterns start at the context."""
    cleaned = os.path.normpath("/" + pattern.lstrip("/"))[1:] if pattern.startswith("/") else os.path.normpath(pattern)
    return cleaned.lstrip("/") or "."


def translate(pattern: str) -> str:
    """Write a pattern as a regular expression: `*` and `?` stay within a name, `**` crosses any number of folders.

    What stands between two `*` of a name, or between two `**`, is looked for once: `(?>…)` takes the first place that
    it finds, since from there on all is within reach that is from a later one. Without that, a pattern such as
    `a*a*a*a*b` takes time that doubles with every star.
    Raises InvalidArgument for more `**` in the middle of names than can be tried in reasonable time.
    """
    out: list[str] = []
    position, inside = 0, 0
    star = folders = -1  # where in `out` are the last `*` of this name, and the last `**`
    while position < len(pattern):
        ch = pattern[position]
        position += 1
        if ch == "*" and pattern[position : position + 1] == "*":
            aligned = not out or out[-1] in ("/", _FOLDERS)
            position += 1 + (pattern[position + 1 : position + 2] == "/")
            star = -1
            if aligned and position < len(pattern):
                folders = _gap(out, folders, _FOLDERS, "(?:.*?/)??")
            else:
                out.append(".*" if position >= len(pattern) else _FOLDERS)
                inside, folders = inside + (position < len(pattern)), -1
        elif ch == "*":
            star = _gap(out, star, "[^/]*", "[^/]*?")
        elif ch == "?":
            out.append("[^/]")
        elif ch == "[":
            position, characters = character_class(pattern, position)
            out.append(characters)
        elif ch == "\\" and position < len(pattern):
            out.append(re.escape(pattern[position]))
            position += 1
        else:
            out.append(re.escape(ch))
        star = -1 if out[-1] == "/" else star
    if inside > 2:
        raise InvalidArgument(f"a pattern with more than two ** in the middle of names: {pattern}")
    return "".join(out)


def _gap(out: list[str], before: int, gap: str, shortest: str) -> int:
    """Add a gap and return its place; what lies between it and the one `before` is then to be looked for once."""
    if before >= 0:
        out[before] = f"(?>{shortest}"
        out.append(")")
    out.append(gap)
    return len(out) - 1


def character_class(pattern: str, position: int) -> tuple[int, str]:
    """Read the `[a-z]` or `[^a-z]` that begins before `position`; return where it ends, and a regular expression.

    Raises InvalidArgument for a class that is empty or never closed, or a range without an end.
    """
    match = re.compile(
        r"(\^?)((?:\\.|[^\\\]-])(?:-(?:\\.|[^\\\]-]))?(?:(?:\\.|[^\\\]-])(?:-(?:\\.|[^\\\]-]))?)*)\]", re.DOTALL
    )
    found = match.match(pattern, position)
    if found is None:
        raise InvalidArgument(f"syntax error in pattern: {pattern}")
    ranges = re.findall(r"(\\.|[^\\])(?:-(\\.|[^\\]))?", found[2], re.DOTALL)
    inside = "".join(_range(low[-1], high[-1:]) for low, high in ranges)
    if not inside:
        return found.end(), r"[^\s\S]" if not found[1] else "[^/]"
    return found.end(), f"(?!/)[{found[1]}{inside}]"


def _range(low: str, high: str) -> str:
    """Write one range of a class; one that runs backwards matches nothing."""
    if high and high < low:
        return ""
    return re.escape(low) + (f"-{re.escape(high)}" if high else "")


def read(context: str, dockerfile: str) -> Ignore:
    """Read `<Dockerfile>.dockerignore` beside the Dockerfile, or else the context's `.dockerignore`."""
    for path in (f"{dockerfile}.dockerignore", f"{context}/.dockerignore"):
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would keep us waiting, a device never end
                continue
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                return parse(file.read())
        except (FileNotFoundError, NotADirectoryError):
            continue
    return Ignore()
