"""Documents and locks on disk, by which commands that know nothing of each other agree."""

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

_USUAL = 65536  # bytes, more than most documents have


def read_json(path: str) -> Any:
    """Read a document, in as few calls as can be: `ps` reads two for each container."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, _USUAL)
        while len(data) % _USUAL == 0 and (more := os.read(fd, _USUAL)):
            data += more
    finally:
        os.close(fd)
    return json.loads(data.decode())


def write_json(path: str, data: Json, lasting: bool = True) -> None:
    """Put a document in place whole or not at all; if `lasting`, even when the machine stops in between.

    On a full disk one that exists is written over: it has its room already, and is not lost for want of another's.
    """
    temporary = f"{path}.{os.urandom(4).hex()}.tmp"
    try:
        with open(temporary, "w") as file:
            json.dump(data, file)
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if not (isinstance(error, OSError) and error.errno == errno.ENOSPC and os.path.exists(path)):
            raise
        with open(path, "r+") as file:
            file.write(json.dumps(data))
            file.truncate()


@contextlib.contextmanager
def locked(path: str) -> Iterator[int]:
    """Hold the lock file at `path` while in the block; others wait. Yields the open file.

    See: flock(2): the lock belongs to the open file and ends with it, however the process ends; whoever is given the
    open file holds the lock, too.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def is_locked(path: str) -> bool:
    """Say whether somebody holds the lock file at `path`."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
