"""The root of a container: what is mounted where, and the way in.

`plan` says what will be mounted, purely; `build` mounts it, inside the container's own mount namespace, so that the
host never sees these mounts and they end with the container; `pivot` makes it the root and lets the old one go.
"""

import contextlib
import os
import stat
from typing import NamedTuple

from minidocker import explain
from minidocker.container.spec import Mount, Spec
from minidocker.errors import StartError
from minidocker.linux import syscalls, trees, userns
from minidocker.linux.syscalls import (
    MS_BIND,
    MS_NOATIME,
    MS_NODEV,
    MS_NODIRATIME,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
)

# mount(2) takes at most a page of options.
_LARGEST_OPTIONS = 4095

# Nodes of /dev by name: major, minor. See: docker's defaults; devices.txt in the kernel's admin-guide.
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}

# What of the kernel's files a container must not read, and what it must not write, as docker has it.
MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
) + ("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap")
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


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


class Layout(NamedTuple):
    """Where the parts of a container's root lie on the host. `layers` has a folder for each diff id."""

    layers: str
    container: str

    @property
    def merged(self) -> str:
        """The folder that becomes the container's root."""
        return f"{self.container}/merged"


def overlay_options(layers: tuple[str, ...], container: str, read_only: bool = False, mapped: bool = False) -> str:
    """Write the options of a container's overlay mount, for a process whose working directory is the layers' folder.

    `layers` are names of folders, lowest first; overlayfs wants the topmost first. On top of them lies `init`, which
    holds the mount points that the image lacks. What the container changes goes to `upper`; a `read_only` view only
    looks through it. Redirects and metadata copies are off: with them, an upper directory could not be read by itself.
    In a `mapped` user namespace they are off anyway, and overlayfs keeps its marks in attributes that a user may set.

    See: the kernel's filesystems/overlayfs.rst.
    """
    distinct = dict.fromkeys(reversed(layers))  # two equal layers are one folder, which overlayfs refuses twice (ELOOP)
    lower = ":".join([f"{container}/init", *distinct])
    marks = "userxattr" if mapped else "redirect_dir=off,metacopy=off,index=off"
    if read_only:
        return f"lowerdir={container}/upper:{lower}{',userxattr' if mapped else ''}"
    return f"lowerdir={lower},upperdir={container}/upper,workdir={container}/work,{marks}"


def plan(spec: Spec, container: str, mapped: bool = False, has_tty_group: bool = True) -> list[Attach]:
    """Say what is mounted inside the root, in order: the kernel's filesystems, our files, the user's mounts. Pure.

    In a `mapped` user namespace, the /sys of a network that is not ours can only be shown as the host has it; and
    where the group `tty` is not mapped, terminals cannot belong to it.
    """
    quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC
    read_only = 0 if spec.privileged else MS_RDONLY
    terminals = "newinstance,ptmxmode=0666,mode=0620" + (",gid=5" if has_tty_group else "")
    sys = Attach("sysfs", "/sys", "sysfs", quiet | read_only)
    if mapped and spec.network == "host":
        sys = Attach("/sys", "/sys", flags=MS_BIND | MS_REC | MS_RDONLY)
    mounts = [
        Attach("proc", "/proc", "proc", quiet),
        Attach("tmpfs", "/dev", "tmpfs", MS_NOSUID | syscalls.MS_STRICTATIME, "mode=755,size=65536k"),
        Attach("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, terminals),
        Attach("shm", "/dev/shm", "tmpfs", quiet, "mode=1777,size=65536k"),
        Attach("mqueue", "/dev/mqueue", "mqueue", quiet),
        sys,
    ]
    for name in ("resolv.conf", "hostname", "hosts"):
        flags = MS_BIND | (MS_RDONLY if spec.read_only else 0)
        mounts.append(Attach(f"{container}/{name}", f"/etc/{name}", flags=flags, file=True))
    for mount in sorted(spec.mounts, key=lambda mount: mount.target.count("/")):
        mounts += user_mount(mount)
    return mounts


def user_mount(mount: Mount) -> list[Attach]:
    """Say how one `-v` or `--tmpfs` is mounted."""
    if mount.kind == "tmpfs":
        flags, data = _tmpfs_options(mount.options)
        return [Attach("tmpfs", mount.target, "tmpfs", flags, data)]
    is_file = mount.kind == "bind" and os.path.exists(mount.source) and not os.path.isdir(mount.source)
    flags = MS_BIND | MS_REC | (MS_RDONLY if mount.read_only else 0)
    return [Attach(mount.source, mount.target, flags=flags, file=is_file, fills=mount.kind == "volume")]


def _tmpfs_options(options: str) -> tuple[int, str]:
    """Split docker's `--tmpfs` options into mount(2)'s flags and tmpfs's own."""
    named = {"ro": MS_RDONLY, "noexec": MS_NOEXEC, "nosuid": MS_NOSUID, "nodev": MS_NODEV}
    cleared = {"rw": MS_RDONLY, "exec": MS_NOEXEC, "suid": MS_NOSUID, "dev": MS_NODEV}
    flags, rest = MS_NOEXEC | MS_NOSUID | MS_NODEV, []
    for option in filter(None, options.split(",")):
        if option in named:
            flags |= named[option]
        elif option in cleared:
            flags &= ~cleared[option]
        else:
            rest.append(option)
    return flags, ",".join(rest)


def build(spec: Spec, layout: Layout) -> None:
    """Mount the container's root and everything in it. The caller is alone in its mount namespace."""
    # First of all, nothing that is mounted from here on may show on the host, nor the other way round.
    syscalls.mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount_layers(spec.layers, layout)
    root = os.open(layout.merged, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mapped = userns.is_mapped()
    for attach in plan(spec, layout.container, mapped, userns.has_id(5)):
        if attach.fills:
            _fill_volume(root, attach)
        attach_inside(root, attach)
    _make_devices(root, spec.privileged, mapped)
    _mount_cgroups(root, spec.privileged)
    os.close(root)


def mount_layers(diff_ids: tuple[str, ...], layout: Layout, read_only: bool = False) -> None:
    """Put the layers together at the merged folder: by overlayfs, or as the copy made where it cannot be had."""
    if os.path.isdir(f"{layout.container}/rootfs"):
        syscalls.mount(f"{layout.container}/rootfs", layout.merged, flags=MS_BIND)
        return
    os.chdir(layout.layers)
    layers = tuple(diff_id.removeprefix("sha256:") for diff_id in diff_ids)
    mapped = userns.is_mapped()
    options = overlay_options(layers, layout.container, read_only, mapped)
    if len(options) > _LARGEST_OPTIONS:  # more than 60 layers: name them by open descriptors, which is short
        opened = [str(os.open(layer, os.O_PATH | os.O_CLOEXEC)) for layer in layers]
        os.chdir("/proc/self/fd")
        options = overlay_options(tuple(opened), layout.container, read_only, mapped)
    syscalls.mount("overlay", layout.merged, "overlay", data=options)
    os.chdir("/")


def open_target(root: int, path: str, file: bool = False, links: int = 40) -> int:
    """Open a mount point inside `root`, making it where it is missing; return an O_PATH descriptor.

    A mount goes to this descriptor, never to a path again: the image decides what its paths are, symbolic links
    included, and must not decide what of the host is mounted upon (the class of CVE-2021-30465).
    """
    parts = [part for part in path.split("/") if part]
    for depth in range(1, len(parts) + 1):
        with contextlib.suppress(FileNotFoundError):
            os.close(_open_inside(root, "/".join(parts[:depth])))
            continue
        name, rest = parts[depth - 1], parts[depth:]
        parent = _open_inside(root, "/".join(parts[: depth - 1]) or ".")
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
    return _open_inside(root, "/".join(parts) or ".")


def _open_inside(root: int, path: str) -> int:
    """Open a path as if `root` were `/`: no `..` and no link leads out.

    See: openat2(2), RESOLVE_IN_ROOT; magic links would lead to other processes' files.
    """
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    return syscalls.openat2(root, path, os.O_PATH, resolve=resolve)


def attach_inside(root: int, attach: Attach) -> None:
    """Carry out one mount of a plan below the open directory `root`."""
    target = open_target(root, attach.target, attach.file)
    try:
        _mount_at(target, attach)
    except OSError as error:
        if attach.flags & MS_BIND and error.errno in (2, 20):  # ENOENT, ENOTDIR
            kind = "no such file or directory" if error.errno == 2 else "one is a directory and the other is not"
            raise StartError(f"cannot mount {attach.source} at {attach.target}: {kind}") from error
        raise
    finally:
        os.close(target)


def _mount_at(target: int, attach: Attach) -> None:
    """Mount at an open mount point; read-only by a second call, on the mount that the first one has made.

    Read-only at once would ask it of the filesystem itself, which the host may have mounted, too (sysfs, cgroup).
    """
    where = f"/proc/self/fd/{target}"
    first = attach.flags & (MS_BIND | MS_REC) if attach.flags & MS_BIND else attach.flags & ~MS_RDONLY
    syscalls.mount(attach.source, where, attach.fstype, first, attach.data)
    if attach.flags & MS_RDONLY:
        # The descriptor is of the directory below; nobody else is in this namespace yet to change the path.
        make_read_only(os.readlink(where))


def make_read_only(path: str) -> None:
    """Make the mount at `path` read-only, and leave what else is set for it as it is."""
    syscalls.mount("none", path, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | locked_flags(path))


def locked_flags(path: str) -> int:
    """Return the mount flags at `path` that a remount must repeat.

    See: mount_namespaces(7), on locked flags; statvfs(3).
    """
    now = os.statvfs(path).f_flag
    pairs = (
        *((os.ST_NOSUID, MS_NOSUID), (os.ST_NODEV, MS_NODEV), (os.ST_NOEXEC, MS_NOEXEC)),
        *((os.ST_NOATIME, MS_NOATIME), (os.ST_NODIRATIME, MS_NODIRATIME), (os.ST_RELATIME, syscalls.MS_RELATIME)),
    )
    return sum(flag for bit, flag in pairs if now & bit)


def _make_devices(root: int, all_of_the_hosts: bool, mapped: bool) -> None:
    """Make the nodes and links of /dev, which is a fresh tmpfs; a privileged container gets the host's nodes, too.

    In a `mapped` user namespace nobody may make nodes: the host's own are bound there, one by one.
    """
    dev = _open_inside(root, "dev")
    old_mask = os.umask(0)
    nodes = {name: (0o666 | stat.S_IFCHR, os.makedev(*number)) for name, number in DEVICES.items()}
    if all_of_the_hosts:
        nodes = {**_host_devices(), **nodes}
    for name, (mode, device) in nodes.items():
        kind = "b" if stat.S_ISBLK(mode) else "c"
        number = f"{os.major(device)} {os.minor(device)}"
        explain.step(
            f"mknod(/dev/{name}, {mode:#o}, {number})", f"mknod -m {mode & 0o777:o} dev/{name} {kind} {number}"
        )
        if mapped:
            attach_inside(root, Attach(f"/dev/{name}", f"/dev/{name}", flags=MS_BIND, file=True))
        else:
            os.mknod(name, mode, device, dir_fd=dev)
    for name, points_to in DEVICE_LINKS.items():
        if name == "core" and not os.path.exists(points_to):
            continue  # a kernel without it
        explain.step(f"symlink({points_to}, /dev/{name})", f"ln -s {points_to} dev/{name}")
        os.symlink(points_to, name, dir_fd=dev)
    os.umask(old_mask)
    os.close(dev)


def _host_devices() -> dict[str, tuple[int, int]]:
    """Return mode and number of each node directly in the host's /dev, but for its terminals."""
    nodes = {}
    for entry in os.scandir("/dev"):
        status = entry.stat(follow_symlinks=False)
        if (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)) and entry.name not in ("console", "ptmx"):
            nodes[entry.name] = (status.st_mode, status.st_rdev)
    return nodes


def _mount_cgroups(root: int, writable: bool) -> None:
    """Show the container its own cgroups, read-only, at /sys/fs/cgroup: as the cgroup namespace has them.

    Version 1 has a folder a controller, on a tmpfs; version 2 is one tree.
    """
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | (0 if writable else MS_RDONLY)
    controllers: dict[str, str] = {}
    with open("/proc/self/mountinfo") as mountinfo:
        for line in mountinfo:
            before, _, after = line.partition(" - ")
            fstype, _, options = after.split(maxsplit=2)
            target = before.split()[4]
            if target == "/sys/fs/cgroup" and fstype == "cgroup2":
                attach_inside(root, Attach("cgroup", target, "cgroup2", flags))
                return
            if fstype == "cgroup" and target.startswith("/sys/fs/cgroup/"):
                controllers[target] = ",".join(o for o in options.strip().split(",") if o not in ("rw", "ro", "xattr"))
    if not controllers:
        return
    attach_inside(root, Attach("tmpfs", "/sys/fs/cgroup", "tmpfs", flags & ~MS_RDONLY, "mode=755"))
    for target, options in controllers.items():
        attach_inside(root, Attach("cgroup", target, "cgroup", flags, options))
    if not writable:
        top = _open_inside(root, "sys/fs/cgroup")
        make_read_only(os.readlink(f"/proc/self/fd/{top}"))
        os.close(top)


def _fill_volume(root: int, attach: Attach) -> None:
    """Copy what the image has at a volume's place into the volume, when the volume is still empty."""
    if os.listdir(attach.source):
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        place = _open_inside(root, attach.target.strip("/"))
        trees.copy(f"/proc/self/fd/{place}/.", attach.source)
        os.close(place)


def pivot(merged: str, read_only: bool) -> None:
    """Make `merged` the root of this mount namespace and detach everything else.

    chroot(2) would leave the old root mounted, a few `..` away from any process that keeps a descriptor to it;
    pivot_root takes it out of the namespace altogether. With both names ".", the old root is stacked on the new one,
    and no directory is needed to hold it.

    See: pivot_root(2), notes.
    """
    os.chdir(merged)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.chdir("/")
    if read_only:
        make_read_only("/")


def protect() -> None:
    """Hide and write-protect what of /proc and /sys speaks to the whole machine. The caller is in its new root.

    A masked file is covered by /dev/null, a masked directory by an empty, read-only tmpfs.
    """
    for path in READ_ONLY_PATHS:
        if os.path.exists(path):
            syscalls.mount(path, path, flags=MS_BIND | MS_REC)
            make_read_only(path)
    for path in MASKED_PATHS:
        if os.path.isdir(path):
            syscalls.mount("tmpfs", path, "tmpfs", MS_RDONLY)
        elif os.path.exists(path):
            syscalls.mount("/dev/null", path, flags=MS_BIND)
