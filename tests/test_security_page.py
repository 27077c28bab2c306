"""docs/security.md: every statement names a test, every test that it names exists, and what it says does not hold."""

import ast
import os
import re

from minidocker.container import seccomp_compile
from minidocker.container.seccomp_profile import ALLOW
from minidocker.linux import capabilities
from seccompkit import default_filter, interpret, number_of

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def lines() -> list[str]:
    """Return the page's statements: a line each, without the titles and what stands above the first of them."""
    with open(f"{PROJECT}/docs/security.md", encoding="utf-8") as page:
        return [line for line in page.read().split("\n## ", 1)[1].splitlines()[1:] if line and not line.startswith("#")]


def test_every_statement_names_a_test() -> None:
    assert len(lines()) > 40
    assert [line for line in lines() if not NAMED.search(line)] == []


def test_every_test_that_is_named_exists() -> None:
    named: dict[str, set[str]] = {}
    for path, name in NAMED.findall("\n".join(lines())):
        named.setdefault(path, set()).add(name)
    missing = []
    for path, names in named.items():
        with open(f"{PROJECT}/{path}", encoding="utf-8") as file:
            found = {node.name for node in ast.parse(file.read()).body if isinstance(node, ast.FunctionDef)}
        missing += [f"{path}::{name}" for name in sorted(names - found)]
    assert missing == []


def test_nothing_else_looks_like_a_test() -> None:
    """A name that is written in another form would not be checked."""
    assert [line for line in lines() if line.count("::") != len(NAMED.findall(line))] == []


def test_the_filter_does_not_see_what_32_bit_programs_ask_of_socketcall() -> None:
    program = seccomp_compile.compile(default_filter(frozenset(capabilities.DEFAULT)))
    make_a_socket = (1, 0x1000, 0, 0, 0, 0)  # SYS_SOCKET, and where the family is written
    assert interpret(program, number_of("socketcall", "x86"), "x86", make_a_socket) == ALLOW
