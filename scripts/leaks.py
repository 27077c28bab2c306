"""What containers may leave behind in the kernel, and how to find it without asking the engine.

Everything here belongs to one pair of folders, a ROOT and a RUN: mounts, processes, control groups, links, rules.
Used after each test, where anything found is a failure, and by `make clean`.
"""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

from minidocker.container import network


def read(path: str) -> str:
    """Return a file of /proc or /sys; "" where the process has gone meanwhile."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


class Leaks:
    """What is left in the kernel of the folders `root` and `run`."""

    def __init__(self, root: str, run: str) -> None:
        self.prefixes = (f"{root}/", f"{run}/")
        self.network = network.names(run)
        folder = f"{root}/containers"
        self.ids = [name for name in os.listdir(folder) if len(name) == 64] if os.path.isdir(folder) else []

    def found(self) -> list[str]:
        """Say what is left."""
        found = [f"mount {line.split()[4]}" for line in self._mounts("self")]
        found += [f"process {pid}: {_command(pid)}" for pid in self._processes()]
        found += [f"control group {path}" for path in self._cgroups()]
        found += [f"link {name}" for name in self._links()]
        return found + [f"nftables table {name}" for name in self._tables()]

    def found_after(self, seconds: float) -> list[str]:
        """Say what is left once everything that is just ending has had a moment to end."""
        deadline = time.monotonic() + seconds
        while (found := self.found()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found

    def clean(self) -> None:
        """Take away by force whatever is left."""
        for pid in self._processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for line in reversed(self._mounts("self")):
            _run("umount", "-l", line.split()[4])
        for path in self._cgroups():
            with contextlib.suppress(OSError):
                os.rmdir(path)
        for name in self._links():
            _run("ip", "link", "delete", name)
        for name in self._tables():
            _run("nft", "delete", "table", "ip", name)

    def _mounts(self, pid: str) -> list[str]:
        """Return the lines of a process's mount table that name the folders."""
        lines = read(f"/proc/{pid}/mountinfo").splitlines()
        return [line for line in lines if any(prefix in line for prefix in self.prefixes)]

    def _processes(self) -> list[int]:
        """Return the processes that name the folders in their arguments, or that have mounts of them."""
        own = {os.getpid(), os.getppid()}
        pids = [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in own]
        return [int(pid) for pid in pids if self._names_us(pid) or self._contained(pid)]

    def _names_us(self, pid: str) -> bool:
        arguments = read(f"/proc/{pid}/cmdline")
        return any(prefix in f"{arguments}/".replace("\0", "/\0") for prefix in self.prefixes)

    def _contained(self, pid: str) -> bool:
        """Say whether the process lives in another mount namespace, on a root made of the folders' layers."""
        try:
            elsewhere = os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        except OSError:
            return False
        return elsewhere and bool(self._mounts(pid))

    def _cgroups(self) -> list[str]:
        """Return the control groups named for the containers, the innermost first."""
        return [path for path in cgroup_folders() if any(name in path for name in self.ids)]

    def _links(self) -> list[str]:
        """Return the bridge and the cables that end at it."""
        bridge = self.network.bridge
        if bridge not in (name for _, name in socket.if_nameindex()):
            return []
        cables = subprocess.run(
            ["ip", "-o", "link", "show", "master", bridge], capture_output=True, text=True, check=False
        )
        return [*(line.split()[1].split("@")[0].rstrip(":") for line in cables.stdout.splitlines()), bridge]

    def _tables(self) -> list[str]:
        """Return the nftables table if it is there."""
        listed = subprocess.run(["nft", "list", "tables", "ip"], capture_output=True, text=True, check=False).stdout
        return [name for name in [self.network.table] if f"table ip {name}\n" in listed]


def cgroup_folders() -> Iterator[str]:
    """Yield all control groups of all hierarchies, the innermost first."""
    for folder, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
        yield folder


def _command(pid: int) -> str:
    return read(f"/proc/{pid}/cmdline").replace("\0", " ")[:120]


def _run(*argv: str) -> None:
    subprocess.run(argv, check=False, capture_output=True)
