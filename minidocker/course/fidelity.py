"""The cells of a whole notebook, run by Jupyter's own kernel, within the box of a submission.

It takes seconds where `minidocker.course.cells` takes none, and is for notebooks that need what only Jupyter has:
magics, shell commands, what is displayed. The tests are in the same kernel as the code that they test.

See: nbclient.readthedocs.io, NotebookClient.
"""

import builtins
import os
import re
import sys
import tempfile
from typing import Any

from minidocker.course import cells
from minidocker.course.values import Trace

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_ARROW = re.compile(r"^-+> (\d+) (.*)$", re.MULTILINE)  # by which a traceback shows the line that failed
_FILE = re.compile(r" \([^()]*, line (\d+)\)$")  # how the text of a SyntaxError ends


class Runner:
    """A notebook at work: `code` are the grade_id, "" where there is none, and the source of each cell, in order.

    Each cell may take so many `seconds`.
    """

    def __init__(self, code: list[tuple[str, str]], seconds: float) -> None:
        self._code = code
        self._seconds = seconds
        self._errors: dict[str, BaseException | None] = {}

    def __call__(self, grade_id: str, solution: str) -> None:
        """Run the notebook, once. Raises: as `minidocker.course.cells.Runner`."""
        if not self._errors:
            self._errors = self._run()
        cells.report(self._errors, grade_id, solution)

    def _run(self) -> dict[str, BaseException | None]:
        """Run all cells; return what each that has a grade_id has raised."""
        from nbclient.exceptions import CellTimeoutError, DeadKernelError
        from nbformat import v4

        book = v4.new_notebook(cells=[v4.new_code_cell(source) for _, source in self._code])
        end = RuntimeError("it was not run: the notebook ended before it")
        try:
            _client(book, self._seconds).execute()
        except DeadKernelError:
            end = RuntimeError("it was not run, or not to its end: the kernel has ended")
        except CellTimeoutError:
            end = RuntimeError(f"it was not run: a cell before it, or it itself, took over {self._seconds:g} seconds")
        errors: dict[str, BaseException | None] = {}
        for (name, _), cell in zip(self._code, book.cells, strict=True):
            for output in cell.outputs:
                if output.output_type == "stream":
                    sys.stdout.write(output.text)
            if name:
                ended = cell.execution_count is not None and "shell.execute_reply" in cell.metadata.get("execution", {})
                errors[name] = _error(cell, self._seconds) if ended else end
        return errors


def _client(book: Any, seconds: float) -> Any:
    """Return what runs a notebook, with a kernel that needs no network and writes below /tmp only."""
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    folder = tempfile.mkdtemp(prefix="kernel-")
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    home = dict.fromkeys(("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"), folder)
    os.environ.update(home, PYTHONPATH=package)
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/socket")
    return NotebookClient(book, km=manager, timeout=seconds, interrupt_on_timeout=True, allow_errors=True)


def _error(cell: Any, seconds: float) -> BaseException | None:
    """Return what a cell has raised, as an exception of the same name, with the line at which it did."""
    output = next((output for output in cell.outputs if output.output_type == "error"), None)
    if output is None:
        return None
    name, text = str(output.ename), str(output.evalue)
    trace = _COLOURS.sub("", "\n".join(output.traceback))
    at = _ARROW.findall(trace)
    line, source = at[-1] if at else ("0", "")
    if name in ("SyntaxError", "IndentationError", "TabError") and (found := _FILE.search(text)):
        text, line = text[: found.start()], found[1]
        lines = cell.source.splitlines()
        source = lines[int(line) - 1].strip() if int(line) <= len(lines) else ""
    if name == "KeyboardInterrupt":  # by which a cell is ended that takes too long
        name, text = "TimeoutError", f"not done within {seconds:g} seconds"
    kind = getattr(builtins, name, Exception)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = Exception
    error = kind.__new__(kind)
    error.args = (text,) if text else ()
    error.__dict__["learner"] = Trace(name, text[:4000], int(line), source.strip()[:200])
    return error
