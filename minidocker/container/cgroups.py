"""Limits and accounting: which folders are made and which files are written, under version 1 and version 2.

Version 1 has a hierarchy a controller, each with a folder of the container's; version 2 has one for all.

See: cgroups(7); the kernel's admin-guide/cgroup-v1/ and admin-guide/cgroup-v2.rst.
"""

import contextlib
import os
import shlex
import time
from typing import NamedTuple

from minidocker import explain
from minidocker.container.spec import Limits
from minidocker.errors import StartError

PARENT = "minidocker"
CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "devices")
# As much swap as memory, as docker gives: without a limit, a container would go on in swap. A kernel may not count it.
_MEMORY_AND_SWAP = "memory.memsw.limit_in_bytes"
_PERIOD = 100_000  # microseconds in which a container may use its share of the processors

# The device nodes that docker's default container may use: kind, major:minor, and read/write/mknod.
# Any node may be made (m), but only these opened: CAP_MKNOD alone does not reach the host's disks.
DEVICE_RULES = (
    ("c *:* m", "b *:* m")
    + ("c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm")  # null zero full random urandom
    + ("c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm")  # tty console ptmx pts/*
)


class Write(NamedTuple):
    """One value written to one control file; an `optional` one is not in every kernel."""

    path: str
    value: str
    optional: bool = False


class Plan(NamedTuple):
    """A container's place in the hierarchies: the folders to make, then what to write into them."""

    version: int
    folders: tuple[str, ...]
    writes: tuple[Write, ...]


def mounted() -> dict[str, str]:
    """Return where each hierarchy is mounted: by controller for version 1, under the name `unified` for version 2.

    One that this user may not write to is left out. See: proc_pid_mountinfo(5).
    """
    places: dict[str, str] = {}
    with open("/proc/self/mountinfo") as mountinfo:
        for line in mountinfo:
            before, _, after = line.partition(" - ")
            fstype, _, options = after.split(maxsplit=2)
            target = before.split()[4]
            if fstype == "cgroup2":
                places.setdefault("unified", target)
            elif fstype == "cgroup":
                for controller in options.strip().split(","):
                    if controller in CONTROLLERS:
                        places.setdefault(controller, target)
    return {controller: place for controller, place in places.items() if os.access(place, os.W_OK)}


def plan(container_id: str, limits: Limits, places: dict[str, str], privileged: bool = False) -> Plan:
    """Work out a container's cgroups. Pure.

    Version 1 is used where any of its controllers is mounted: a controller belongs to one version at a time.
    """
    if any(controller in places for controller in CONTROLLERS):
        return _plan_v1(container_id, limits, places, privileged)
    if "unified" in places:
        return _plan_v2(container_id, limits, places["unified"])
    if limits != Limits():
        raise StartError(
            "cannot limit the container: there are no cgroups that this user may write to; see 'minidocker doctor'"
        )
    return Plan(0, (), ())


def _plan_v1(container_id: str, limits: Limits, places: dict[str, str], privileged: bool) -> Plan:
    folders = {name: f"{place}/{PARENT}/{container_id}" for name, place in places.items() if name != "unified"}
    writes: list[tuple[str, str, str]] = []
    if limits.memory:
        writes.append(("memory", "memory.limit_in_bytes", str(limits.memory)))
        writes.append(("memory", _MEMORY_AND_SWAP, str(2 * limits.memory)))
    if limits.cpus:
        writes.append(("cpu", "cpu.cfs_period_us", str(_PERIOD)))
        writes.append(("cpu", "cpu.cfs_quota_us", str(int(limits.cpus * _PERIOD))))
    if limits.pids > 0:
        writes.append(("pids", "pids.max", str(limits.pids)))
    if not privileged:
        writes.append(("devices", "devices.deny", "a"))
        writes += [("devices", "devices.allow", rule) for rule in DEVICE_RULES]
    for name, _, _ in writes:
        if name not in folders and name != "devices":  # without it, CAP_MKNOD is withheld: see `engine.create`
            raise StartError(f"cannot limit {name}: this kernel's cgroups have no {name} controller mounted")
    return Plan(
        1,
        tuple(dict.fromkeys(folders.values())),
        tuple(
            Write(f"{folders[name]}/{file}", value, optional=file == _MEMORY_AND_SWAP)
            for name, file, value in writes
            if name in folders
        ),
    )


def _plan_v2(container_id: str, limits: Limits, place: str) -> Plan:
    parent = f"{place}/{PARENT}"
    folder = f"{parent}/{container_id}"
    # A controller is usable in a folder only when every folder above hands it down.
    writes = [Write(f"{above}/cgroup.subtree_control", "+cpu +memory +pids") for above in (place, parent)]
    if limits.memory:
        writes.append(Write(f"{folder}/memory.max", str(limits.memory)))
        writes.append(Write(f"{folder}/memory.swap.max", str(limits.memory), optional=True))
    if limits.cpus:
        writes.append(Write(f"{folder}/cpu.max", f"{int(limits.cpus * _PERIOD)} {_PERIOD}"))
    if limits.pids > 0:
        writes.append(Write(f"{folder}/pids.max", str(limits.pids)))
    return Plan(2, (folder,), tuple(writes))


def devices_are_limited(places: dict[str, str]) -> bool:
    """Say whether the kernel keeps a container from opening device nodes that it makes itself."""
    return "devices" in places


def create(made: Plan) -> None:
    """Make the folders and write the limits."""
    for folder in made.folders:
        explain.step(f"mkdir({folder})", f"mkdir -p {folder}")
        os.makedirs(folder, exist_ok=True)
    for write in made.writes:
        if write.optional and not os.path.exists(write.path):
            continue
        explain.step(f"write({write.path}, {write.value!r})", f"echo {shlex.quote(write.value)} > {write.path}")
        with open(write.path, "w") as file:
            file.write(write.value)


def enter(made: Plan, pid: int) -> None:
    """Move a process into the container's cgroups; its children follow it."""
    for folder in made.folders:
        explain.step(f"write({folder}/cgroup.procs, {pid})", f"echo {pid} > {folder}/cgroup.procs")
        with open(f"{folder}/cgroup.procs", "w") as file:
            file.write(str(pid))


def processes(made: Plan) -> list[int]:
    """Return the process ids, as the caller's pid namespace sees them, that are in the container's cgroups."""
    try:
        with open(f"{made.folders[0]}/cgroup.procs") as file:
            return [int(line) for line in file]
    except (FileNotFoundError, IndexError):
        return []


def oom_kills(made: Plan) -> int:
    """Return how many of the container's processes the kernel has killed for want of memory."""
    file = "memory.events" if made.version == 2 else "memory.oom_control"
    for folder in made.folders:
        with contextlib.suppress(FileNotFoundError), open(f"{folder}/{file}") as lines:
            for line in lines:
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def remove(made: Plan, patience: float = 2.0) -> None:
    """Remove the folders. The kernel needs a moment after the last process has gone: try for `patience` seconds.

    What cannot be removed even then is left to `system prune`.
    """
    deadline = time.monotonic() + patience
    for folder in made.folders:
        while time.monotonic() < deadline:
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.005)


def existing(container_id: str, places: dict[str, str]) -> Plan:
    """Return the folders that a container has, to clean up after it."""
    made = plan(container_id, Limits(), places)
    return made._replace(writes=())
