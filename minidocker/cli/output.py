"""What many commands print the same way: one line a name, an error for each that failed, a question before deleting."""

import sys
from collections.abc import Callable, Iterable

from minidocker.cli.main import explanation
from minidocker.errors import MinidockerError


def each(names: Iterable[str], act: Callable[[str], None]) -> int:
    """Do something for every name; print each failure and go on. Return 1 if any failed, else 0."""
    failed = 0
    for name in names:
        try:
            act(name)
        except (MinidockerError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            sys.stdout.flush()
            print(f"Error: {explanation(error)}", file=sys.stderr)
            failed = 1
    return failed


def confirmed(warning: str) -> bool:
    """Ask whether to go on; anything but `y` means no."""
    print(f"{warning}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print()
    return answer.strip().lower() in ("y", "yes")
