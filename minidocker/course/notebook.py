"""Notebooks on disk: read and written as plain JSON, in one form, so that the same cells are always the same bytes.

See: nbformat's notebook format 4.5.
"""

import json
import os
from typing import Any, NamedTuple

from minidocker.errors import MinidockerError

Json = dict[str, Any]
KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


class NotANotebook(MinidockerError):
    """A file that was to be a notebook of format 4 is none."""


class Cell(NamedTuple):
    """One cell; `kind` is "markdown", "code" or "raw". Outputs are not kept: they belong to who ran the cell."""

    kind: str
    source: str
    metadata: Json
    id: str

    @property
    def grade_id(self) -> str:
        """Return the name nbgrader knows the cell by, or ""."""
        return str(self.nbgrader.get("grade_id", ""))

    @property
    def nbgrader(self) -> Json:
        """Return nbgrader's fields, {} for a cell that it does not know."""
        found = self.metadata.get("nbgrader")
        return found if isinstance(found, dict) else {}


class Notebook(NamedTuple):
    """The cells of a notebook, and the metadata of the whole."""

    cells: tuple[Cell, ...]
    metadata: Json

    def to_bytes(self) -> bytes:
        """Return the file's content: keys in order, one blank of indentation, as Jupyter itself writes."""
        fields = {
            "cells": [_to_json(cell) for cell in self.cells],
            "metadata": self.metadata,
            "nbformat": 4,
            "nbformat_minor": 5,
        }
        return (json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def read(path: str) -> Notebook:
    """Return the notebook in the file at `path`.

    Raises: NotANotebook for anything but JSON of the notebook format 4; OSError.
    """
    with open(path, "rb") as file:
        return from_bytes(file.read(), path)


def from_bytes(data: bytes, path: str = "the notebook") -> Notebook:
    """Return the notebook that `data` holds; `path` is what errors call it. Raises: NotANotebook."""
    try:
        fields = json.loads(data)
        if fields["nbformat"] != 4:
            raise NotANotebook(f"{path}: notebook format {fields['nbformat']} is not 4; open and save it in JupyterLab")
        cells = tuple(_from_json(cell, number) for number, cell in enumerate(fields["cells"], 1))
        return Notebook(cells, dict(fields.get("metadata", {})))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise NotANotebook(f"{path} is not a notebook: {problem or type(problem).__name__}") from problem


def write(path: str, notebook: Notebook) -> None:
    """Put the notebook at `path` in one step: a reader sees the old file or the new one."""
    temporary = f"{path}.{os.getpid()}.new"
    with open(temporary, "wb") as file:
        file.write(notebook.to_bytes())
    os.replace(temporary, path)


def _from_json(fields: Json, number: int) -> Cell:
    source = fields["source"]
    text = source if isinstance(source, str) else "".join(source)
    return Cell(
        str(fields["cell_type"]), text, dict(fields.get("metadata", {})), str(fields.get("id", f"cell-{number}"))
    )


def _to_json(cell: Cell) -> Json:
    fields: Json = {
        "cell_type": cell.kind,
        "id": cell.id,
        "metadata": cell.metadata,
        "source": cell.source.splitlines(keepends=True),
    }
    if cell.kind == "code":
        fields |= {"execution_count": None, "outputs": []}
    return fields
