"""What many commands print the same way: one line a name, an error for each that failed, a question before deleting."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

from minidocker.cli.main import explanation
from minidocker.errors import MinidockerError

_AT_ONCE = 50  # docker's number


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


def together(names: Sequence[str], act: Callable[[str], str]) -> int:
    """Do something for all names at once; print in their order what comes of each. Return 1 if any failed, else 0.

    Each may take ten seconds, the time that a container is given to end, and most of that is waiting.
    """
    if len(names) < 2:
        return each(names, lambda name: _say(act(name)))
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(_AT_ONCE)
    begun = iter([pool.submit(act, name) for name in names])
    return each(names, lambda _name: _say(next(begun).result()))


def _say(text: str) -> None:
    if text:
        print(text, flush=True)


def confirmed(warning: str) -> bool:
    """Ask whether to go on; anything but `y` means no."""
    print(f"{warning}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print()
    return answer.strip().lower() in ("y", "yes")


@contextlib.contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """Yield standard output where `path` is empty, else a file that gets its name only when it is whole."""
    if not path:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if os.path.isdir(path):
        raise IsADirectoryError(f"invalid output path: {path!r} is a directory")
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as out:  # a device or a pipe cannot be replaced
            yield out
        return
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise FileNotFoundError(f'invalid output path: directory "{os.path.dirname(path)}" does not exist')
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "xb") as out:
            yield out
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
