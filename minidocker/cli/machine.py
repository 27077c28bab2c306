"""Facts about this machine that `doctor` and `info` tell. Looks only; changes nothing that outlives the look."""

import os
import shutil
from collections.abc import Callable
from typing import NamedTuple


class Groups(NamedTuple):
    """The control groups there are: the version that the controllers are under, their names, and who makes folders.

    `driver` is docker's word: `systemd` where that is asked, `cgroupfs` where we make them ourselves.
    """

    version: int
    controllers: list[str]
    driver: str = "cgroupfs"


def cgroups() -> Groups:
    """Return which controllers minidocker can use, and under which version; version 0 where there are none."""
    from minidocker.container import systemd
    from minidocker.container.cgroups import CONTROLLERS, everywhere, mounted, version

    usable = mounted()
    if version(usable) == 1:
        return Groups(1, [name for name in CONTROLLERS if name in usable])
    top = everywhere().get("unified", "") if version(everywhere()) == 2 else ""
    with_systemd = bool(top and systemd.manager())
    if not with_systemd and not usable:
        return Groups(0, [])
    with open(f"{systemd.home(top) if with_systemd else top}/cgroup.controllers") as file:
        return Groups(2, file.read().split(), "systemd" if with_systemd else "cgroupfs")


def ordinary_user(run: str) -> int:
    """Return the machine's number of the ordinary user who asks, 0 for root.

    Inside `minidocker unshare` geteuid(2) says 0, too. See: user_namespaces(7), uid_map.
    """
    from minidocker.container import rootless
    from minidocker.linux import userns

    if os.geteuid() == 0 and rootless.is_kept(run):
        return next(outside for inside, outside, _ in userns.id_map() if inside == 0)
    return os.geteuid()


def filesystem(path: str) -> str:
    """Return the kind of filesystem that `path`, or what will hold it, is on.

    See: proc_pid_mountinfo(5): of the mounts that the path is below, the last and longest counts.
    """
    path = os.path.realpath(path)
    best, kind = "", "unknown"
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            target = before.split()[4]
            if (path == target or path.startswith(target.rstrip("/") + "/")) and len(target) >= len(best):
                best, kind = target, after.split()[0]
    return kind


def distribution() -> str:
    """Return the name of the Linux distribution. See: os-release(5)."""
    try:
        with open("/etc/os-release") as file:
            fields = dict(line.rstrip("\n").partition("=")[::2] for line in file)
    except FileNotFoundError:
        return "Linux"
    return fields.get("PRETTY_NAME", "Linux").strip('"')


def first_line(path: str) -> str:
    """Return the first line of one of the kernel's files, empty where it does not exist or cannot be read."""
    try:
        with open(path) as file:
            return file.readline().strip()
    except OSError:
        return ""


def modules() -> set[str]:
    """Return what the kernel has loaded or built in, by name."""
    found = set()
    try:
        with open("/proc/modules") as file:
            found |= {line.split()[0] for line in file}
    except FileNotFoundError:
        pass
    try:
        with open(f"/lib/modules/{os.uname().release}/modules.builtin") as file:
            found |= {os.path.basename(line.strip()).removesuffix(".ko").replace("-", "_") for line in file}
    except FileNotFoundError:
        pass
    return found


def filesystems() -> set[str]:
    """Return the kinds of filesystem that the kernel can mount now. See: filesystems(5)."""
    with open("/proc/filesystems") as file:
        return {line.split()[-1] for line in file if line.strip()}


def in_child(action: Callable[[], None]) -> str:
    """Try something in a process of its own, which may lose its namespaces; return why it failed, or nothing."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except OSError as error:
            os.write(writing, (error.strerror or str(error)).encode())
        except BaseException as error:  # noqa: BLE001, nothing may be raised past the end of a forked process
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        reason = pipe.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return reason


def free_space(path: str) -> tuple[int, int]:
    """Return the free and all bytes of the filesystem that holds `path`, or will."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    usage = shutil.disk_usage(path)
    return usage.free, usage.total


def other_engines() -> list[str]:
    """Return the names of container daemons that run beside us."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        if (command := first_line(f"/proc/{name}/comm")) in ("dockerd", "containerd", "crio", "kubelet"):
            found.add(command)
    return sorted(found)
