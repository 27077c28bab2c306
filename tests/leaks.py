"""What a test's containers may leave behind, and how to find it from the kernel's side."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator


def _read(path: str) -> str:
    """Return a file of /proc or /sys; "" where the process has gone meanwhile."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


class Leaks:
    """What is left in the kernel of one test's folders `root` and `run`, both below `base`."""

    def __init__(self, base: str, root: str, run: str) -> None:
        self.base, self.root, self.run = base, root, run
        folder = f"{root}/containers"
        self.ids = os.listdir(folder) if os.path.isdir(folder) else []

    def remove_containers(self, minidocker: Callable[..., subprocess.CompletedProcess[str]]) -> None:
        """Remove the test's containers as a user would; what then remains is a leak."""
        if self.ids:
            listed = minidocker("ps", "-aq", "--no-trunc").stdout.split()
            if listed:
                minidocker("rm", "-f", *listed)

    def found(self) -> list[str]:
        """Say what is left: mounts, processes, control groups, links."""
        found = [f"mount {line.split()[4]}" for line in self._mounts("self")]
        found += [f"process {pid}: {self._command(pid)}" for pid in self._processes()]
        found += [f"cgroup {path}" for path in self._cgroups()]
        found += [f"link {name}" for name in self._links()]
        return found

    def clean(self) -> None:
        """Take away by force whatever is left."""
        for pid in self._processes():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for line in reversed(self._mounts("self")):
            subprocess.run(["umount", "-l", line.split()[4]], check=False, capture_output=True)
        for path in self._cgroups():
            with contextlib.suppress(OSError):
                os.rmdir(path)
        for name in self._links():
            subprocess.run(["ip", "link", "delete", name], check=False, capture_output=True)
        shutil.rmtree(self.base, ignore_errors=True)

    def _mounts(self, pid: str) -> list[str]:
        """Return the lines of a process's mount table that name the test's folders."""
        return [line for line in _read(f"/proc/{pid}/mountinfo").splitlines() if f"{self.base}/" in line]

    def _command(self, pid: int) -> str:
        return _read(f"/proc/{pid}/cmdline").replace("\0", " ")[:120]

    def _processes(self) -> list[int]:
        """Return the processes that name the folders in their arguments, or that have mounts of them."""
        own = {os.getpid(), os.getppid()}
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            if int(name) in own:
                continue
            if f"{self.base}/" in _read(f"/proc/{name}/cmdline") or self._contained(name):
                found.append(int(name))
        return found

    def _contained(self, pid: str) -> bool:
        """Say whether the process lives in another mount namespace, on a root made of the test's layers."""
        try:
            elsewhere = os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")
        except OSError:
            return False
        return elsewhere and bool(self._mounts(pid))

    def _cgroups(self) -> list[str]:
        """Return the control groups named for the test's containers, the innermost first."""
        return [path for path in _cgroup_folders() if any(name in path for name in self.ids)]

    def _links(self) -> list[str]:
        """Return the network links whose alias names the test's run folder."""
        return [name for name in os.listdir("/sys/class/net") if self.run in _read(f"/sys/class/net/{name}/ifalias")]


def _cgroup_folders() -> Iterator[str]:
    for folder, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
        yield folder
