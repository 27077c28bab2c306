"""`doctor`: try what containers need on this machine; say what works, what each missing thing costs, how to get it."""

import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from minidocker.cli import human, machine
from minidocker.cli.arguments import Call, Command
from minidocker.errors import StartError

if TYPE_CHECKING:
    from minidocker.engine import Engine

NEEDED_CONTROLLERS = ("memory", "cpu", "pids")
_LITTLE_SPACE = 2 * 10**9
_OLDEST_KERNEL = (5, 8)


class Finding(NamedTuple):
    """What one check found. Where it is not `good`: what that costs, and how to get it; `needed` for any container."""

    name: str
    good: bool
    fact: str
    cost: str = ""
    cure: str = ""
    needed: bool = False


def doctor(call: Call) -> int:
    """Print a line a check; fail where something is missing without which no container runs."""
    engine = call.engine()
    failed = 0
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for finding in findings(engine):
        mark = "ok" if finding.good else ("MISSING" if finding.needed else "missing")
        shade = "32" if finding.good else ("31" if finding.needed else "33")
        print(f"\033[{shade}m{mark:8}\033[0m" if colour else f"{mark:8}", f"{finding.name}: {finding.fact}", flush=True)
        if not finding.good:
            print(f"{'':8} without it: {finding.cost}\n{'':8} to get it: {finding.cure}")
            failed |= finding.needed
    print("\nThis machine runs containers." if not failed else "\nContainers cannot run here yet: see MISSING above.")
    return 1 if failed else 0


def findings(engine: "Engine") -> Iterator[Finding]:
    """Make every check, one after the other."""
    from minidocker.cli import doctor_user

    user = machine.ordinary_user(engine.run)
    yield _root(user)
    for check in (_kernel, _namespaces, _user_namespaces):
        yield check()
    yield _overlay(engine.root)
    if user == 0:
        yield from _cgroups()
    for check in (_nft, _links, _forwarding, _seccomp):
        yield check()
    yield from doctor_user.findings(user)
    yield _space(engine.root)
    yield _hub()
    yield _embedded(engine.root)
    yield _others()


def _root(user: int) -> Finding:
    """Say who asks. Nobody needs to be root: others have a user namespace, which is the next check but two."""
    inside = (
        "who is root in this user namespace only" if os.geteuid() == 0 else "whose containers live in a user namespace"
    )
    return Finding("root", True, f"no, user {user}, {inside}" if user else "yes")


def _kernel() -> Finding:
    release = os.uname().release
    numbers = [int(part) if part.isdigit() else 0 for part in release.partition("-")[0].split(".")[:2]]
    cost = f"the engine relies on system calls of Linux {'.'.join(map(str, _OLDEST_KERNEL))}"
    cure = "upgrade the distribution (Debian 12 has Linux 6.1)"
    return Finding("kernel", tuple(numbers) >= _OLDEST_KERNEL, f"Linux {release}", cost, cure, True)


def _namespaces() -> Finding:
    from minidocker.linux import syscalls

    flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWUTS
    own = 0 if os.geteuid() == 0 else syscalls.CLONE_NEWUSER
    reason = machine.in_child(lambda: syscalls.unshare(flags | own | syscalls.CLONE_NEWIPC))
    cost = "no container runs"
    cure = "run as root, outside of a container that forbids unshare(2)"
    return Finding("namespaces", not reason, reason or "mount, pid, net, uts, ipc", cost, cure, needed=True)


def _user_namespaces() -> Finding:
    from minidocker.linux import syscalls

    reason = machine.in_child(lambda: syscalls.unshare(syscalls.CLONE_NEWUSER))
    most = machine.first_line("/proc/sys/user/max_user_namespaces") or "0"
    cost = "containers run only for root"
    cure = "sysctl user.max_user_namespaces=15000, and kernel.unprivileged_userns_clone=1 where that exists"
    return Finding("user namespaces", not reason, reason or f"up to {most}", cost, cure, needed=os.geteuid() != 0)


def _overlay(root: str) -> Finding:
    from minidocker.linux import syscalls, userns

    def mount() -> None:
        """Mount three empty folders over each other, in a mount namespace that ends with the process."""
        os.makedirs(root, exist_ok=True)
        base = f"{root}/doctor.{os.getpid()}"
        names = ("lower", "upper", "work", "merged")
        try:
            for name in names:
                os.makedirs(f"{base}/{name}")
            uid, gid = os.geteuid(), os.getegid()
            if uid != 0:
                syscalls.unshare(syscalls.CLONE_NEWUSER)
                userns.map_one("self", uid, gid)
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
            options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
            options += ",userxattr" if userns.is_mapped() else ""
            syscalls.mount("overlay", f"{base}/merged", "overlay", data=options)
            syscalls.umount2(f"{base}/merged")
        finally:
            shutil.rmtree(base, ignore_errors=True)

    reason = machine.in_child(mount)
    where = f"on {machine.filesystem(root)}, {root}"
    cost = "every container begins with a copy of its whole image: slow, and large"
    cure = f"modprobe overlay; keep {root} on ext4 or xfs (--root), not on overlay or a network filesystem"
    return Finding("overlayfs", not reason, f"{reason}, {where}" if reason else where, cost, cure)


def _cgroups() -> Iterator[Finding]:
    version, controllers, _ = machine.cgroups()
    cure = "mount them: mount -t cgroup2 none /sys/fs/cgroup"
    yield Finding(
        "cgroups", version > 0, f"version {version}" if version else "not mounted", "no limits: -m, --cpus", cure
    )
    for name in NEEDED_CONTROLLERS if version else ():
        option = {"memory": "-m", "cpu": "--cpus", "pids": "--pids-limit"}[name]
        cure = "boot with cgroup_enable=memory" if name == "memory" else "enable it in the kernel"
        there = name in controllers
        yield Finding(f"cgroup {name}", there, "there" if there else "not there", f"{option} has no effect", cure)


def _nft() -> Finding:
    path = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    cost = "no network but --network none and host"
    return Finding("nftables", path is not None, path or "no nft command", cost, "apt-get install nftables")


def _links() -> Finding:
    """Look for what makes bridges and pairs of virtual cards: modules the kernel has, or can load."""
    have = machine.modules()
    folder = f"/lib/modules/{os.uname().release}/kernel"
    missing = [name for name in ("bridge", "veth") if name not in have]
    good = not missing or os.path.isdir(folder) or not os.path.exists("/proc/modules")
    cost = "no network but --network none and host"
    fact = "bridge, veth" if not missing else f"{', '.join(missing)} built into the kernel, or loaded when needed"
    return Finding("bridges", good, fact if good else f"no {' and '.join(missing)}", cost, "modprobe -a bridge veth")


def _forwarding() -> Finding:
    on = machine.first_line("/proc/sys/net/ipv4/ip_forward") == "1"
    fact = "on" if on else "off, switched on with the first container's network"  # an ordinary user's is the user's own
    return Finding("ip_forward", True, fact)


def _seccomp() -> Finding:
    """Look for filters in the kernel and for the library that makes them: no container goes without by itself."""
    from minidocker.container import seccomp_compile

    cost = "no container runs, but with --security-opt seccomp=unconfined"
    if not machine.first_line("/proc/sys/kernel/seccomp/actions_avail"):
        return Finding("seccomp", False, "not in this kernel", cost, "another kernel", True)
    try:
        seccomp_compile.libseccomp()
    except StartError:
        return Finding("seccomp", False, "no libseccomp", cost, "apt-get install libseccomp2", True)
    return Finding("seccomp", True, "filters")


def _space(root: str) -> Finding:
    free, total = machine.free_space(root)
    fact = f"{human.size(free)} free of {human.size(total)} under {root}"
    cure = "minidocker system prune, or another folder with --root"
    return Finding("disk", free > _LITTLE_SPACE, fact, "pulls and builds may fail", cure)


def _hub() -> Finding:
    from minidocker.registry import client, embedded

    reason = embedded.contact(client.connect("docker.io"), embedded.WAIT)
    cost = "images that begin with no registry's name come from the embedded registry only"
    cure = "a network; behind a proxy, HTTPS_PROXY=http://…"
    return Finding("docker.io", not reason, reason or "answers", cost, cure)


def _embedded(root: str) -> Finding:
    from minidocker.registry import embedded

    here = embedded.find(root)
    names = ", ".join(here.names()) if here else ""
    fact = f"{here.path} has {names}" if here and names else "there is none"
    return Finding("embedded registry", bool(names), fact, "no image without a network", "make setup")


def _others() -> Finding:
    found = machine.other_engines()
    return Finding("other engines", True, f"{', '.join(found)}: left alone" if found else "none running")


COMMANDS: dict[str, Command] = {"doctor": Command(doctor, root=False)}
