"""The system calls that Python does not wrap: the only `ctypes` in the project.

Each wrapper has the kernel's name and order of arguments, raises `OSError` with the call as the kernel saw it
(`mount(src=…, dst=…, flags=MS_BIND|MS_REC): EINVAL`), and tells `minidocker.explain` before it acts.

See: the man page of the wrapper's name, section 2.
"""

import ctypes
import errno
import os

from minidocker import explain

TYPE_CHECKING = False  # see `minidocker.explain`

if TYPE_CHECKING:
    from collections.abc import Mapping

SIGCHLD = 17

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351, "armv7l": 386}
_SYS_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "ppc64le": 120, "s390x": 120, "armv7l": 120}
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
_SYS_OPENAT2 = 437  # the same number on every architecture, as for all calls since Linux 5.3
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217, "armv7l": 218}

_TRIES = 1000  # of openat2, while others move and mount

# What each flag is called: by the kernel, and as the option of the shell command that sets it.
_CLONE_NAMES = {
    CLONE_NEWNS: ("CLONE_NEWNS", "--mount"),
    CLONE_NEWCGROUP: ("CLONE_NEWCGROUP", "--cgroup"),
    CLONE_NEWUTS: ("CLONE_NEWUTS", "--uts"),
    CLONE_NEWIPC: ("CLONE_NEWIPC", "--ipc"),
    CLONE_NEWUSER: ("CLONE_NEWUSER", "--user"),
    CLONE_NEWPID: ("CLONE_NEWPID", "--pid"),
    CLONE_NEWNET: ("CLONE_NEWNET", "--net"),
}
_MOUNT_NAMES = {
    MS_RDONLY: ("MS_RDONLY", "ro"),
    MS_NOSUID: ("MS_NOSUID", "nosuid"),
    MS_NODEV: ("MS_NODEV", "nodev"),
    MS_NOEXEC: ("MS_NOEXEC", "noexec"),
    MS_REMOUNT: ("MS_REMOUNT", "remount"),
    MS_NOATIME: ("MS_NOATIME", "noatime"),
    MS_NODIRATIME: ("MS_NODIRATIME", "nodiratime"),
    MS_BIND: ("MS_BIND", "bind"),
    MS_MOVE: ("MS_MOVE", "move"),
    MS_REC: ("MS_REC", ""),
    MS_PRIVATE: ("MS_PRIVATE", ""),
    MS_SLAVE: ("MS_SLAVE", ""),
    MS_SHARED: ("MS_SHARED", ""),
    MS_RELATIME: ("MS_RELATIME", "relatime"),
    MS_STRICTATIME: ("MS_STRICTATIME", "strictatime"),
}

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_RDONLY = 1
MOUNT_ATTR_IDMAP = 0x00100000

_libc = ctypes.CDLL(None, use_errno=True)
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)


def _flags(value: int, names: "Mapping[int, tuple[str, str]]") -> str:
    """Write a bit set in the kernel's names: `MS_BIND|MS_REC`; an unknown bit as a number."""
    known = [name for bit, (name, _) in names.items() if value & bit]
    rest = value & ~sum(bit for bit in names if value & bit)
    return "|".join(known + ([hex(rest)] if rest else [])) or "0"


def _options(value: int, names: "Mapping[int, tuple[str, str]]") -> list[str]:
    """Name the shell options of a bit set."""
    return [option for bit, (_, option) in names.items() if value & bit and option]


def _check(result: int, call: str) -> int:
    """Return `result`, or raise the `OSError` that `errno` stands for, with `call` in its message."""
    if result < 0:
        number = ctypes.get_errno()
        name = errno.errorcode.get(number, str(number))
        raise OSError(number, f"{call}: {name} ({os.strerror(number)})")
    return result


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces; with CLONE_NEWPID only its future children.

    See: unshare(2), namespaces(7).
    """
    call = f"unshare({_flags(flags, _CLONE_NAMES)})"
    explain.step(call, "unshare " + " ".join(_options(flags, _CLONE_NAMES)))
    _check(_libc.unshare(flags), call)


def setns(fd: int, flags: int) -> None:
    """Join the namespaces of kind `flags` that `fd` stands for: a /proc/PID/ns file, or a pidfd (Linux 5.8).

    See: setns(2).
    """
    call = f"setns(fd={fd}, {_flags(flags, _CLONE_NAMES)})"
    explain.step(call, "nsenter --target PID " + " ".join(_options(flags, _CLONE_NAMES)))
    _check(_libc.setns(fd, flags), call)


def clone(flags: int) -> int:
    """Fork a child into new namespaces; return its process id, and 0 in the child. The caller has one thread.

    unshare(2) with CLONE_NEWPID would do it for every child from then on: when the first of them had ended, none could
    be forked any more. The interpreter is told before and after, as os.fork tells it, and not let go of in between.

    See: clone(2), "C library/kernel differences"; Python's C API, PyOS_BeforeFork.
    """
    call = f"clone({_flags(flags, _CLONE_NAMES)}|SIGCHLD)"
    explain.step(call, "unshare --fork " + " ".join(_options(flags, _CLONE_NAMES)))
    number = _SYS_CLONE[os.uname().machine]
    ctypes.pythonapi.PyOS_BeforeFork()
    pid: int = _libc_with_gil.syscall(number, ctypes.c_ulong(flags | SIGCHLD), None, None, None, None)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    return _check(pid, call)


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """Attach a filesystem, or an existing tree (MS_BIND), to `target`; or change how it is mounted.

    A bind mount takes no other flags at its creation: read-only needs a second call with MS_REMOUNT.

    See: mount(2).
    """
    # An open directory is the safest way to say where, but not the most readable.
    shown = os.readlink(target) if target.startswith("/proc/self/fd/") else target
    call = f"mount(src={source}, dst={shown}, type={fstype or 'none'}, flags={_flags(flags, _MOUNT_NAMES)}"
    call += f", data={data})" if data else ")"
    explain.step(call, _mount_shell(source, shown, fstype, flags, data))
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode() or None,
        ctypes.c_ulong(flags),
        os.fsencode(data) or None,
    )
    _check(result, call)


def _mount_shell(source: str, target: str, fstype: str, flags: int, data: str) -> str:
    """Write a mount as mount(8) takes it."""
    if flags & (MS_PRIVATE | MS_SLAVE | MS_SHARED):
        kind = "private" if flags & MS_PRIVATE else "slave" if flags & MS_SLAVE else "shared"
        return explain.shell("mount", f"--make-{'r' if flags & MS_REC else ''}{kind}", target)
    words = ["mount"]
    if flags & MS_BIND and not flags & MS_REMOUNT:
        words += ["--rbind" if flags & MS_REC else "--bind"]
    elif fstype:
        words += ["-t", fstype]
    options = [o for o in _options(flags, _MOUNT_NAMES) if o != "bind" or flags & MS_REMOUNT]
    if data:
        options.append(data)
    if options:
        words += ["-o", ",".join(options)]
    return explain.shell(*words, source or "none", target)


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def open_tree(path: str) -> int:
    """Return a descriptor, closed on exec, of a new mount of what is at `path`, attached nowhere.

    It ends with its last descriptor and its last user. See: open_tree(2), OPEN_TREE_CLONE. Linux 5.2.
    """
    explain.step(f"open_tree({path}, OPEN_TREE_CLONE)")
    flags = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC)
    return _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), f"open_tree({path})")


def mount_setattr(tree: int, attributes: int, namespace: int = 0) -> None:
    """Change the mount that `open_tree` has returned; `namespace` is the user namespace that MOUNT_ATTR_IDMAP maps by.

    See: mount_setattr(2). Linux 5.12.
    """
    call = f"mount_setattr({'MOUNT_ATTR_IDMAP' if namespace else 'MOUNT_ATTR_RDONLY'})"
    explain.step(call)
    given = _MountAttr(attributes, 0, 0, namespace)
    size = ctypes.c_size_t(ctypes.sizeof(given))
    _check(_libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(given), size), call)


def move_mount(tree: int, target: str) -> None:
    """Attach the mount that `open_tree` has returned to `target`. See: move_mount(2). Linux 5.2."""
    call = f"move_mount({target})"
    explain.step(call)
    where = os.fsencode(target)
    _check(_libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, where, _MOVE_MOUNT_F_EMPTY_PATH), call)


def umount2(target: str, flags: int = 0) -> None:
    """Detach what is mounted at `target`; with MNT_DETACH now, and really when its last user is gone.

    See: umount2(2).
    """
    call = f"umount2({target}, {'MNT_DETACH' if flags & MNT_DETACH else 0})"
    explain.step(call, explain.shell("umount", *(["--lazy"] if flags & MNT_DETACH else []), target))
    _check(_libc.umount2(os.fsencode(target), flags), call)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root of this mount namespace and move the old root to `put_old`.

    `new_root` must be a mount point and must not be shared; `put_old` must be at or below it.

    See: pivot_root(2), and its note on `pivot_root(".", ".")`.
    """
    call = f"pivot_root({new_root}, {put_old})"
    explain.step(call, explain.shell("pivot_root", new_root, put_old))
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(number, os.fsencode(new_root), os.fsencode(put_old)), call)


def sethostname(name: str) -> None:
    """Name the host of this UTS namespace.

    See: sethostname(2).
    """
    call = f"sethostname({name})"
    explain.step(call, explain.shell("hostname", name))
    data = os.fsencode(name)
    _check(_libc.sethostname(data, ctypes.c_size_t(len(data))), call)


def prctl(option: int, value: int = 0, third: int = 0) -> int:
    """Change one attribute of the calling process; return what the kernel returned.

    See: prctl(2).
    """
    zero = ctypes.c_ulong(0)
    result: int = _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(third), zero, zero)
    return _check(result, f"prctl({option}, {value})")


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's capability sets, each a bit set with bit N for capability number N.

    See: capset(2), capabilities(7); the header's version is _LINUX_CAPABILITY_VERSION_3.
    """
    call = f"capset(effective={effective:#x}, permitted={permitted:#x}, inheritable={inheritable:#x})"
    explain.step(call, f"setpriv --inh-caps … --bounding-set …  # permitted = {permitted:#x}")
    halves = (_CapData * 2)()
    for half in range(2):
        shift = 32 * half
        halves[half].effective = effective >> shift & 0xFFFFFFFF
        halves[half].permitted = permitted >> shift & 0xFFFFFFFF
        halves[half].inheritable = inheritable >> shift & 0xFFFFFFFF
    header = _CapHeader(0x20080522, 0)
    _check(_libc.capset(ctypes.byref(header), halves), call)


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """Open `path` below `dirfd` under the rules of `resolve`; return a descriptor that is closed on exec.

    With RESOLVE_IN_ROOT the path is followed as if `dirfd` were the root: neither `..`, nor an absolute path, nor
    a symbolic link leads out of it.

    See: openat2(2). Linux 5.6.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    encoded = os.fsencode(path)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    result: int = _libc.syscall(_SYS_OPENAT2, dirfd, encoded, ctypes.byref(how), size)
    for _ in range(_TRIES):  # EAGAIN: something was moved or mounted meanwhile, so `..` could not be vouched for
        if result >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
        result = _libc.syscall(_SYS_OPENAT2, dirfd, encoded, ctypes.byref(how), size)
    if result < 0:  # the text is made only for the error: layers are unpacked through this call, name by name
        names = {RESOLVE_IN_ROOT: ("RESOLVE_IN_ROOT", ""), RESOLVE_BENEATH: ("RESOLVE_BENEATH", "")}
        _check(result, f"openat2(path={os.fsdecode(path)}, resolve={_flags(resolve, names)})")
    return result


def bpf(command: int, attributes: bytes, call: str) -> int:
    """Have a program for the kernel loaded, or attached to what it is to be asked about; `call` is for the error.

    See: bpf(2).
    """
    result: int = _libc.syscall(_SYS_BPF[os.uname().machine], command, attributes, len(attributes))
    return _check(result, call)
