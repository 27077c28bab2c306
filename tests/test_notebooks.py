"""Every notebook of the course: runs from top to bottom without a browser, keeps the form, names only what exists."""

import os
import re
import time

import pytest

import course
from minidocker.course import notebook
from minidocker.course.notebook import Cell, Notebook
from minidocker.course.show import resolve

FOLDER = f"{course.PROJECT}/notebooks"
NAMES = sorted(name for name in os.listdir(FOLDER) if name.endswith(".ipynb"))
SECTIONS = [
    "00_overview",
    "01_install",
    "02_images",
    "03_pull",
    "04_dockerfile",
    "05_build",
    "06_containers",
    "07_versions",
    "08_docker_hub",
    "09_private_registry",
    "10_build_web_application",
    "11_launch_application",
]
FORM = ["Why", "What you need", "Do it", "Look inside", "Break it", "What you learned", "Exercises"]
PICTURES = r"\b(layers|namespaces|stack|limits|pulling|building|packet|terminal|life|engine_map)\("
EVERYTHING = [
    f"{folder}/{name}"
    for folder in ("notebooks", "solutions")
    for name in sorted(os.listdir(f"{course.PROJECT}/{folder}"))
    if name.endswith(".ipynb")
]


def read(path: str) -> Notebook:
    return notebook.read(f"{course.PROJECT}/{path}")


def prose(book: Notebook) -> list[Cell]:
    return [cell for cell in book.cells if cell.kind == "markdown"]


def code(book: Notebook) -> list[Cell]:
    return [cell for cell in book.cells if cell.kind == "code"]


def test_there_is_one_for_every_section() -> None:
    assert [name.removesuffix(".ipynb") for name in NAMES] == SECTIONS


@pytest.mark.root
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_top_to_bottom(name: str) -> None:
    started = time.monotonic()
    with course.fresh_root() as environment:
        book = course.run(f"{FOLDER}/{name}", environment)
        left = containers(environment)
    assert time.monotonic() - started < course.SECONDS
    assert not left, f"the last cell leaves containers behind: {left}"
    assert any(output for cell in book.cells for output in cell.get("outputs", []))


def containers(environment: dict[str, str]) -> str:
    """Return what `ps -a` still lists in a notebook's root."""
    import subprocess
    import sys

    command = [f"{os.path.dirname(sys.executable)}/minidocker", "ps", "-a", "--format", "{{.Names}} {{.Status}}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("path", EVERYTHING)
def test_what_is_committed_has_the_committed_form(path: str) -> None:
    """No outputs, ids that stay, keys in order: what `scripts/course.py write` makes."""
    with open(f"{course.PROJECT}/{path}", "rb") as file:
        data = file.read()
    book = notebook.from_bytes(data, path)
    assert book.to_bytes() == data, f"{path}: scripts/course.py text and write bring it into the form"
    assert course.normal(list(book.cells)) == book


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_form(name: str) -> None:
    book = read(f"notebooks/{name}")
    headings = [line[3:].strip() for cell in prose(book) for line in cell.source.splitlines() if line.startswith("## ")]
    assert headings == FORM
    first = code(book)[0].source
    assert first.startswith("from minidocker.course.lab import *")
    assert re.search(r'^BASE = "debian:bookworm"  # with access to Docker Hub: "ubuntu:14.04"$', first, re.MULTILINE)
    cells = "\n".join(cell.source for cell in code(book))
    assert re.search(PICTURES, cells), "a notebook has at least one picture of this machine"
    exercises = name if name != "00_overview.ipynb" else "01_install.ipynb"
    assert f"exercises/{exercises}" in "\n".join(cell.source for cell in prose(book))


@pytest.mark.parametrize("name", NAMES)
def test_its_title_has_its_number_and_is_that_of_its_exercises(name: str) -> None:
    number = name[:2]
    title = prose(read(f"notebooks/{name}"))[0].source.splitlines()[0]
    assert title.startswith(f"# {number} · ")
    if number != "00":
        exercises = prose(read(f"solutions/{name}"))[0].source.splitlines()[0]
        assert exercises == title.replace(f"{number} · ", f"Exercises of section {number}: ")


@pytest.mark.parametrize("path", EVERYTHING)
def test_every_symbol_that_prose_names_exists(path: str) -> None:
    for cell in prose(read(path)):
        for name in re.findall(r"`(minidocker(?:\.\w+)+)(?:\(\))?`", cell.source):
            resolve(name)  # raises NoSuchSymbol with the stale name


@pytest.mark.parametrize("path", EVERYTHING)
def test_every_link_leads_somewhere(path: str) -> None:
    folder = os.path.dirname(f"{course.PROJECT}/{path}")
    for cell in prose(read(path)):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", cell.source):
            if "://" not in target:
                assert os.path.exists(os.path.join(folder, target)), f"{path} links to {target}"


def engine_lines() -> set[str]:
    """Return the engine's lines that are long enough to be recognised."""
    package = f"{course.PROJECT}/minidocker"
    found: set[str] = set()
    for folder, _, names in os.walk(package):
        if "course" not in folder:
            for name in names:
                if name.endswith(".py"):
                    with open(f"{folder}/{name}", encoding="utf-8") as file:
                        found |= {line.strip() for line in file if len(line.strip()) > 30}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_no_engine_code_is_pasted(name: str) -> None:
    known = engine_lines()
    for cell in code(read(f"notebooks/{name}")):
        run = 0
        for line in cell.source.splitlines():
            run = run + 1 if line.strip() in known and not line.startswith(("from ", "import ")) else 0
            assert run < 3, f"this is the engine's own code, which show() renders: {line.strip()}"


@pytest.mark.parametrize("name", NAMES)
def test_a_port_belongs_to_one_notebook(name: str) -> None:
    """Notebooks run beside each other: NN has the ports from 10000 + NN * 100."""
    number = int(name[:2])
    for cell in code(read(f"notebooks/{name}")):
        for port in re.findall(r"-p (?:[\d.]+:)?(\d+):\d+", cell.source):
            assert 10000 + number * 100 <= int(port) < 10100 + number * 100, f"{name} publishes port {port}"


@pytest.mark.parametrize("path", EVERYTHING)
def test_the_prose_is_plain(path: str) -> None:
    for cell in prose(read(path)):
        text = re.sub(r"```.*?```|`[^`]*`|<[^>]*>|!\[", "", cell.source, flags=re.DOTALL)
        assert "!" not in text, (
            f"{path}: no exclamation marks: {text[max(0, text.find('!') - 40) : text.find('!') + 1]!r}"
        )
        filler = re.search(
            r"\b(simply|obviously|of course|just|basically|powerful|amazing|delve)\b", text, re.IGNORECASE
        )
        assert not filler, f"{path}: {filler and filler[0]!r} says nothing: {text[:60]!r}"
