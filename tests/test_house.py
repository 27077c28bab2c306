"""The rules of the house, checked on the source: who imports whom, how long files are, what the texts may speak of."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator

import pytest

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# From the ground up. A folder or module imports what stands on a lower line, or its own folder.
LEVELS = (
    {"errors", "explain", "progress", "standins"},
    {"linux"},
    {"image", "container"},
    {"registry"},
    {"build"},
    {"engine", "assemble", "buildsteps", "inspect", "storage", "upkeep", "versions"},  # the stories, and their parts
    {"client"},
    {"course"},
    {"cli", "__init__"},
)

# Where a module's whole use is kept, and why: see the banned imports in pyproject.toml.
ONLY_IN = {
    "ctypes": r"linux/",
    "urllib3": r"registry/|build/context\.py",
    "pyroute2": r"container/network\w*\.py",
    "pyseccomp": r"container/seccomp_compile\.py",
    "subprocess": r"course/",
    "dataclasses": r"$never",
    "pathlib": r"$never",
    "logging": r"$never",
    "asyncio": r"$never",
    "argparse": r"$never",
}

LONGEST_FILE = 380
LONGEST_FUNCTION = 60


def engine_files() -> list[str]:
    """Return the engine's source files, relative to the package."""
    package = f"{PROJECT}/minidocker"
    found = [os.path.join(folder, name) for folder, _, names in os.walk(package) for name in names]
    return sorted(os.path.relpath(path, package) for path in found if path.endswith(".py"))


def source(path: str) -> str:
    with open(f"{PROJECT}/minidocker/{path}", encoding="utf-8") as file:
        return file.read()


def imports(path: str) -> Iterator[str]:
    """Yield the full name of every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(source(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path} has a relative import: {node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(part: str) -> int:
    """Return on which line of LEVELS a part of the package stands."""
    found = [number for number, parts in enumerate(LEVELS) if part in parts]
    assert found, f"minidocker/{part} has no place in LEVELS"
    return found[0]


@pytest.mark.parametrize("path", engine_files())
def test_a_file_imports_only_from_lower_levels(path: str) -> None:
    own = path.split("/")[0].removesuffix(".py")
    for name in imports(path):
        if name.startswith("minidocker."):
            other = name.split(".")[1]
            if other in {part for parts in LEVELS for part in parts}:
                together = level(other) == level(own) and level(own) in (level("errors"), level("engine"))
                allowed = other == own or level(other) < level(own) or together
                assert allowed, f"{path} imports {name}, which is not below it"


@pytest.mark.parametrize("path", engine_files())
def test_a_library_is_imported_only_where_it_belongs(path: str) -> None:
    for name in imports(path):
        place = ONLY_IN.get(name.split(".")[0], "")
        assert re.match(place, path), f"{path} imports {name}, which belongs to {place}"


@pytest.mark.parametrize("path", engine_files())
def test_files_and_functions_stay_short(path: str) -> None:
    text = source(path)
    assert text.count("\n") <= LONGEST_FILE, f"{path} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{path}: {node.name} has {length} lines"


def test_hardly_a_function_is_long() -> None:
    lengths = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in engine_files()
        for node in ast.walk(ast.parse(source(path)))
        if isinstance(node, ast.FunctionDef)
    ]
    long = [length for length in lengths if length > 40]
    assert len(long) <= len(lengths) // 50, f"{len(long)} of {len(lengths)} functions have over 40 lines"


def test_texts_speak_of_the_project_only() -> None:
    """What a reader of the project does not know has no place in it."""
    words = ["coding a" + "gent", "LL" + "M", "cla" + "ude", "chat" + "gpt", "/wo" + "rk/", "contract" + ".md"]
    pattern = "|".join([rf"\b{word}s?\b" if "/" not in word else word for word in words] + [r"\bissue" + r" #?\d"])
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = f"{PROJECT}/{name}"
        if os.path.isfile(path) and not name.endswith((".png", ".ipynb", ".gz", ".tar")):
            with open(path, encoding="utf-8", errors="replace") as file:
                for number, line in enumerate(file, 1):
                    found = re.search(pattern, line, re.IGNORECASE)
                    assert not found, f"{name}:{number} speaks of {found.group()!r}"
