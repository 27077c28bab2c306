"""How the text behind an instruction's name is cut into flags and arguments. Pure; no variable is replaced here.

Quotes stay in the words, because what a quote protects is only known when variables are replaced (`variables`).

See: Dockerfile reference, Format.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from minidocker.errors import DockerfileError

# What Unicode calls white space. `str.isspace` would also take the separators U+001C to U+001F.
SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
_BLANKS = re.compile(r"[\t\v\f\r ]+")
_CONTROLS = re.compile("[\x00-\x1f\x7f]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def quote(text: str) -> str:
    """Put text into double quotes, for messages and for the history."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + _CONTROLS.sub(_escape_control, escaped) + '"'


def _escape_control(match: re.Match[str]) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(match[0], f"\\x{ord(match[0]):02x}")


class Arguments(NamedTuple):
    """The arguments of one instruction. `json` says that they were written as a JSON array."""

    words: tuple[str, ...]
    json: bool = False


@cache
def _quoted_word(escape: str) -> re.Pattern[str]:
    """Match one word: anything but space, where quotes and the escape character protect what follows them.

    A quote that is never closed runs to the end, and an escape character at the very end protects nothing.
    """
    e = re.escape(escape)
    return re.compile(rf"(?:{e}.|'[^']*(?:'|$)|\"(?:{e}.|[^\"{e}])*(?:\"|{e}?$)|[^{SPACES}{e}])+|{e}$", re.DOTALL)


def split_words(text: str, escape: str) -> list[str]:
    """Split at spaces outside quotes; quotes and escapes stay in the words."""
    words = _quoted_word(escape).findall(text)
    if words and _ends_in_escape(words[-1], escape):
        words[-1] = words[-1][:-1]
    return [word for word in words if word]


def _ends_in_escape(word: str, escape: str) -> bool:
    """Say whether the last character is an escape character with nothing left to protect."""
    unescaped = re.sub(rf"'[^']*'|{re.escape(escape)}.", "", word, flags=re.DOTALL)
    return unescaped.endswith(escape)


def split_command(line: str) -> tuple[str, tuple[str, ...], str]:
    """Cut an instruction into its name, its flags `--name=value` and the rest."""
    name, *rest = _BLANKS.split(line.strip(SPACES), maxsplit=1)
    flags, arguments = _split_flags(rest[0]) if rest else ([], "")
    return name, tuple(flags), arguments.strip(SPACES)


_FLAG = re.compile(
    rf"[{SPACES}]*(--(?:\\.|\\$|'(?:\\.|[^'\\])*(?:'|\\?$)|\"(?:\\.|[^\"\\])*(?:\"|\\?$)|[^{SPACES}])*)", re.DOTALL
)
_QUOTING = re.compile(r"\\(.)|\\$|'|\"", re.DOTALL)


def _split_flags(text: str) -> tuple[list[str], str]:
    """Take the words that begin with `--` off the front; a lone `--` ends them. Quotes in flags are removed."""
    flags: list[str] = []
    position = 0
    while match := _FLAG.match(text, position):
        position = match.end()
        flag = _unquote(match[1])
        if flag == "--":
            break
        flags.append(flag)
    return flags, text[position:]


def _unquote(word: str) -> str:
    """Remove the quotes and backslashes of a flag. The escape directive means nothing here."""
    out: list[str] = []
    mark = ""
    characters = iter(word)
    for ch in characters:
        if ch == "\\":
            out.append(next(characters, ""))
        elif mark and ch == mark:
            mark = ""
        elif not mark and ch in "'\"":
            mark = ch
        else:
            out.append(ch)
    return "".join(out)


def json_array(text: str) -> tuple[str, ...] | None:
    """Read `["a", "b"]`; `None` for what is not a JSON array at all, which then is a shell command.

    Raises DockerfileError for a JSON array that holds anything but strings.
    """
    import json

    if not text.startswith("["):
        return None
    try:
        items = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    if not all(isinstance(item, str) for item in items):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only")
    return tuple(_SURROGATES.sub("\ufffd", item) for item in items)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def shell_or_json(text: str, _escape: str) -> Arguments:
    """RUN, CMD, ENTRYPOINT, SHELL: a JSON array, or one string for the shell."""
    array = json_array(text)
    if array is not None:
        return Arguments(array, json=True)
    return Arguments((text,) if text else ())


def list_or_json(text: str, escape: str) -> Arguments:
    """ADD, COPY, VOLUME: a JSON array, or words between blanks."""
    array = json_array(text)
    return Arguments(array, json=True) if array is not None else blank_separated(text, escape)


def blank_separated(text: str, _escape: str) -> Arguments:
    """EXPOSE, FROM: words between blanks; quotes mean nothing."""
    return Arguments(tuple(_BLANKS.split(text)) if text else ())


def quoted_words(text: str, escape: str) -> Arguments:
    """ARG: words, which quotes may hold together."""
    return Arguments(tuple(split_words(text, escape)))


def one_string(text: str, _escape: str) -> Arguments:
    """MAINTAINER, STOPSIGNAL, USER, WORKDIR: everything is one argument."""
    return Arguments((text,) if text else ())


def health_check(text: str, escape: str) -> Arguments:
    """HEALTHCHECK: a type, then what RUN takes."""
    match = re.match(rf"([^{SPACES}]+)[{SPACES}]*(.*)", text, re.DOTALL)
    if match is None:
        return Arguments(())
    command = shell_or_json(match[2], escape)
    return Arguments((match[1], *command.words), command.json)


def pairs(text: str, escape: str) -> Arguments:
    """ENV, LABEL: `key=value …`, or the old form `key the whole rest`; keys and values in turn."""
    words = split_words(text, escape)
    if not words:
        return Arguments(())
    if "=" not in words[0]:
        old_form = _BLANKS.split(text, maxsplit=1)
        if len(old_form) < 2:
            raise DockerfileError("must have two arguments")
        return Arguments(tuple(old_form))
    flat: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(f"Syntax error - can't find = in {quote(word)}. Must be of the form: name=value")
        flat += [key, value]
    return Arguments(tuple(flat))


SHAPES: dict[str, Callable[[str, str], Arguments]] = {
    "ADD": list_or_json,
    "ARG": quoted_words,
    "CMD": shell_or_json,
    "COPY": list_or_json,
    "ENTRYPOINT": shell_or_json,
    "ENV": pairs,
    "EXPOSE": blank_separated,
    "FROM": blank_separated,
    "HEALTHCHECK": health_check,
    "LABEL": pairs,
    "MAINTAINER": one_string,
    "RUN": shell_or_json,
    "SHELL": shell_or_json,
    "STOPSIGNAL": one_string,
    "USER": one_string,
    "VOLUME": list_or_json,
    "WORKDIR": one_string,
}


def arguments(keyword: str, text: str, escape: str) -> Arguments:
    """Cut the text behind a keyword into the arguments of that instruction.

    Raises DockerfileError for text that cannot be cut so.
    """
    try:
        return SHAPES.get(keyword, one_string)(text, escape)
    except DockerfileError as error:
        message = str(error)
        raise DockerfileError(f"{keyword} {message}" if message.startswith("must") else message) from None
