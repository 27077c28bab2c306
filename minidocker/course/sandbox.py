"""What a submission's process may see and do: the box, made of the parts that make the engine's containers.

A worker goes into a room once: namespaces of its own, no network, and a root in which there is nothing but Python,
the system's programs and this package, all read-only: no tests, no solutions, no submissions. The judge is in the room,
too. For each submission a box is forked there: namespaces within the room's, so that nothing outside can be seen,
signalled or kept; then limits, few capabilities, a seccomp filter. Both see one /tmp of limited size, which is new for
each submission.

Whatever cannot be done raises, and what raises gives no verdict.

See: user_namespaces(7), mount_namespaces(7), setrlimit(2), seccomp(2).
"""

import os
import re
import resource
import signal
import sys
from collections.abc import Iterable
from typing import NamedTuple

from minidocker.container import loopback, rootfs  # now: who is nobody may not get to the package's folder
from minidocker.container.mounting import Attach, attach_inside, restrict
from minidocker.errors import StartError
from minidocker.linux import capabilities, seccomp, syscalls, userns
from minidocker.linux.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC
from minidocker.registry import embedded
from minidocker.registry.embedded import Embedded

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOM = syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNET
ROOM |= syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
BOX = (ROOM & ~syscalls.CLONE_NEWNET) | syscalls.CLONE_NEWCGROUP

_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives"),
    *("/etc/protocols", "/etc/services"),  # by which programs name numbers
)
_ASIDE = "/shown"  # before the paths in the room of what this machine has below /tmp
_STAGES = ("/mnt", "/srv", "/media", "/opt", "/home")  # where the room's root is mounted until it is the root
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {f"/dev/{name}": f"/proc/self/fd/{number}" for number, name in enumerate(("stdin", "stdout", "stderr"))}
_LINKS |= {"/dev/fd": "/proc/self/fd", "/dev/shm": "/tmp"}
_FILES = {
    "/etc/passwd": "root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/false\n",
    "/etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "/etc/hostname": "box\n",
    "/etc/resolv.conf": "",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
}
# Who may look into another process of the same user could look at what the filter was made for.
_REFUSED = ("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "kcmp", "pidfd_getfd")
_NAMESPACES = (
    *("clone", "unshare", "setns", "mount", "umount", "umount2", "pivot_root", "chroot", "sethostname"),
    *("open_tree", "move_mount", "mount_setattr"),
)


class Limits(NamedTuple):
    """What one submission may use: seconds for each test, the rest in bytes and processes.

    `memory` is that of each process, and of all together where there are cgroups; `files` is the size of a file, and
    of all in /tmp; `output` what is printed.
    """

    seconds: float = 10
    memory: int = 512 << 20
    processes: int = 64
    files: int = 64 << 20
    output: int = 1 << 20
    descriptors: int = 1024


def images() -> Embedded | None:
    """Return the registry on this disk, whose images tests may build upon and run; None where there is none."""
    return embedded.find(os.environ.get("MINIDOCKER_ROOT", ""))


def trees() -> list[str]:
    """Return the folders and files of this machine that a box shows: the system's, Python's, this package, images."""
    found: list[str] = []
    shown = images()
    for path in (*_SYSTEM, sys.base_prefix, sys.prefix, PACKAGE, shown.path if shown else ""):
        if os.path.exists(path) and not _below(path, [one for one in found if not os.path.islink(one)]):
            found.append(path)
    return found


def shows(path: str) -> str:
    """Return the tree of those that a box shows in which `path` lies; "" where there is none."""
    real = os.path.realpath(path)
    return next((tree for tree in trees() if _below(real, [os.path.realpath(tree)])), "")


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(f"{path}/".startswith(f"{folder}/") for folder in folders)


def stage() -> str:
    """Return the folder upon which the room's root is mounted until it is the root: one that hides nothing we need.

    Raises: StartError where there is none, or where Python itself could not be started in the room.
    """
    if in_room(sys.base_prefix) != sys.base_prefix:  # links and libraries lead to it by its path outside
        raise StartError(f"Python itself is in {sys.base_prefix}: use one that is not below /tmp")
    needed = [*trees(), *_mount_points()]
    for place in _STAGES:
        if os.path.isdir(place) and not any(_below(one, [place]) for one in needed):
            return place
    raise StartError(f"there is no folder to mount the box's root on: make one of {', '.join(_STAGES)}")


def _mount_points() -> list[str]:
    """Return where something is mounted in this mount namespace. See: proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo") as mountinfo:
        return [re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), line.split()[4]) for line in mountinfo]


def in_room(path: str) -> str:
    """Return where the room has what is at `path` on this machine: nothing of ours may be in its /tmp. Pure.

    A new /tmp would hide it; and in a /tmp that learners share, they could put files of their own in its place: a mount
    point can be renamed and removed from a mount namespace in which nothing is mounted there. See: rename(2), EBUSY.
    """
    return f"{_ASIDE}{path}" if _below(path, ["/tmp"]) else path


def plan(shown: Iterable[str]) -> list[Attach]:
    """Say what of this machine is mounted in the room's root, in order. Pure, but for the kinds of files."""
    binds = MS_BIND | MS_REC
    files = [path for path in shown if not os.path.islink(path)]
    mounts = [Attach(path, in_room(path), flags=binds, file=os.path.isfile(path)) for path in files]
    return mounts + [Attach(f"/dev/{name}", f"/dev/{name}", flags=MS_BIND, file=True) for name in _DEVICES]


def lay_out(place: str) -> None:
    """Mount the room's root at `place`. The caller may mount, and is alone in its mount namespace.

    The machine's root does it before it is in the room: who is nobody there might not get to Python's own folder.
    Raises: OSError, StartError.
    """
    shown = trees()
    syscalls.mount("none", "/", flags=MS_REC | MS_PRIVATE)
    syscalls.mount("tmpfs", place, "tmpfs", MS_NOSUID, "mode=755,size=1m")
    root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for attach in plan(shown):
        attach_inside(root, attach)
    os.close(root)
    for name in ("etc", "proc", "sys", "tmp"):
        os.makedirs(f"{place}/{name}", exist_ok=True)
    for path, text in _FILES.items():
        with open(place + path, "w") as file:
            file.write(text)
    links = {path: os.readlink(path) for path in shown if os.path.islink(path)}
    for path, target in {**links, **_LINKS}.items():
        os.symlink(target, place + in_room(path))
    _make_read_only(place)


def _make_read_only(place: str) -> None:
    """Make read-only whatever is mounted at and below `place`, but for the devices.

    What the machine has mounted upon its trees has come along, each a mount with flags of its own.
    """
    for point in _mount_points():
        if _below(point, [place]) and not _below(point, [f"{place}/dev"]):
            restrict(point, MS_RDONLY | MS_NOSUID | (MS_NODEV if point != place else 0))


def enter_room(place: str) -> None:
    """Make what `lay_out` has mounted at `place` the root, with the kernel's own filesystems as the room has them.

    The caller is root of new namespaces, ROOM, and alone in them. What was mounted by another user namespace is locked:
    only a copy can become the root. /proc and /sys are not read-only, for a test's own may ask for no more than these
    have; what could be written there belongs to the machine's root, who is nobody here. Raises: OSError.
    """
    quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC
    loopback.bring_up()
    syscalls.mount("none", "/", flags=MS_REC | MS_PRIVATE)
    syscalls.mount(place, place, flags=MS_BIND | MS_REC)
    syscalls.mount("proc", f"{place}/proc", "proc", quiet)
    syscalls.mount("sysfs", f"{place}/sys", "sysfs", quiet)
    rootfs.pivot(place, 0)
    _find_aside()


def _find_aside() -> None:
    """Have this process look in the room for what it has known by a path outside: modules, Python, the images."""
    for module in list(sys.modules.values()):
        if isinstance(file := getattr(module, "__file__", None), str):
            module.__file__ = in_room(file)
        if isinstance(paths := getattr(module, "__path__", None), list):
            paths[:] = [in_room(path) for path in paths]
    sys.path[:] = [in_room(path) for path in sys.path]
    sys.path_importer_cache.clear()
    for name in ("prefix", "exec_prefix", "base_prefix", "base_exec_prefix", "executable"):
        setattr(sys, name, in_room(getattr(sys, name)))
    if shown := os.environ.get("MINIDOCKER_EMBEDDED"):
        os.environ["MINIDOCKER_EMBEDDED"] = in_room(shown)


def renew_tmp(limits: Limits) -> None:
    """Give the room a new, empty /tmp, in which root's own and everybody else's files fit within the limit."""
    syscalls.mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={limits.files},nr_inodes=20000")


def place_to_print(limits: Limits) -> int:
    """Return an open folder of limited size that has no path: only who has the descriptor can make files in it."""
    syscalls.mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"mode=700,size={limits.output}")
    folder = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    drop_tmp()
    return folder


def drop_tmp() -> None:
    """Let go of the /tmp that `renew_tmp` has made: it ends with the last process that uses it."""
    syscalls.umount2("/tmp", syscalls.MNT_DETACH)


def filter_program(namespaces: bool) -> bytes:
    """Compile the seccomp filter of a box: that of the engine's containers, without looking into other processes.

    With `namespaces`, for tests whose functions run in namespaces of their own, they may be made. Raises: StartError.
    """
    from minidocker.container import seccomp_compile, seccomp_profile, seccomp_program

    profile = seccomp_program.default_profile()
    wanted = seccomp_profile.resolve(profile, capabilities.DEFAULT, seccomp_program.this_host())
    allowed = _NAMESPACES if namespaces else ()
    rules = [rule for rule in wanted.rules if rule.name not in (*_REFUSED, *allowed)]
    rules += [seccomp_profile.Rule(name, seccomp_profile.ALLOW) for name in allowed]
    return seccomp_compile.compile(wanted._replace(rules=tuple(rules)))


def become_root() -> None:
    """Become user 0 of a user namespace that has just been mapped, and end with the parent.

    A change of ids makes a process's files in /proc the machine's root's; only its parent is to be kept out of them.
    """
    with open("/proc/self/setgroups") as file:
        if file.read() == "allow\n":
            os.setgroups(())
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)


def confine(limits: Limits, program: bytes) -> None:
    """Become a box, in a child that is process 1 of new namespaces, BOX, in a room. The caller has one thread.

    The limit on processes counts those of the box's user namespace alone. The filter comes last: what comes before
    makes calls that it refuses. Raises: OSError, StartError.

    See: setrlimit(2), RLIMIT_NPROC; proc_pid_oom_score_adj(5).
    """
    if not program:
        raise OSError("there is no seccomp filter")
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    syscalls.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    syscalls.sethostname("box")
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # the first to go, where memory is short
    os.chdir("/tmp")
    for kind, most in (
        (resource.RLIMIT_AS, limits.memory),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_FSIZE, limits.files),
        (resource.RLIMIT_NOFILE, limits.descriptors),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    kept = capabilities.bits(capabilities.DEFAULT)
    capabilities.limit_bounding_set(kept)
    capabilities.set_own(kept & capabilities.available())
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.load(program)


def is_machines_root() -> bool:
    """Say whether this process is the machine's own root, who can give others ids, and mount without asking."""
    return os.geteuid() == 0 and not userns.is_mapped()


def map_room(pid: int) -> None:
    """Give the room's user namespace its ids: root's 65536 that are nobody's, or an ordinary user's only one.

    Root of the room must not be the machine's: files of the kernel's that belong to it could be written there.
    """
    from minidocker.container import remap

    if is_machines_root():
        remap.write_maps(pid, remap.ranges())
    else:
        userns.map_one(pid, os.geteuid(), os.getegid())
