"""The learner's notebook, made from the one with the solutions: what stands between the markers is taken out.

    ### BEGIN SOLUTION … ### END SOLUTION            becomes a stub that raises NotImplementedError
    ### BEGIN HIDDEN TESTS … ### END HIDDEN TESTS    goes without a trace

The marks and what becomes of them are nbgrader's, so that a teacher's `nbgrader generate_assignment` gives the same.

See: nbgrader's preprocessors ClearSolutions, ClearHiddenTests and LockCells.
"""

import ast
import os
import re

from minidocker.course import notebook as notebooks
from minidocker.course.notebook import Cell, Notebook
from minidocker.errors import MinidockerError

STUB = ("# YOUR CODE HERE", "raise NotImplementedError()")
ANSWER = ("YOUR ANSWER HERE",)
SOLUTION = "SOLUTION"
HIDDEN_TESTS = "HIDDEN TESTS"


class BadMarkers(MinidockerError):
    """A marker without its other half, or one within another."""


def stub(source: str, code: bool = True) -> str:
    """Return a solution cell as the learner finds it; a cell without markers is all solution. Raises: BadMarkers."""
    lines = STUB if code else ANSWER
    return without(source, SOLUTION, lines) if f"BEGIN {SOLUTION}" in source else "\n".join(lines)


def stub_of(cell: Cell) -> str:
    """Return a solution cell as the learner finds it, also when the learner has written into it. Raises: BadMarkers."""
    kept = cell.metadata.get("minidocker")
    if isinstance(kept, dict) and isinstance(kept.get("stub"), str):
        return str(kept["stub"])
    as_it_was = STUB[-1] in cell.source and f"BEGIN {SOLUTION}" not in cell.source
    return cell.source if as_it_was else stub(cell.source, cell.kind == "code")


def defined(source: str) -> list[str]:
    """Return the names that a cell defines, in order."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return []
    found: list[str] = []
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return found


def visible(source: str) -> str:
    """Return a test cell as the learner sees it. Raises: BadMarkers."""
    return without(source, HIDDEN_TESTS, ())


def is_hidden(source: str, line: int) -> bool:
    """Say whether a line of a test cell, counted from 1, is among what is hidden from learners."""
    before = [text for text in source.split("\n")[:line] if HIDDEN_TESTS in text]
    return bool(before) and f"BEGIN {HIDDEN_TESTS}" in before[-1]


def without(source: str, marker: str, instead: tuple[str, ...]) -> str:
    """Put `instead` in place of every region of this marker, as far indented as the region's first line.

    Raises: BadMarkers.
    """
    kept: list[str] = []
    inside = False
    for line in source.split("\n"):
        if f"BEGIN {marker}" in line:
            if inside:
                raise BadMarkers(f"BEGIN {marker} stands within another one: {line.strip()!r}")
            inside = True
            indent = re.match(r"\s*", line)
            kept += [(indent[0] if indent else "") + new for new in instead]
        elif f"END {marker}" in line:
            inside = False
        elif not inside:
            kept.append(line)
    if inside:
        raise BadMarkers(f"BEGIN {marker} has no END {marker} after it")
    return "\n".join(kept)


def exercise_notebook(solution: Notebook) -> Notebook:
    """Return the notebook that a learner works in. Raises: BadMarkers."""
    return Notebook(tuple(_cleared(cell) for cell in solution.cells), solution.metadata)


def _cleared(cell: Cell) -> Cell:
    """Return a cell as the learner gets it: what is locked cannot be edited, what is graded cannot be deleted."""
    marks = cell.nbgrader
    source, metadata = cell.source, dict(cell.metadata)
    if marks.get("solution"):
        source = stub(source, cell.kind == "code")
        metadata |= {"deletable": False, "minidocker": {"stub": source}}  # by which an exercise can be begun anew
    elif marks.get("locked"):
        source = visible(source) if marks.get("grade") else source
        metadata |= {"deletable": False, "editable": False}
    return cell._replace(source=source, metadata=metadata)


def written(cell: Cell) -> bool:
    """Say whether somebody has written into a solution cell of a learner's notebook."""
    return bool(cell.nbgrader.get("solution")) and STUB[-1] not in cell.source and ANSWER[0] not in cell.source


def drifted(solutions: str, exercises: str) -> list[str]:
    """Return the names of the notebooks in `exercises` that are not, to the byte, what `solutions` makes of them."""
    wanted = {name: exercise_notebook(notebooks.read(f"{solutions}/{name}")).to_bytes() for name in _names(solutions)}
    found = {}
    for name in _names(exercises):
        with open(f"{exercises}/{name}", "rb") as file:
            found[name] = file.read()
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def write_all(solutions: str, exercises: str, only: list[str] | None = None, force: bool = False) -> list[str]:
    """Make every notebook of `exercises` anew, or only these sections; return the names of those that changed.

    Raises: MinidockerError where a learner has written into one and `force` is not set; BadMarkers.
    """
    changed = [name for name in drifted(solutions, exercises) if os.path.exists(f"{solutions}/{name}")]
    changed = [name for name in changed if not only or name.removesuffix(".ipynb") in only]
    for name in changed if not force else []:
        path = f"{exercises}/{name}"
        if os.path.exists(path) and any(written(cell) for cell in notebooks.read(path).cells):
            raise MinidockerError(f"{path} holds code that somebody has written: move it away, or force it")
    os.makedirs(exercises, exist_ok=True)
    for name in changed:
        notebooks.write(f"{exercises}/{name}", exercise_notebook(notebooks.read(f"{solutions}/{name}")))
    return changed


def _names(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if name.endswith(".ipynb") and not name.startswith("."))
