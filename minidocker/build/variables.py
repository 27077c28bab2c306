"""Replacing `$name` and `${name…}` in an instruction's words, with the quotes and escapes of a shell. Pure.

See: Dockerfile reference, Environment replacement; POSIX, Shell Command Language, Parameter Expansion.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from minidocker.build.words import SPACES, quote
from minidocker.errors import DockerfileError

_SPECIAL = "@*#?-$!0"
_LARGEST = 1 << 20  # characters that variables may become in one word: twenty lines that double one make a million
_LARGEST_MATCHED = 1 << 16  # of a value that is searched with a `*`, which takes time that grows with its square


class Rules(NamedTuple):
    """What is left as it stands. A here-document keeps its quotes, the search for here-documents keeps everything."""

    keep_quotes: bool = False
    keep_escapes: bool = False
    keep_unset: bool = False
    quotes_are_text: bool = False


DEFAULT_RULES = Rules()
HERE_DOCUMENT = Rules(quotes_are_text=True)


def expand(word: str, variables: Mapping[str, str], escape: str = "\\", rules: Rules = DEFAULT_RULES) -> str:
    """Replace the variables in `word` and remove its quotes.

    Raises DockerfileError for a quote or brace that is never closed, an unknown modifier, or a failed `${name:?text}`.
    """
    return "".join(text for text, _ in _pieces(word, variables, escape, rules))


def expand_words(
    word: str, variables: Mapping[str, str], escape: str = "\\", rules: Rules = DEFAULT_RULES
) -> list[str]:
    """Replace as `expand` does, then split at the spaces that no quote or escape protects."""
    words: list[str] = []
    current = ""
    for text, protected in _pieces(word, variables, escape, rules):
        for ch in text:
            if protected or ch not in SPACES:
                current += ch
            elif current:
                words.append(current)
                current = ""
    return [*words, current] if current else words


def _pieces(word: str, variables: Mapping[str, str], escape: str, rules: Rules) -> list["_Piece"]:
    if "$" not in word and escape not in word and "'" not in word and '"' not in word:
        return [(word, False)]
    try:
        return _Reader(word, variables, escape, rules).until("", rules.keep_escapes)
    except RecursionError:
        problem = "substitutions are nested too deeply"
    except DockerfileError as error:
        problem = str(error)
    raise DockerfileError(f"failed to process {quote(word)}: {problem}")


# A stretch of replaced text, and whether its spaces are protected from splitting.
_Piece = tuple[str, bool]


class _Reader:
    """Walks once through a word from left to right; the nesting of `${…}` is the nesting of the calls."""

    def __init__(self, text: str, variables: Mapping[str, str], escape: str, rules: Rules) -> None:
        self.text = text
        self.position = 0
        self.variables = variables
        self.escape = escape
        self.rules = rules
        self.keep_escapes = rules.keep_escapes
        self.replaced = 0

    def peek(self) -> str:
        """Return the next character; empty at the end."""
        return self.text[self.position : self.position + 1]

    def next(self) -> str:
        """Return the next character and step over it."""
        ch = self.peek()
        self.position += 1
        return ch

    def until(self, stop: str, keep_escapes: bool) -> list[_Piece]:
        """Read to the character `stop`, or to the end for an empty one."""
        before, self.keep_escapes = self.keep_escapes, keep_escapes
        pieces: list[_Piece] = []
        while ch := self.peek():
            if ch == stop:
                break
            pieces.append(self._piece(ch))
        self.keep_escapes = before
        if stop and not self.next():
            raise DockerfileError(f"unexpected end of statement while looking for matching {stop}")
        return pieces

    def _piece(self, ch: str) -> _Piece:
        """Read one character, or all that belongs to a quote or a dollar."""
        if ch == "$":
            return self._dollar(), False
        if ch == "'" and not self.rules.quotes_are_text:
            return self._single_quoted(), True
        if ch == '"' and not self.rules.quotes_are_text:
            return self._double_quoted(), True
        self.position += 1
        if ch != self.escape:
            return ch, False
        return (self.escape if self.keep_escapes else "") + self.next(), True

    def _quote(self, quote: str) -> str:
        self.position += 1
        return quote if self.rules.keep_quotes else ""

    def _single_quoted(self) -> str:
        """Take everything to the next single quote as it is."""
        opening = self._quote("'")
        end = self.text.find("'", self.position)
        if end < 0:
            self.position = len(self.text)
            raise DockerfileError("unexpected end of statement while looking for matching single-quote")
        inside = self.text[self.position : end]
        self.position = end
        return opening + inside + self._quote("'")

    def _double_quoted(self) -> str:
        """Replace variables; the escape character only protects a quote, a dollar and itself."""
        out = [self._quote('"')]
        while ch := self.peek():
            if ch == '"':
                return "".join(out) + self._quote('"')
            if ch == "$":
                out.append(self._dollar())
                continue
            self.position += 1
            if ch == self.escape:
                if self.keep_escapes:
                    out.append(ch)
                if not self.peek():
                    break
                if self.peek() in ('"', "$", self.escape):
                    ch = self.next()
            out.append(ch)
        raise DockerfileError("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        """Read a dollar and what belongs to it; return what it stands for, unless that grows without measure."""
        value = self._substitution()
        self.replaced += len(value)
        if self.replaced > _LARGEST:
            raise DockerfileError(f"variables become more than {_LARGEST} characters")
        return value

    def _substitution(self) -> str:
        """Read `$name` or `${name…}` and return what it stands for; a dollar before anything else is itself."""
        self.position += 1
        if self.peek() == "{":
            self.position += 1
            return self._braces()
        name = self._name()
        if not name:
            return "$"
        return self.variables.get(name, "$" + name if self.rules.keep_unset else "")

    def _braces(self) -> str:
        """Read what is inside `${…}`."""
        if not self.peek():
            raise DockerfileError("syntax error: missing '}'")
        if self.peek() in "{}:":
            raise DockerfileError("syntax error: bad substitution")
        name = self._name()
        modifier = self.next()
        if modifier == "}":
            return self.variables.get(name, "${" + name + "}" if self.rules.keep_unset else "")
        if modifier == "/":
            return self._replace(name)
        null_is_unset = modifier == ":"
        if null_is_unset:
            modifier += self.next()
        if modifier[-1:] not in ("+", "-", "?", "#", "%") and modifier not in ("", ":"):
            if null_is_unset:
                self._argument("}", False)
            raise DockerfileError(f"unsupported modifier ({modifier}) in substitution")
        return self._modified(name, modifier, null_is_unset)

    def _modified(self, name: str, modifier: str, null_is_unset: bool) -> str:
        """Apply one of POSIX's modifiers; with a colon, an empty variable counts as unset."""
        word = self._argument("}", modifier[-1:] in ("#", "%"))
        value = self.variables.get(name)
        if value is None and self.rules.keep_unset:
            return "${" + name + modifier + word + "}"
        absent = value is None or (null_is_unset and not value)
        match modifier[-1]:
            case "-":
                return word if absent else value or ""
            case "+":
                return "" if absent else word
            case "?" if absent:
                state = "unset" if value is None else "empty"
                raise DockerfileError(f"{name}: {word or f'is not allowed to be {state}'}")
            case "#" | "%" as end:
                longest = word.startswith(end)
                return _trim(word[longest:], value or "", end, longest)
        return value or ""

    def _replace(self, name: str) -> str:
        """`${name/pattern/text}` replaces the first match, `${name//pattern/text}` all; the longest match counts."""
        everywhere = self.peek() == "/"
        self.position += everywhere
        pattern = self._argument("/", True)
        text = self._argument("}", True)
        value = self.variables.get(name)
        if value is None and self.rules.keep_unset:
            return "${" + f"{name}/{pattern}/{text}" + "}"
        return _substitute(_regex(pattern, True, value or ""), text, value or "", everywhere)

    def _argument(self, stop: str, keep_escapes: bool) -> str:
        """Read a modifier's word, which may hold further variables."""
        try:
            return "".join(text for text, _ in self.until(stop, keep_escapes))
        except DockerfileError:
            if self.peek():
                raise
            missing = "'}'" if stop == "}" else "'/' in ${}"
            raise DockerfileError(f"syntax error: missing {missing}") from None

    def _name(self) -> str:
        """Read a name: a number, one special parameter, or letters, digits and underscores. May be empty."""
        start = self.position
        first = self.peek()
        if first.isdecimal():
            while self.peek().isdecimal():
                self.position += 1
        elif first and first in _SPECIAL:
            self.position += 1
        else:
            while (ch := self.peek()).isalpha() or ch.isdecimal() or ch == "_":
                self.position += 1
        return self.text[start : self.position]


def _regex(pattern: str, longest: bool, value: str, backwards: bool = False) -> re.Pattern[str]:
    """Translate a pattern of `*`, `?` and backslashes, for the longest or shortest match in a value.

    A backslash before `}` or `/` only served the reader. What stands between two `*` is looked for once, at the first
    place it can be (`(?>…)` never tries another): from there on all is within reach that is from a later place.
    """
    out: list[list[str]] = [[]]
    for token in re.findall(r"\\[}/]|\\.|\\$|\*+|.", pattern, re.DOTALL):
        if token[0] == "*":
            out.append([])
        elif token == "?":
            out[-1].append(".")
        elif token in ("\\}", "\\/", "\\*", "\\?", "\\\\"):
            out[-1].append(re.escape(token[1]))
        elif token[0] == "\\":
            raise DockerfileError(f"invalid pattern ({pattern[:80]}) in substitution: invalid escape '{token}'")
        else:
            out[-1].append(re.escape(token))
    if len(out) > 1 and len(value) > _LARGEST_MATCHED:
        raise DockerfileError(f"a value of {len(value)} characters is too long to be searched with a pattern")
    pieces = ["".join(piece) for piece in out]
    if backwards:
        pieces = ["".join(reversed(piece)) for piece in reversed(out)]
    between = "".join(f"(?>.*?{piece})" for piece in pieces[1:-1])
    end = (".*" if longest else ".*?") + pieces[-1] if len(pieces) > 1 else ""
    return re.compile(pieces[0] + between + end)


def _trim(pattern: str, value: str, end: str, longest: bool) -> str:
    """Take the shortest (or longest) match of `pattern` off the front (`end` is `#`) or off the back (`%`).

    The back is the front of what is written backwards.
    """
    backwards = end == "%"
    value = value[::-1] if backwards else value
    match = _regex(pattern, longest, value, backwards).match(value)
    rest = value[match.end() :] if match else value
    return rest[::-1] if backwards else rest


def _substitute(regex: re.Pattern[str], text: str, value: str, everywhere: bool) -> str:
    """Replace matches by `text`, literally. An empty match right behind another match does not count."""
    out: list[str] = []
    end = -1
    for match in regex.finditer(value):
        if match.start() == match.end() == end:
            continue
        out += [value[max(end, 0) : match.start()], text]
        if len(out) * len(text) > 4 * _LARGEST:
            raise DockerfileError(f"variables become more than {_LARGEST} characters")
        end = match.end()
        if not everywhere:
            break
    return "".join(out) + value[max(end, 0) :]
