"""What `--explain` prints: each step on standard error, the kernel's view, and the shell line that does the same.

Side by side where both fit, else the shell line below. Ids are cut to the twelve digits by which people know them.
"""

import os
import re
import sys

from minidocker import explain

_LEFT = 62
_ID = re.compile("([0-9a-f]{12})[0-9a-f]{52}")


def start() -> None:
    """Print every step from now on."""
    explain.listen(show)


def show(kernel: str, shell: str) -> None:
    """Print one step."""
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    text = layout(kernel, shell)
    try:
        # With its newline in one write: steps are taken side by side, and must not share a line.
        sys.stderr.write(f"\033[2m{text}\033[0m\n" if colour else f"{text}\n")
        sys.stderr.flush()
    except OSError:  # nobody reads any more: the steps go on all the same
        explain.listen(None)


def layout(kernel: str, shell: str) -> str:
    """Return the text of one step. Pure."""
    kernel = _ID.sub(r"\1…", kernel)
    shell = _ID.sub(r"\1*", shell)  # which a shell completes to the whole id, where it names a file
    if not shell:
        return kernel
    return f"{kernel:{_LEFT}}  # {shell}" if len(kernel) <= _LEFT else f"{kernel}\n    # {shell}"
