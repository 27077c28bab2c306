"""A tree with everything in it that a layer can hold, and a way to compare two trees."""

import hashlib
import os
import socket
import stat
from typing import NamedTuple

# cap_net_raw+ep as the kernel stores it (struct vfs_cap_data, revision 2): full of NULs, and not UTF-8 in general.
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")[:20]
ODD_NAME = os.fsdecode(b"not-utf-8-\xff\xfe")
LONG = "n" * 200


class Facts(NamedTuple):
    """What one name in a tree is, as far as a layer can say it."""

    kind: int
    mode: int
    owner: tuple[int, int]
    device: int
    mtime: int
    content: str
    xattrs: dict[str, bytes]
    first_name: str


def snapshot(root: str, unit: int = 10**9, xattrs: bool = True) -> dict[str, Facts]:
    """Return the facts of everything below `root`; times in units of so many nanoseconds. Sockets are left out."""
    found: dict[str, Facts] = {}
    inodes: dict[int, str] = {}
    for folder, folders, files in os.walk(root):
        for name in sorted([*folders, *files], key=os.fsencode):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISSOCK(status.st_mode):
                continue
            shown = os.path.relpath(path, root)
            first = shown if stat.S_ISDIR(status.st_mode) else inodes.setdefault(status.st_ino, shown)
            owner = status.st_uid, status.st_gid
            mode, mtime = stat.S_IMODE(status.st_mode), status.st_mtime_ns // unit
            attributes = _xattrs(path) if xattrs else {}
            kind = stat.S_IFMT(status.st_mode)
            found[shown] = Facts(kind, mode, owner, status.st_rdev, mtime, _content(path, kind), attributes, first)
    return found


def _content(path: str, kind: int) -> str:
    if kind == stat.S_IFLNK:
        return os.readlink(path)
    if kind != stat.S_IFREG:
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _xattrs(path: str) -> dict[str, bytes]:
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)}


def make_everything(root: str, user_attributes: bool = True) -> None:
    """Fill `root` with one of everything. Needs root."""

    def write(name: str, data: bytes, mode: int = 0o644) -> str:
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, mode)
        return path

    write("plain", b"plain content\n" * 5000)
    write("empty", b"")
    write("bin/setuid", b"#!/bin/sh\n", 0o4755)
    write("bin/setgid-sticky", b"#!/bin/sh\n", 0o3711)
    os.setxattr(write("bin/capable", b"\x7fELF", 0o755), "security.capability", CAPABILITY)
    if user_attributes:
        os.setxattr(write("bin/user-attribute", b"x"), "user.odd", b"\x00\xff\n=binary\x00")
        os.setxattr(os.path.join(root, "bin"), "user.on-a-folder", b"yes")
    os.link(write("links/one", b"linked"), os.path.join(root, "links/two"))
    os.link(os.path.join(root, "links/one"), os.path.join(root, "a-third-name"))
    os.symlink("one", os.path.join(root, "links/relative"))
    os.symlink("/nowhere/" + "x" * 150, os.path.join(root, "links/long-and-dangling"))
    os.symlink("../..", os.path.join(root, "links/out"))
    os.mkfifo(os.path.join(root, "fifo"), 0o620)
    os.mknod(os.path.join(root, "null"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(os.path.join(root, "block"), stat.S_IFBLK | 0o640, os.makedev(259, 70_000))
    os.chmod(os.path.join(root, "fifo"), 0o620)
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(root)
        listener.bind("socket")
        os.chdir("/")
    with open(os.path.join(root, "sparse"), "wb") as file:
        file.write(b"start")
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(5 << 20)
    write(f"long/{LONG}", b"long name")
    write(f"long/{LONG}-dir/{LONG}/{'d/' * 60}deep", b"deep")
    os.symlink(LONG, os.path.join(root, "long", "link"))
    os.link(os.path.join(root, "long", LONG), os.path.join(root, "long", LONG + "-link"))
    write(ODD_NAME, b"odd")
    os.symlink(ODD_NAME, os.path.join(root, ODD_NAME + "-link"))
    write("ünïcode-✓", b"unicode")
    write("-leading-dash", b"")
    write("new\nline and space ", b"")
    os.chown(write("owned", b"owned"), 1234, 4321)
    os.chown(write("owned-by-a-great-number", b""), 3_000_000, 4_000_000)
    os.chown(os.path.join(root, "links", "relative"), 77, 88, follow_symlinks=False)
    os.mkdir(os.path.join(root, "folder"))
    os.chown(os.path.join(root, "folder"), 5, 6)
    os.chmod(os.path.join(root, "folder"), 0o2770)
    for number, (folder, folders, files) in enumerate(os.walk(root, topdown=False)):
        for name in [*folders, *files]:
            moment = 1_000_000_000_123_456_789 + number * 10**9
            os.utime(os.path.join(folder, name), ns=(moment, moment), follow_symlinks=False)
    os.utime(os.path.join(root, "empty"), ns=(0, -1_500_000_000))
