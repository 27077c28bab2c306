"""Work on the course's notebooks: write one from text, show one as text, run one in a fresh root.

    scripts/course.py write TEXT.py NOTEBOOK.ipynb    percent format → notebook, in the form that is committed
    scripts/course.py text NOTEBOOK.ipynb             notebook → percent format
    scripts/course.py run NOTEBOOK.ipynb              run it in a fresh root, and print what a learner sees

In solution notebooks `role="task" exercise="…"` and its like on a cell's header become nbgrader's metadata.
"""

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from clean import clean
from minidocker.course import notebook as notebooks
from minidocker.course.notebook import KERNEL, Cell, Notebook

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SECONDS = 240  # the most that a whole notebook may take


def write(text: str, path: str) -> None:
    """Make the notebook `path` from the percent-format file `text`."""
    import jupytext

    read = jupytext.read(text, fmt="py:percent")
    cells = [Cell(cell.cell_type, cell.source, dict(cell.metadata), "") for cell in read.cells]
    notebooks.write(path, normal(cells))


def text(path: str) -> str:
    """Return a notebook in percent format."""
    import jupytext
    import nbformat

    return str(jupytext.writes(nbformat.read(path, as_version=4), fmt="py:percent"))


def normal(cells: list[Cell]) -> Notebook:
    """Return the notebook in the form that is committed: no outputs, ids that stay, nbgrader's metadata."""
    made: list[Cell] = []
    taken: dict[str, int] = {}
    heading = "start"
    for cell in cells:
        metadata = _nbgrader(cell)
        found = re.search(r"^#+ +(.+)$", cell.source, re.MULTILINE) if cell.kind == "markdown" else None
        if found:
            heading = re.sub(r"[^a-z0-9]+", "-", found[1].lower()).strip("-")[:40] or "part"
        name = metadata.get("nbgrader", {}).get("grade_id") or heading
        taken[name] = taken.get(name, 0) + 1
        number = f"-{taken[name]}" if taken[name] > 1 else ""
        made.append(Cell(cell.kind, cell.source, metadata, f"{name[:58]}{number}"))
    return Notebook(tuple(made), dict(KERNEL))


def _nbgrader(cell: Cell) -> dict[str, Any]:
    """Return a cell's metadata, with the role on its header put into nbgrader's words (schema version 3)."""
    metadata = {name: value for name, value in cell.metadata.items() if name != "lines_to_next_cell"}  # jupytext's
    role = metadata.pop("role", "")
    if not role:
        return metadata
    exercise, name, points = (metadata.pop(key, "") for key in ("exercise", "name", "points"))
    ends = {"setup": "setup", "task": exercise, "test": f"{exercise}-test-{name}"}
    fields: dict[str, Any] = {
        "schema_version": 3,
        "grade_id": ends.get(role, f"{exercise}-{role}"),
        "grade": role == "test",
        "solution": role == "solution",
        "locked": role != "solution",
        "task": False,
        "cell_type": cell.kind,
    }
    if role == "test":
        fields["points"] = int(points)
    return {**metadata, "nbgrader": fields}


@contextlib.contextmanager
def fresh_root() -> Iterator[dict[str, str]]:
    """Give an environment with folders of its own for minidocker's state; leave nothing of it."""
    base = tempfile.mkdtemp(prefix="mdc", dir="/tmp")
    own = {
        "MINIDOCKER_ROOT": f"{base}/root",
        "MINIDOCKER_RUN": f"{base}/run",
        "DOCKER_CONFIG": f"{base}/docker",
        "MINIDOCKER_COURSE_STATE": f"{base}/course.json",
    }
    os.makedirs(own["MINIDOCKER_ROOT"])
    os.makedirs(own["MINIDOCKER_RUN"])
    try:
        yield {**os.environ, **own}
    finally:
        clean(own["MINIDOCKER_ROOT"], own["MINIDOCKER_RUN"])
        shutil.rmtree(base, ignore_errors=True)


def run(path: str, environment: dict[str, str]) -> Any:
    """Run a notebook from top to bottom, in its own folder, and return it with its outputs.

    Raises: CellExecutionError at the first cell that fails.
    """
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    client = NotebookClient(
        book,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": os.path.dirname(os.path.abspath(path))}},
        record_timing=False,
        store_widget_state=False,  # without it a page shows the pictures as drawn, with it controls that lead nowhere
        extra_arguments=["--log-level=ERROR"],
    )
    client.execute(env=environment)
    return book


def shown(book: Any) -> str:
    """Return an executed notebook's cells and outputs as text."""
    lines = []
    for number, cell in enumerate(book.cells):
        lines.append(f"\n──── {number} {cell.cell_type}\n{cell.source}")
        outputs = cell.get("outputs", [])
        texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]
        if outputs:
            lines.append("    " + "".join(texts).rstrip().replace("\n", "\n    "))
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Carry out what the command line says."""
    if len(words) == 3 and words[0] == "write":
        write(words[1], words[2])
    elif len(words) == 2 and words[0] == "text":
        print(text(words[1]))
    elif len(words) == 2 and words[0] == "run":
        from nbclient.exceptions import CellExecutionError

        started = time.monotonic()
        with fresh_root() as environment:
            try:
                print(shown(run(words[1], environment)))
            except CellExecutionError as failure:
                print(failure)
                return 1
        print(f"\n{words[1]} ran in {time.monotonic() - started:.0f} s")
    else:
        print(__doc__)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
