"""The processes of a container, as the host sees them: `top`.

See: proc_pid_stat(5), pid_namespaces(7).
"""

import contextlib
import os
import time
from typing import NamedTuple

from minidocker.container import records
from minidocker.container.records import Container
from minidocker.errors import ContainerStateError

TITLES = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")


class Process(NamedTuple):
    """One process. `started` is in seconds since the epoch, `cpu` in seconds of processor time used."""

    pid: int
    parent: int
    uid: int
    terminal: int
    started: float
    cpu: float
    command: str


def listing(container: Container) -> list[Process]:
    """Return the processes of a container's pid namespace, the first one first.

    Raises: ContainerStateError when it does not run.
    """
    if not container.running:
        raise ContainerStateError(f"Container {container.id} is not running")
    own = os.readlink(f"/proc/{container.state.pid}/ns/pid")
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it may end while we look
            if os.readlink(f"/proc/{name}/ns/pid") == own:
                found.append((records.start_time(int(name)), _read(int(name))))
    return [process for _, process in sorted(found)]


def _read(pid: int) -> Process:
    with open(f"/proc/{pid}/stat", "rb") as file:
        name, _, rest = file.read().rpartition(b")")
    fields = rest.split()
    ticks = os.sysconf("SC_CLK_TCK")
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return Process(
        pid=pid,
        parent=int(fields[1]),
        uid=os.stat(f"/proc/{pid}").st_uid,
        terminal=int(fields[4]),
        started=boot + int(fields[19]) / ticks,
        cpu=(int(fields[11]) + int(fields[12])) / ticks,
        command=words or f"[{name.partition(b'(')[2].decode(errors='replace')}]",
    )


def row(process: Process) -> list[str]:
    """Write one process as `ps -ef` does."""
    elapsed = max(time.time() - process.started, 0.01)
    seconds = int(process.cpu)
    terminal = f"pts/{process.terminal & 0xFF}" if process.terminal else "?"
    started = time.strftime("%H:%M" if elapsed < 86400 else "%b%d", time.localtime(process.started))
    used = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    share = str(int(100 * process.cpu / elapsed))
    return [_user(process.uid), str(process.pid), str(process.parent), share, started, terminal, used, process.command]


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
