"""Limits and accounting: which folders are made and which files are written, under version 1 and version 2.

Version 1 has a hierarchy a controller, each with a folder of the container's; version 2 has one for all.

See: cgroups(7); the kernel's admin-guide/cgroup-v1/ and admin-guide/cgroup-v2.rst.
"""

import contextlib
import os
import time
from typing import NamedTuple

from minidocker import explain
from minidocker.container.spec import Limits
from minidocker.errors import StartError
from minidocker.linux import userns

PARENT = "minidocker"
_LIMITING = ("memory", "cpu", "cpuacct", "pids", "devices", "blkio")
CONTROLLERS = (*_LIMITING, "freezer")  # those of version 1 that a container has a folder of
_HANDED_DOWN = ("cpu", "memory", "pids", "io")  # what version 2 has of them, by its names
# As much swap as memory, as docker gives: without a limit, a container would go on in swap. A kernel may not count it.
# Weights count only where the disk's scheduler is one that knows them; docker, too, goes on without.
_OPTIONAL = ("memory.memsw.limit_in_bytes", "memory.swap.max", "blkio.bfq.weight", "io.bfq.weight", "io.weight")
_IO_MAX = {"read_bps": "rbps", "write_bps": "wbps", "read_iops": "riops", "write_iops": "wiops"}
_PERIOD = 100_000  # microseconds in which a container may use its share of the processors

# The device nodes that docker's default container may use: kind, major:minor, and read/write/mknod.
# Any node may be made (m), but only these opened: CAP_MKNOD alone does not reach the host's disks.
DEVICE_RULES = (
    ("c *:* m", "b *:* m")
    + ("c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm")  # null zero full random urandom
    + ("c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm")  # tty console ptmx pts/*
)


class Write(NamedTuple):
    """One value written to one control file; an `optional` one is not to be had everywhere."""

    path: str
    value: str
    optional: bool = False


class Limit(NamedTuple):
    """One value for one control file of the container's folder, in the words of one version."""

    controller: str
    file: str
    value: str


class Plan(NamedTuple):
    """A container's place in the hierarchies: the folders to make, then what to write into them.

    `devices` are rules which version 2 takes as a program only: see `minidocker.linux.bpf`.
    """

    version: int
    folders: tuple[str, ...]
    writes: tuple[Write, ...]
    devices: tuple[str, ...] = ()


def mounted() -> dict[str, str]:
    """Return where each hierarchy is mounted: by controller for version 1, under the name `unified` for version 2.

    One that this user may not write to is left out.
    """
    return {controller: place for controller, place in everywhere().items() if os.access(place, os.W_OK)}


def everywhere() -> dict[str, str]:
    """Return where each hierarchy is mounted. See: proc_pid_mountinfo(5)."""
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
    return places


def version(places: dict[str, str]) -> int:
    """Return the version that limits are set by; 0 where there is none. Pure.

    Version 1 is used where any of its controllers is mounted: a controller belongs to one version at a time.
    """
    if any(controller in places for controller in _LIMITING):
        return 1
    return 2 if "unified" in places else 0


def prepare(container_id: str, limits: Limits, privileged: bool, devices: tuple[str, ...] = ()) -> Plan:
    """Find the place for a container's cgroups, and work out what they are to be.

    A process of an ordinary user's namespace opens no device nodes but those that it was given, whatever it is allowed.

    Raises: StartError.
    """
    return plan(container_id, limits, settle(container_id), privileged or userns.is_mapped(), devices)


def settle(container_id: str) -> dict[str, str]:
    """Find the place for a container's cgroups; return as `mounted`, and for version 2 which `controllers` it has.

    There systemd is asked for a folder of our own, `delegated`, where there is a systemd: this process moves into it.
    Without one, or with one that refuses, root makes its own folder at the top, and an ordinary user has none.
    """
    places = everywhere()
    if version(places) != 2:
        return mounted()
    from minidocker.container import systemd

    if manager := systemd.manager():
        unit = f"minidocker-{container_id}-{os.getpid()}.scope"
        with contextlib.suppress(StartError, OSError):
            scope = places["unified"] + systemd.enter_scope(manager, unit, f"Container {container_id[:12]}")
            # A folder that hands controllers down holds no processes itself: we go a step further down.
            own = Plan(2, (f"{scope}/shim",), ())
            create(own)
            enter(own, os.getpid())
            return {**places, "delegated": scope, "controllers": _controllers(scope)}
    return {**mounted(), "controllers": _controllers(places["unified"])}


def _controllers(folder: str) -> str:
    return _read(f"{folder}/cgroup.controllers").strip()


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()


def plan(
    container_id: str, limits: Limits, places: dict[str, str], any_device: bool = False, devices: tuple[str, ...] = ()
) -> Plan:
    """Work out a container's cgroups. Pure.

    `devices` are rules for device nodes beyond docker's; with `any_device` it may open every one it finds or makes.
    """
    allowed = () if any_device else (*DEVICE_RULES, *devices)
    if version(places) == 1:
        return _plan_v1(container_id, limits, places, allowed)
    if version(places) == 2:
        return _plan_v2(container_id, limits, places, allowed)
    if limits != Limits():
        raise StartError(
            "cannot limit the container: there are no cgroups that this user may write to; see 'minidocker doctor'"
        )
    return Plan(0, (), ())


def limit_files(version: int, limits: Limits) -> list[Limit]:
    """Say which files hold the limits on memory, processors and processes, in `version` 1 or 2, in this order. Pure.

    Processors are given as time: so many microseconds in each period. Version 1 counts swap with the memory, version 2
    by itself; a container gets as much swap as memory.

    See: the kernel's cgroup-v1/memory.rst, scheduler/sched-bwc.rst, cgroup-v1/pids.rst; cgroup-v2.rst.
    """
    share = int(limits.cpus * _PERIOD)
    found = []
    if limits.memory and version == 1:
        found.append(Limit("memory", "memory.limit_in_bytes", str(limits.memory)))
        found.append(Limit("memory", "memory.memsw.limit_in_bytes", str(2 * limits.memory)))
    elif limits.memory:
        found.append(Limit("memory", "memory.max", str(limits.memory)))
        found.append(Limit("memory", "memory.swap.max", str(limits.memory)))
    if limits.cpus and version == 1:
        found.append(Limit("cpu", "cpu.cfs_period_us", str(_PERIOD)))
        found.append(Limit("cpu", "cpu.cfs_quota_us", str(share)))
    elif limits.cpus:
        found.append(Limit("cpu", "cpu.max", f"{share} {_PERIOD}"))
    if limits.pids > 0:
        found.append(Limit("pids", "pids.max", str(limits.pids)))
    return found


def disk_files(version: int, limits: Limits) -> list[Limit]:
    """Say which files hold the limits on disks. Pure."""
    found = []
    if limits.io_weight and version == 1:
        found.append(Limit("blkio", "blkio.bfq.weight", str(limits.io_weight)))
    elif limits.io_weight:  # docker's 10 to 1000, which is the scheduler bfq's; the kernel's own go from 1 to 10000
        found.append(Limit("io", "io.bfq.weight", str(limits.io_weight)))
        found.append(Limit("io", "io.weight", f"default {1 + (limits.io_weight - 10) * 9999 // 990}"))
    for what, number, rate in ((throttle.what, throttle.number, throttle.rate) for throttle in limits.throttles):
        if version == 1:
            found.append(Limit("blkio", f"blkio.throttle.{what}_device", f"{number} {rate}"))
        else:
            found.append(Limit("io", "io.max", f"{number} {_IO_MAX[what]}={rate}"))
    return found


def _plan_v1(container_id: str, limits: Limits, places: dict[str, str], devices: tuple[str, ...]) -> Plan:
    folders = {name: f"{places[name]}/{PARENT}/{container_id}" for name in CONTROLLERS if name in places}
    writes = [*limit_files(1, limits), *disk_files(1, limits)]
    if devices:
        writes.append(Limit("devices", "devices.deny", "a"))
        writes += [Limit("devices", "devices.allow", rule) for rule in devices]
    for name, _, _ in writes:
        if name not in folders and name != "devices":  # without it, CAP_MKNOD is withheld: see `engine.create`
            raise StartError(f"cannot limit {name}: this kernel's cgroups have no {name} controller mounted")
    return Plan(
        1,
        tuple(dict.fromkeys(folders.values())),
        tuple(
            Write(f"{folders[name]}/{file}", value, optional=file in _OPTIONAL)
            for name, file, value in writes
            if name in folders
        ),
    )


def _plan_v2(container_id: str, limits: Limits, places: dict[str, str], devices: tuple[str, ...]) -> Plan:
    if "delegated" in places:
        above = [places["delegated"]]
        folder = f"{above[0]}/container"
    else:
        above = [places["unified"], f"{places['unified']}/{PARENT}"]
        folder = f"{above[1]}/{container_id}"
    # A controller is usable in a folder only when every folder above hands it down; what is missing is missed where a
    # limit needs it. All at once: some could be handed down where processes are, and leave our folder fit for threads
    # only (EOPNOTSUPP).
    handed_down = " ".join(f"+{name}" for name in _HANDED_DOWN if name in places["controllers"].split())
    writes = [Write(f"{parent}/cgroup.subtree_control", handed_down, optional=True) for parent in above]
    for _, file, value in (*limit_files(2, limits), *disk_files(2, limits)):
        writes.append(Write(f"{folder}/{file}", value, optional=file in _OPTIONAL))
    return Plan(2, (folder,), tuple(writes), devices)


def devices_are_limited(places: dict[str, str]) -> bool:
    """Say whether the kernel keeps a container from opening device nodes that it makes itself. Pure."""
    return "devices" in places or version(places) == 2


def create(made: Plan) -> None:
    """Make the folders and write the limits.

    Raises: StartError for a limit whose controller this place does not have, OSError.
    """
    for folder in made.folders:
        explain.step(f"mkdir({folder})", f"mkdir -p {folder}")
        os.makedirs(folder, exist_ok=True)
    for write in made.writes:
        explain.step(f"write({write.path}, {write.value!r})", f"{explain.shell('echo', write.value)} > {write.path}")
        try:
            _write(write.path, write.value)
        except FileNotFoundError:
            if not write.optional:
                raise StartError(
                    f"cannot limit the container: there is no {write.path}; this user's cgroups, or this kernel, lack "
                    f"the controller: see 'minidocker doctor'"
                ) from None
        except OSError:
            if not write.optional:
                raise
    if made.devices:
        from minidocker.linux import bpf

        bpf.limit_devices(made.folders[0], made.devices)


def _write(path: str, value: str) -> None:
    """Write one value to a control file. It is not created where it is missing."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(file, value.encode())
    finally:
        os.close(file)


def enter(made: Plan, pid: int) -> None:
    """Move a process into the cgroups of a plan, version 2: under version 1 it calls `go_into`. Its children follow."""
    for folder in made.folders if made.version == 2 else ():
        explain.step(f"write({folder}/cgroup.procs, {pid})", f"echo {pid} > {folder}/cgroup.procs")
        _write(f"{folder}/cgroup.procs", str(pid))


def go_into(made: Plan) -> None:
    """Move this process, which has one thread, into the cgroups of a plan, version 1.

    Before it moves somebody else, or a process with all its threads, the kernel waits until nobody on the machine is in
    the midst of a fork: 8 ms. A thread that moves itself need not wait. Version 2 moves whole processes only.
    """
    for folder in made.folders if made.version == 1 else ():
        explain.step(f"write({folder}/tasks, 0)", f"echo $$ > {folder}/tasks")
        _write(f"{folder}/tasks", "0")


def of(container_id: str, pid: int) -> Plan:
    """Return the cgroups of a running container, which its first process is in; none where it was given none.

    See: cgroups(7), /proc/PID/cgroup.
    """
    places = everywhere()
    found = []
    with open(f"/proc/{pid}/cgroup") as file:
        for line in file:
            _, names, path = line.rstrip("\n").split(":", 2)
            place = places.get(names.split(",")[0] or "unified")
            if place and container_id in path:
                found.append(place + path)
    return Plan(version(places), tuple(found), ())


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


def freeze(made: Plan, still: bool) -> None:
    """Have the container's processes stand still, or go on; return when they do, or would not within a second.

    Where it has no cgroup, or the kernel no freezer, they go on all the while.

    See: cgroup-v2.rst, cgroup.freeze; cgroup-v1/freezer-subsystem.rst.
    """
    if made.version == 2:
        file, value, shown_in, shown = "cgroup.freeze", str(int(still)), "cgroup.events", f"frozen {int(still)}"
    else:
        file, value = "freezer.state", "FROZEN" if still else "THAWED"
        shown_in, shown = file, value
    deadline = time.monotonic() + 1
    for folder in made.folders:
        with contextlib.suppress(FileNotFoundError):
            _write(f"{folder}/{file}", value)
            while shown not in _read(f"{folder}/{shown_in}") and time.monotonic() < deadline:
                time.sleep(0.002)


def remove(made: Plan, patience: float = 2.0) -> None:
    """Remove the folders. The kernel needs a moment after the last process has gone: try for `patience` seconds.

    What cannot be removed even then is left to `system prune`.
    """
    deadline = time.monotonic() + patience
    for folder in made.folders:
        while time.monotonic() < deadline:
            try:
                os.rmdir(folder)
                break
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.005)


def existing(container_id: str) -> Plan:
    """Return the folders that a container's shim has left, to clean up after it. A scope itself systemd takes back."""
    places = everywhere()
    own = [f"{place}/{PARENT}/{container_id}" for place in places.values()]
    if version(places) == 2:
        from minidocker.container import systemd

        own += systemd.scopes(places["unified"], f"minidocker-{container_id}-")
    return Plan(version(places), tuple(folder for folder in dict.fromkeys(own) if os.path.isdir(folder)), ())
