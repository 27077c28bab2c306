"""A Dockerfile's text as logical lines: comments dropped, continuations joined, here-documents attached. Pure.

See: Dockerfile reference, Format, Parser directives, Here-documents.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from minidocker.build import variables
from minidocker.build.words import SPACES, Arguments, arguments, json_array, split_command
from minidocker.errors import DockerfileError

_DIRECTIVE = re.compile(rf"#[{SPACES}]*([a-zA-Z][a-zA-Z0-9]*)[{SPACES}]*=[{SPACES}]*(.+?)[{SPACES}]*$")
_DIRECTIVES = ("escape", "syntax", "check")
_HERE_DOCUMENT = re.compile(r"(\d*)<<(-?)([^<]*)$")
_TAKES_HERE_DOCUMENTS = ("ADD", "COPY", "RUN")
_KEEP_ALL = variables.Rules(keep_quotes=True, keep_escapes=True, keep_unset=True)
_KEEP_UNSET = variables.Rules(keep_unset=True)
_LONGEST_LINE = 65535


class HereDocument(NamedTuple):
    """`<<name` and the lines up to `name`. `expand` is false where the name was quoted, `chomp` is the `-`."""

    name: str
    content: str
    expand: bool
    chomp: bool

    @property
    def text(self) -> str:
        """The content, without leading tabs where `<<-` asked for that."""
        return re.sub(r"(?m)^\t+", "", self.content) if self.chomp else self.content


class Line(NamedTuple):
    """One instruction as it was written: lines `first` to `last` of the file, joined into `text`."""

    first: int
    last: int
    text: str
    keyword: str
    flags: tuple[str, ...]
    rest: str
    escape: str
    documents: tuple[HereDocument, ...] = ()

    def arguments(self) -> Arguments:
        """Cut the rest into arguments. Raises DockerfileError."""
        return arguments(self.keyword, self.rest, self.escape)


class Lines(NamedTuple):
    """Everything a file says, before any instruction is understood."""

    lines: tuple[Line, ...]
    escape: str
    directives: dict[str, str]
    warnings: tuple[str, ...]


def read(text: str) -> Lines:
    """Read a whole file.

    Raises DockerfileError for a bad parser directive, a here-document that does not end, or a line that is too long.
    """
    physical = text.removeprefix("\ufeff").split("\n")
    for number, raw in enumerate(physical, 1):
        if len(raw) > _LONGEST_LINE:
            raise DockerfileError(f"dockerfile line greater than max allowed size of {_LONGEST_LINE}", number)
    directives = _directives(physical)
    reader = _Reader(physical, directives.get("escape", "\\"))
    return Lines(tuple(reader.logical_lines()), reader.escape, directives, tuple(reader.warnings))


def _directives(physical: list[str]) -> dict[str, str]:
    """Read the `# name=value` lines at the very top. The first line that is none ends them."""
    found: dict[str, str] = {}
    for number, raw in enumerate(physical, 1):
        match = _DIRECTIVE.match(raw.rstrip("\r").lstrip(SPACES))
        name = match[1].lower() if match else ""
        if not match or name not in _DIRECTIVES:
            break
        if name in found:
            raise DockerfileError(f"only one {name} parser directive can be used", number)
        if name == "escape" and match[2] not in ("\\", "`"):
            raise DockerfileError(f"invalid escape token '{match[2]}' does not match ` or \\", number)
        found[name] = match[2]
    return found


class Joined(NamedTuple):
    """One logical line. `end` is the index of the physical line behind it."""

    text: str
    end: int
    warnings: tuple[str, ...] = ()


def join(physical: Sequence[str], start: int, escape: str) -> Joined:
    """Join the line at index `start` with those that continue it. A comment gives an empty text.

    Comments and empty lines between a line and its continuation are dropped; the empty ones are warned of.
    """
    line = physical[start].rstrip("\r").lstrip(SPACES)
    part, continued = _cut("" if line.startswith("#") else line, escape)
    parts = [part]
    end = start + 1
    warnings: list[str] = []
    while continued and end < len(physical):
        line = physical[end].rstrip("\r")
        end += 1
        if line.lstrip(SPACES).startswith("#"):
            continue
        if not line.strip(SPACES):
            if end < len(physical):
                warnings.append(f"Empty continuation line on line {end}")
            continue
        part, continued = _cut(line, escape)
        parts.append(part)
    return Joined("".join(parts), end, tuple(warnings))


def _cut(line: str, escape: str) -> tuple[str, bool]:
    """Take the continuation character off; say whether there was one.

    It is an escape character that is the last on its line, but for blanks, and is not itself escaped.
    """
    match = re.search(rf"(?:^|(?<=[^{re.escape(escape)}])){re.escape(escape)}[ \t]*$", line)
    return (line[: match.start()], True) if match else (line, False)


class _Reader:
    """Walks once through the physical lines."""

    def __init__(self, physical: list[str], escape: str) -> None:
        self.physical = physical
        self.escape = escape
        self.position = 0
        self.warnings: list[str] = []

    def logical_lines(self) -> Iterator[Line]:
        """Return one line per instruction."""
        while self.position < len(self.physical):
            first = self.position + 1
            text, self.position, warnings = join(self.physical, self.position, self.escape)
            self.warnings += warnings
            if not text.strip(SPACES):
                continue
            try:
                yield self._line(first, text)
            except DockerfileError as error:
                raise DockerfileError(str(error), error.line or first) from None

    def _line(self, first: int, text: str) -> Line:
        keyword, flags, rest = split_command(text)
        line = Line(first, self.position, text.strip(SPACES), keyword.upper(), flags, rest, self.escape)
        if "<<" not in text or not _may_hold_documents(line):
            return line
        documents = tuple(self._document(opening, first) for opening in _openings(text))
        return line._replace(last=self.position, documents=documents)

    def _document(self, opening: HereDocument, first: int) -> HereDocument:
        """Read the lines of a here-document up to its name. They are taken as they are, comments and all."""
        content: list[str] = []
        while self.position < len(self.physical):
            raw = self.physical[self.position]
            self.position += 1
            end = raw.rstrip("\r")
            if (end.lstrip("\t") if opening.chomp else end) == opening.name:
                return opening._replace(content="".join(content))
            content.append(raw + "\n")
        raise DockerfileError(f"unterminated heredoc: no line says {opening.name}", first)


def _may_hold_documents(line: Line) -> bool:
    """ADD, COPY and RUN may, also behind ONBUILD, unless their arguments are a JSON array."""
    keyword, rest = line.keyword, line.rest
    if keyword == "ONBUILD":
        keyword, _, rest = split_command(rest)
    return keyword.upper() in _TAKES_HERE_DOCUMENTS and json_array(rest) is None


def _openings(text: str) -> list[HereDocument]:
    """Find the `<<name` words of a line, in order. Those inside quotes are none."""
    try:
        words = variables.expand_words(text, {}, rules=_KEEP_ALL)
    except DockerfileError:
        return []  # The shell may understand what is no proper word here.
    return [opening for word in words if (opening := here_document(word)) is not None]


def here_document(word: str) -> HereDocument | None:
    """Read `<<name`, `<<-name` or `<<"name"`; `None` for any other word."""
    match = _HERE_DOCUMENT.match(word)
    if match is None or not match[3]:
        return None
    bare = variables.expand_words(match[3], {}, rules=_KEEP_UNSET)
    if len(bare) != 1:
        return None
    quoted = variables.expand_words(match[3], {}, rules=_KEEP_ALL)
    return HereDocument(bare[0], "", expand=quoted == bare, chomp=match[2] == "-")
