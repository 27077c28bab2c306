"""Mounting inside a root that somebody else has made: the image says what its paths are, and must not say more.

Every mount goes to an open descriptor, never to a path again: a symbolic link in the image must not decide what of the
host is mounted upon (the class of CVE-2021-30465).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from minidocker.errors import StartError
from minidocker.linux import syscalls
from minidocker.linux.syscalls import (
    MS_BIND,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_RELATIME,
    MS_REMOUNT,
)


class Attach(NamedTuple):
    """One mount: `target` is a path inside the container's root; `flags` are mount(2)'s; `file` makes a file of it.

    `fills` says that what the image has there is first copied into `source`, when that is still empty.
    """

    source: str
    target: str
    fstype: str = ""
    flags: int = 0
    data: str = ""
    file: bool = False
    fills: bool = False


def attach_inside(root: int, attach: Attach) -> None:
    """Carry out one mount of a plan below the open directory `root`."""
    target = open_target(root, attach.target, attach.file)
    try:
        if attach.fstype != "proc":
            _check_target(root, target, attach.target)
        attach_upon(f"/proc/self/fd/{target}", attach)
    except OSError as error:
        if attach.flags & MS_BIND and error.errno in (errno.ENOENT, errno.ENOTDIR):
            missing = error.errno == errno.ENOENT
            kind = "no such file or directory" if missing else "one is a directory and the other is not"
            raise StartError(f"cannot mount {attach.source} at {attach.target}: {kind}") from error
        raise
    finally:
        os.close(target)


def _check_target(root: int, target: int, path: str) -> None:
    """Refuse to mount upon the whole root or within /proc, wherever `path` has led: /proc has to be the kernel's word.

    See: runc's checkProcMount.
    """
    inside = os.path.relpath(os.readlink(f"/proc/self/fd/{target}"), os.readlink(f"/proc/self/fd/{root}"))
    if inside == ".":
        raise StartError(f'"{path}" cannot be mounted because it is the root')
    if inside.split("/")[0] == "proc":
        raise StartError(f'"{path}" cannot be mounted because it is inside /proc')


def attach_upon(where: str, attach: Attach) -> None:
    """Mount at an open mount point, `/proc/self/fd/N`.

    A second call, on the mount that the first one has made, makes it read-only: at once, that would be asked of the
    filesystem itself, which the host may have mounted, too (sysfs, cgroup). A bind mount takes no flags before that.
    """
    is_bind = attach.flags & MS_BIND
    later = attach.flags & (MS_RDONLY | MS_NODEV if is_bind else MS_RDONLY)
    syscalls.mount(attach.source, where, attach.fstype, attach.flags & ~later, attach.data)
    if later:
        # The descriptor is of the directory below; nobody else is in this namespace yet to change the path.
        restrict(os.readlink(where), later)


def restrict(path: str, flags: int) -> None:
    """Make the mount at `path` read-only (MS_RDONLY) or its device nodes useless (MS_NODEV); the rest stays."""
    syscalls.mount("none", path, flags=MS_REMOUNT | MS_BIND | flags | locked_flags(path))


def locked_flags(path: str) -> int:
    """Return the mount flags at `path` that a remount must repeat.

    See: mount_namespaces(7), on locked flags; statvfs(3).
    """
    now = os.statvfs(path).f_flag
    pairs = (
        *((os.ST_NOSUID, MS_NOSUID), (os.ST_NODEV, MS_NODEV), (os.ST_NOEXEC, MS_NOEXEC)),
        *((os.ST_NOATIME, MS_NOATIME), (os.ST_NODIRATIME, MS_NODIRATIME), (os.ST_RELATIME, MS_RELATIME)),
    )
    return sum(flag for bit, flag in pairs if now & bit)


def open_target(root: int, path: str, file: bool = False, links: int = 40) -> int:
    """Open a mount point inside `root`, making it where it is missing; return an O_PATH descriptor.

    A mount goes to this descriptor, never to a path again: the image decides what its paths are, symbolic links
    included, and must not decide what of the host is mounted upon (the class of CVE-2021-30465).
    """
    parts = [part for part in path.split("/") if part]
    for depth in range(1, len(parts) + 1):
        with contextlib.suppress(FileNotFoundError):
            os.close(open_inside(root, "/".join(parts[:depth])))
            continue
        name, rest = parts[depth - 1], parts[depth:]
        parent = open_inside(root, "/".join(parts[: depth - 1]) or ".")
        try:
            if file and not rest:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
            else:
                os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:  # a link to what is missing: make that, inside the root
            if not links:
                raise
            leads_to = os.path.join("/", *parts[: depth - 1], os.readlink(name, dir_fd=parent), *rest)
            return open_target(root, leads_to, file, links - 1)
        finally:
            os.close(parent)
    return open_inside(root, "/".join(parts) or ".")


def open_inside(root: int, path: str) -> int:
    """Open a path as if `root` were `/`: no `..` and no link leads out.

    See: openat2(2), RESOLVE_IN_ROOT; magic links would lead to other processes' files.
    """
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    return syscalls.openat2(root, path, os.O_PATH, resolve=resolve)


@contextlib.contextmanager
def found(root: int, path: str) -> Iterator[str]:
    """Yield a way to what is at `path` inside `root`, or nothing where this kernel has no such file."""
    try:
        fd = open_inside(root, path.strip("/"))
    except (FileNotFoundError, NotADirectoryError):
        yield ""
        return
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def refuse_link(root: int, name: str) -> None:
    """Refuse an image in which the place of one of the kernel's filesystems is a symbolic link.

    The image, or a process in the container, could turn such a link to files of its own, and have them read and
    written as the kernel's (the class of CVE-2019-19921).
    """
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISLNK(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode):
            raise StartError(f"cannot mount /{name}: it is a symbolic link in the image")
