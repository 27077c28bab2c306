"""Go's templates as far as `--format` needs them: `{{.State.Running}}`, `{{json .}}`, `{{range …}}…{{end}}`.

A template is text with actions between `{{` and `}}`. It is read into a tree once and filled in for each value.
A value is what JSON holds: dictionaries, lists, strings, numbers, booleans, None.

See: Go, package text/template.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from minidocker.errors import InvalidArgument

_ACTION = re.compile(r"(\{\{- |\{\{)(.*?)( -\}\}|\}\})", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<field>\.[\w.]*)"""
    r"""|(?P<variable>\$\w*(?:\.\w+)*)|(?P<word>\w+)|(?P<sign>:=|[=|(),]))"""
)

Scope = dict[str, Any]
Expression = Callable[[Any, Scope], Any]


class Block(NamedTuple):
    """`{{if}}`, `{{range}}` or `{{with}}`: what it looks at, the names it gives, and its two bodies."""

    kind: str
    names: list[str]
    value: Expression
    body: list["Node"]
    otherwise: list["Node"]


class Assign(NamedTuple):
    """`{{$name := value}}`."""

    name: str
    value: Expression


Node = str | Expression | Block | Assign


class Template:
    """A template that has been read. Raises InvalidArgument where it cannot be."""

    def __init__(self, text: str) -> None:
        self._pieces = _split(text)
        self._tree, closing = self._read_body()
        if closing:
            raise _bad(f"unexpected {{{{{closing}}}}}")

    def fill(self, value: Any) -> str:
        """Return the text with every action replaced. Raises InvalidArgument for a field that is not there."""
        return _fill(self._tree, value, {"$": value})

    def _read_body(self) -> tuple[list[Node], str]:
        """Read up to the `end` or `else` that closes this body, and say which it was."""
        nodes: list[Node] = []
        while self._pieces:
            is_action, text = self._pieces.pop()
            if not is_action:
                nodes.append(text)
                continue
            tokens = _tokens(text)
            head = tokens[0][1]
            if head in ("end", "else"):
                return nodes, " ".join(token for _, token in tokens)
            nodes.append(self._read_block(tokens) if head in ("if", "range", "with") else _read_action(tokens))
        return nodes, ""

    def _read_block(self, tokens: list[tuple[str, str]]) -> Block:
        kind = tokens[0][1]
        names, tokens = _read_names(tokens[1:])
        value = _read_pipeline(tokens)
        body, closing = self._read_body()
        otherwise: list[Node] = []
        if closing.startswith("else "):
            otherwise = [self._read_block(_tokens(closing.removeprefix("else ")))]
            return Block(kind, names, value, body, otherwise)
        if closing == "else":
            otherwise, closing = self._read_body()
        if closing != "end":
            raise _bad(f"{kind} without end")
        return Block(kind, names, value, body, otherwise)


def _split(text: str) -> list[tuple[bool, str]]:
    """Return the pieces of a template, the first last, each with whether it is an action."""
    pieces: list[tuple[bool, str]] = []
    at = 0
    trim = False
    for match in _ACTION.finditer(text):
        before = text[at : match.start()]
        before = before.lstrip() if trim else before
        pieces.append((False, before.rstrip() if match[1] == "{{- " else before))
        if not match[2].strip():
            raise _bad("missing value for command")
        if not match[2].strip().startswith("/*"):
            pieces.append((True, match[2]))
        trim, at = match[3] == " -}}", match.end()
    rest = text[at:].lstrip() if trim else text[at:]
    if "{{" in rest:
        raise _bad("unclosed action")
    return [*reversed([*pieces, (False, rest)])]


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens = []
    at = 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match or not match.lastgroup:
            raise _bad(f"unexpected {text[at:].strip()[:20]!r}")
        tokens.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return tokens


def _read_names(tokens: list[tuple[str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Take `$name :=` or `$key, $value :=` off the front."""
    for at, token in enumerate(tokens):
        if token in (("sign", ":="), ("sign", "=")):
            return [name for kind, name in tokens[:at] if kind == "variable"], tokens[at + 1 :]
    return [], tokens


def _read_action(tokens: list[tuple[str, str]]) -> Node:
    names, tokens = _read_names(tokens)
    return Assign(names[0], _read_pipeline(tokens)) if names else _read_pipeline(tokens)


def _read_pipeline(tokens: list[tuple[str, str]]) -> Expression:
    """Read `command | function …`: each command's value is the last argument of the next."""
    depth = 0
    for at in range(len(tokens) - 1, -1, -1):
        sign = tokens[at][1] if tokens[at][0] == "sign" else ""
        depth += (sign == ")") - (sign == "(")
        if sign == "|" and depth == 0:
            before = _read_pipeline(tokens[:at])
            return _read_command(tokens[at + 1 :], before)
    return _read_command(tokens, None)


def _read_command(tokens: list[tuple[str, str]], last: Expression | None) -> Expression:
    """Read one value, or a function and its arguments."""
    if not tokens:
        raise _bad("missing value for command")
    rest = list(reversed(tokens))
    kind, text = rest[-1]
    if kind != "word" or text in _CONSTANTS:
        value = _read_operand(rest)
        if rest or last:
            raise _bad(f"can't give argument to non-function {text}")
        return value
    function = _FUNCTIONS.get(text)
    if function is None:
        raise _bad(f'function "{text}" not defined')
    rest.pop()
    arguments = []
    while rest:
        arguments.append(_read_operand(rest))
    if last:
        arguments.append(last)
    return lambda dot, scope: _call(text, function, [argument(dot, scope) for argument in arguments])


def _read_operand(rest: list[tuple[str, str]]) -> Expression:
    kind, text = rest.pop()
    if (kind, text) == ("sign", "("):
        return _read_brackets(rest)
    if kind == "string":
        constant = text[1:-1] if text[0] == "`" else json.loads(text)
    elif kind == "number":
        constant = json.loads(text)
    elif kind == "field":
        names = [name for name in text.split(".") if name]
        return lambda dot, scope: _walk(dot, names, text)
    elif kind == "variable":
        name, *names = text.split(".")
        return lambda dot, scope: _walk(_variable(scope, name), names, text)
    elif text in _CONSTANTS:
        constant = _CONSTANTS[text]
    else:
        raise _bad(f"unexpected {text!r} in operand")
    return lambda dot, scope: constant


def _read_brackets(rest: list[tuple[str, str]]) -> Expression:
    """Read `(pipeline)`, perhaps with `.fields` of its value after it."""
    inside: list[tuple[str, str]] = []
    depth = 1
    while depth:
        if not rest:
            raise _bad("unclosed left paren")
        token = rest.pop()
        depth += (token == ("sign", "(")) - (token == ("sign", ")"))
        inside.append(token)
    value = _read_pipeline(inside[:-1])
    if not rest or rest[-1][0] != "field" or rest[-1][1] == ".":
        return value
    text = rest.pop()[1]
    names = [name for name in text.split(".") if name]
    return lambda dot, scope: _walk(value(dot, scope), names, text)


def _fill(nodes: list[Node], dot: Any, scope: Scope) -> str:
    text = ""
    for node in nodes:
        if isinstance(node, str):
            text += node
        elif isinstance(node, Assign):
            scope[node.name] = node.value(dot, scope)
        elif isinstance(node, Block):
            text += _fill_block(node, dot, scope)
        else:
            text += show(node(dot, scope))
    return text


def _fill_block(block: Block, dot: Any, scope: Scope) -> str:
    value = block.value(dot, scope)
    if not value:
        return _fill(block.otherwise, dot, scope)
    if block.kind == "range":
        pairs = sorted(value.items()) if isinstance(value, Mapping) else list(enumerate(value))
        return "".join(_fill(block.body, item, scope | _bind(block.names, key, item)) for key, item in pairs)
    inner = scope | dict.fromkeys(block.names[-1:], value)
    return _fill(block.body, value if block.kind == "with" else dot, inner)


def _bind(names: list[str], key: Any, item: Any) -> Scope:
    return {names[0]: key, names[1]: item} if len(names) > 1 else dict.fromkeys(names, item)


def _walk(value: Any, names: list[str], path: str) -> Any:
    for name in names:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise _bad(f"<{path}>: can't evaluate field {name} in {show(value)[:40]!r}", "executing")
        if name not in value:
            raise _bad(f'<{path}>: map has no entry for key "{name}"', "executing")
        value = value[name]
    return value


def _variable(scope: Scope, name: str) -> Any:
    if name not in scope:
        raise _bad(f'undefined variable "{name}"')
    return scope[name]


def _call(name: str, function: Callable[..., Any], arguments: list[Any]) -> Any:
    try:
        return function(*arguments)
    except (TypeError, IndexError, KeyError, ValueError, AttributeError) as error:
        raise _bad(f"error calling {name}: {error}", "executing") from None


def show(value: Any) -> str:
    """Return a value as Go's `Print` writes it: `true`, `<no value>`, `[a b]`, `map[k:v]`."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{show(item)}' for key, item in sorted(value.items()))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(show, value))}]"
    return str(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else value[key]
    return value


def _print_format(form: str, *values: Any) -> str:
    """`printf`, for the verbs that templates use: %s, %d, %v, %q."""
    rest = iter(values)

    def fill_in(match: re.Match[str]) -> str:
        if match[1] == "%":
            return "%"
        text = show(next(rest))
        return json.dumps(text) if match[1] == "q" else text

    return re.sub("%([vsdq%])", fill_in, form)


_CONSTANTS = {"true": True, "false": False, "nil": None}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    "index": _index,
    "join": lambda items, separator: separator.join(items),
    "split": lambda text, separator: text.split(separator),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "title": lambda text: text.title(),
    "len": len,
    "print": lambda *values: "".join(map(show, values)),
    "println": lambda *values: " ".join(map(show, values)) + "\n",
    "printf": _print_format,
    "truncate": lambda text, width: text[:width],
    "slice": lambda value, *ends: value[slice(*ends)] if len(ends) > 1 else value[ends[0] :],
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "or": lambda *values: next((value for value in values if value), values[-1]),
    "eq": lambda first, *others: first in others,
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
}


def _bad(message: str, stage: str = "parsing") -> InvalidArgument:
    return InvalidArgument(f"template {stage} error: {message}")
