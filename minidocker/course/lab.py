"""What a notebook of the course begins with: `from minidocker.course.lab import *`.

`show` renders the engine's source, `check` judges an exercise, `use` puts your code into the engine, the rest are
pictures of this machine; the `%%shell` magic runs commands. Cells that start programs find `minidocker` as well,
wherever Jupyter was started from.
"""

import os
import sys
from typing import Any

from minidocker.course.check import check
from minidocker.course.show import show
from minidocker.course.use import use
from minidocker.course.widgets import (
    building,
    engine_map,
    layers,
    life,
    limits,
    namespaces,
    packet,
    pulling,
    stack,
    terminal,
)

__all__ = [
    "building",
    "check",
    "engine_map",
    "layers",
    "life",
    "limits",
    "namespaces",
    "packet",
    "pulling",
    "show",
    "stack",
    "terminal",
    "use",
]


def _find_programs() -> None:
    """Put the folder of this interpreter, in which `minidocker` is, first in PATH."""
    folder, paths = os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath).split(os.pathsep)
    if paths[0] != folder:
        os.environ["PATH"] = os.pathsep.join([folder, *paths])


def _register() -> None:
    """Give the notebook that imports this its magic; outside one there is nothing to do."""
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell: Any = get_ipython()
    if shell is None:
        return
    from minidocker.course.shell import CommandFailed, magic

    shell.register_magic_function(lambda line, cell: magic(line, cell, shell.user_ns), "cell", "shell")
    shell.set_custom_exc((CommandFailed,), _say_failure)


def _say_failure(shell: Any, kind: Any, value: BaseException, _traceback: Any, tb_offset: Any = None) -> list[str]:
    """Say in one line what a traceback through our own code would only hide."""
    words = [f"{kind.__name__}: {value}"]
    shell._showtraceback(kind, value, words)
    return words


_find_programs()
_register()
