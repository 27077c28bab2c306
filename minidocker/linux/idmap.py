"""Showing a tree of files with other owners: idmapped mounts, by the system calls that Python does not wrap.

Through an idmapped mount, a file of user 0 looks as if it belonged to the user that a user namespace has for 0, and
what that user makes belongs to user 0 on the disk. So one tree serves many ranges of ids, and nothing is chowned.

See: mount_setattr(2), MOUNT_ATTR_IDMAP (Linux 5.12; below overlayfs 5.19); open_tree(2), move_mount(2), setfsuid(2).
"""

import contextlib
import os
from collections.abc import Iterator

from minidocker import explain
from minidocker.linux import syscalls
from minidocker.linux.syscalls import _libc


def mount_mapped(source: str, target: str, namespace: int) -> None:
    """Mount the tree at `source` on `target`, its owners as the user namespace `namespace`, a descriptor, has them."""
    words = explain.shell(source, target)
    explain.step(f"mount({source}, {target}), idmapped:", f"mount --bind -o X-mount.idmap=/proc/PID/ns/user {words}")
    tree = syscalls.open_tree(source)
    try:
        syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_IDMAP, namespace)
        syscalls.move_mount(tree, target)
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
