"""`--userns remap`: the container's root is nobody on the host.

The container has a user namespace whose ids are a range of the host's that no user has. On the disk nothing changes:
its layers, what it changes and its volumes belong to 0, 33 and so on as ever, for the container sees them through
mounts that map the ids (see `minidocker.linux.idmap`). So an image needs no second copy, and diff, commit and the next
container without a range find what they know. Only what is bound from the host has the host's ids: there the
container's root is a stranger, which is the point.

The shim, which is root, lays out all of this in a mount namespace of its own and leaves it again; the container's
process takes the mounts along into its own. There, all it needs is below one folder that anybody may reach: ROOT may
lie where only root gets to.

See: user_namespaces(7); docker's `userns-remap`.
"""

import contextlib
import errno
import os
from typing import NamedTuple

from minidocker import explain
from minidocker.container import rootfs
from minidocker.container.rootless import IdRange, subordinate
from minidocker.container.spec import Spec
from minidocker.errors import StartError
from minidocker.linux import syscalls

OWNERS = ("minidocker", "dockremap")
ASIDE = "/run/minidocker.userns"
FIRST, COUNT = 100_000, 65_536


class Ranges(NamedTuple):
    """Which user and group ids of the host are the container's."""

    uids: IdRange
    gids: IdRange


def ranges(folder: str = "/etc") -> Ranges:
    """Return the ids of user `minidocker` or `dockremap` in subuid(5) and subgid(5), or 65536 that are nobody's."""
    found = []
    for name in ("subuid", "subgid"):
        own = [subordinate(f"{folder}/{name}", owner, -1) for owner in OWNERS]
        first, count = next((one for one in own if one[1]), (first_free(_read(f"{folder}/{name}")), COUNT))
        found.append(IdRange(0, first, count))
    return Ranges(*found)


def of(pid: int) -> Ranges:
    """Return which ids of the host the user namespace of a running process has. See: user_namespaces(7)."""
    found = []
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}") as file:
            found.append(IdRange(*map(int, file.readline().split())))
    return Ranges(*found)


def _read(path: str) -> str:
    with contextlib.suppress(FileNotFoundError), open(path) as file:
        return file.read()
    return ""


def first_free(text: str) -> int:
    """Return the first id, from 100000 on, behind all that are given to users in the text of subuid(5). Pure."""
    ends = [FIRST]
    for line in text.splitlines():
        words = line.split(":")
        if len(words) == 3 and words[1].isdigit() and words[2].isdigit():
            ends.append(int(words[1]) + int(words[2]))
    return max(ends)


def aside(layout: rootfs.Layout) -> rootfs.Layout:
    """Return where `lay_out` puts the container's folder. Pure."""
    return layout._replace(container=ASIDE)


def staged(spec: Spec) -> Spec:
    """Return the spec with its mounts' sources where `lay_out` puts them. Pure."""
    mounts = [
        mount if mount.kind == "tmpfs" else mount._replace(source=f"{ASIDE}/mounts/{number}")
        for number, mount in enumerate(spec.mounts)
    ]
    return spec._replace(mounts=tuple(mounts))


def go_aside() -> int:
    """Move this process into a mount namespace of its own; return the descriptor by which it comes back."""
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    return home


def come_back(home: int) -> None:
    """Return to the mount namespace that `go_aside` left; what was mounted aside stays with those who have it, too."""
    syscalls.setns(home, syscalls.CLONE_NEWNS)
    os.close(home)


def lay_out(pid: int, spec: Spec, layout: rootfs.Layout, streams: tuple[int, ...]) -> None:
    """Give the new user namespace of process `pid` its ids, and mount for it what only the host's root can.

    The process's `streams` become its own root's, so that it may give them to its user.

    Raises: StartError where this kernel or this disk cannot map ids.
    """
    from minidocker.linux import idmap

    own = ranges()
    write_maps(pid, own)
    give(streams, own)
    os.makedirs(ASIDE, exist_ok=True)
    _make_places(spec, f"{layout.container}/mounts")
    namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        idmap.mount_mapped(layout.layers, layout.layers, namespace)
        idmap.mount_mapped(layout.container, ASIDE, namespace)
        for plain, moved in zip(spec.mounts, staged(spec).mounts, strict=True):
            if plain.kind == "volume":
                idmap.mount_mapped(plain.source, moved.source, namespace)
            elif plain.kind == "bind":
                syscalls.mount(plain.source, moved.source, flags=syscalls.MS_BIND | syscalls.MS_REC)
        with idmap.files_made_by(own.uids.outside, own.gids.outside):
            rootfs.mount_layers(spec.layers, aside(layout), volatile=spec.remove)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
            raise
        raise StartError(
            f"the ids of {layout.container} cannot be mapped ({error}): --userns remap needs Linux 5.19 and a "
            "filesystem such as ext4 or xfs"
        ) from error
    finally:
        os.close(namespace)


def write_maps(pid: int, own: Ranges) -> None:
    """Say which of the host's ids the user namespace of process `pid` has. See: user_namespaces(7)."""
    for name, (inside, outside, length) in (("uid_map", own.uids), ("gid_map", own.gids)):
        text = f"{inside} {outside} {length}"
        explain.step(f"write(/proc/{pid}/{name}, {text!r})", f"echo '{text}' > /proc/{pid}/{name}")
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(text)


def give(streams: tuple[int, ...], own: Ranges) -> None:
    """Let the container's root own the pipes to its process."""
    for fd in streams:
        if fd >= 0:
            os.fchown(fd, own.uids.outside, own.gids.outside)


def _make_places(spec: Spec, folder: str) -> None:
    """Make the mount points of `staged`, each of the kind of what will be mounted there."""
    os.makedirs(folder, 0o711, exist_ok=True)
    for number, mount in enumerate(spec.mounts):
        if os.path.isdir(mount.source):
            os.makedirs(f"{folder}/{number}", exist_ok=True)
        elif mount.kind != "tmpfs":
            os.close(os.open(f"{folder}/{number}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
