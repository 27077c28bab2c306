"""Showing a tree of files with other owners: idmapped mounts, by the system calls that Python does not wrap.

Through an idmapped mount, a file of user 0 looks as if it belonged to the user that a user namespace has for 0, and
what that user makes belongs to user 0 on the disk. So one tree serves many ranges of ids, and nothing is chowned.

See: mount_setattr(2), MOUNT_ATTR_IDMAP (Linux 5.12; below overlayfs 5.19); open_tree(2), move_mount(2), setfsuid(2).
"""

import contextlib
import ctypes
import os
import shlex
from collections.abc import Iterator

from minidocker import explain
from minidocker.linux import syscalls
from minidocker.linux.syscalls import _check, _libc

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442  # the same on every architecture
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_IDMAP = 0x00100000


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def mount_mapped(source: str, target: str, namespace: int) -> None:
    """Mount the tree at `source` on `target`, its owners as the user namespace `namespace`, a descriptor, has them."""
    call = f"mount_setattr(open_tree({source}, OPEN_TREE_CLONE), MOUNT_ATTR_IDMAP), move_mount({target})"
    words = f"{shlex.quote(source)} {shlex.quote(target)}"
    explain.step(call, f"mount --bind -o X-mount.idmap=/proc/PID/ns/user {words}")
    flags = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC)
    tree = _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags), f"open_tree({source})")
    try:
        attributes = _MountAttr(_MOUNT_ATTR_IDMAP, 0, 0, namespace)
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        result = _libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
        _check(result, f"mount_setattr({source}, MOUNT_ATTR_IDMAP)")
        where = os.fsencode(target)
        result = _libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, where, _MOVE_MOUNT_F_EMPTY_PATH)
        _check(result, f"move_mount({source}, {target})")
    finally:
        os.close(tree)


@contextlib.contextmanager
def files_made_by(uid: int, gid: int) -> Iterator[None]:
    """Let what root makes in the block belong to another user, and keep root's powers over files.

    Who mounts an overlay is who makes files in its working directory from then on. The kernel takes those powers away
    with the id, and lets them be taken back.

    See: setfsuid(2), capabilities(7), "Effect of user ID changes on capabilities".
    """
    explain.step(f"setfsuid({uid}), setfsgid({gid})")
    with open("/proc/self/status") as status:
        powers = int(next(line for line in status if line.startswith("CapPrm:")).split()[1], 16)
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    try:
        syscalls.capset(powers, powers, 0)
        yield
    finally:
        _libc.setfsuid(0)
        _libc.setfsgid(0)
