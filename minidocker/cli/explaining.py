"""What `--explain` prints: each step on standard error, the kernel's view on the left, the shell line on the right."""

import os
import sys

from minidocker import explain

_LEFT = 62


def start() -> None:
    """Print every step from now on."""
    explain.listen(show)


def show(kernel: str, shell: str) -> None:
    """Print one step; what does not fit beside the other goes on a line of its own."""
    if not shell:
        line = kernel
    elif len(kernel) <= _LEFT:
        line = f"{kernel:{_LEFT}}  # {shell}"
    else:
        line = f"{kernel}\n{'':{_LEFT}}  # {shell}"
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    print(f"\033[2m{line}\033[0m" if colour else line, file=sys.stderr, flush=True)
