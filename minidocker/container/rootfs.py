"""The root of a container: what is mounted where, and the way in.

`plan` says what will be mounted, purely; `build` mounts it, inside the container's own mount namespace, so that the
host never sees these mounts and they end with the container; `pivot` makes it the root and lets the old one go.
"""

import contextlib
import errno
import fcntl
import os
import stat
from typing import NamedTuple

from minidocker import explain
from minidocker.container import grants
from minidocker.container.mounting import (
    Attach,
    attach_inside,
    attach_upon,
    found,
    open_inside,
    open_target,
    refuse_link,
    restrict,
)
from minidocker.container.spec import Device, Mount, Spec
from minidocker.errors import StartError
from minidocker.linux import syscalls, trees, userns
from minidocker.linux.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC

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
KERNEL_MOUNTS = 6  # so many of a plan's mounts, the first, are the kernel's own filesystems


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
    flags = MS_BIND | (MS_RDONLY if spec.read_only else 0)
    names = ("resolv.conf", "hostname", "hosts")
    own = [Attach(f"{container}/{name}", f"/etc/{name}", flags=flags, file=True) for name in names]
    for mount in spec.mounts:
        own += user_mount(mount, without_devices(spec))
    return mounts + sorted(own, key=lambda attach: attach.target.rstrip("/").count("/"))  # none hides another


def without_devices(spec: Spec) -> int:
    """Return the flag for what an image has filled, where a container may not make device nodes.

    Then it may not open those either that the image brings along: without a cgroup that says which, nothing else would
    keep it from the host's disks.
    """
    return 0 if "MKNOD" in spec.capabilities else MS_NODEV


def user_mount(mount: Mount, volume_flags: int = 0) -> list[Attach]:
    """Say how one `-v` or `--tmpfs` is mounted."""
    if mount.kind == "tmpfs":
        flags, data = _tmpfs_options(mount.options)
        return [Attach("tmpfs", mount.target, "tmpfs", flags, data)]
    is_file = mount.kind == "bind" and os.path.exists(mount.source) and not os.path.isdir(mount.source)
    flags = MS_BIND | MS_REC | (MS_RDONLY if mount.read_only else 0)
    flags |= volume_flags if mount.kind == "volume" else 0
    fills = mount.kind == "volume" and mount.options != "nocopy"
    return [Attach(mount.source, mount.target, flags=flags, file=is_file, fills=fills)]


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


def refuse_chroot() -> None:
    """Make sure that this process's root is that of its mount namespace, in which it is alone. It has one thread.

    In a chroot it is not: pivot_root(2) would move the chroot's root, and leave the namespace's in reach, for `exec`
    and for whoever may call chroot(2). To join one's own namespace once more is to go to its root.

    See: setns(2), mount namespaces. Raises: StartError.
    """
    before = _mount_of_root()
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(own, syscalls.CLONE_NEWNS)
    os.close(own)
    if _mount_of_root() != before:
        raise StartError(
            "minidocker runs in a chroot, which a container could leave: enter it by pivot_root(8) instead"
        )


def _mount_of_root() -> tuple[str, int]:
    """Return which mount, and what of it, is this process's root. See: proc_pid_fdinfo(5), mnt_id."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{root}") as file:
            mount = next(line for line in file if line.startswith("mnt_id:"))
        return mount, os.fstat(root).st_ino
    finally:
        os.close(root)


def build(spec: Spec, layout: Layout) -> None:
    """Mount the container's root and everything in it. The caller is alone in its mount namespace.

    What the user and the image want mounted comes last: until then nobody but us and the kernel has a say in what lies
    in /proc, /sys and /dev, and what protects them is made of them (the class of CVE-2025-31133).
    """
    # First of all, nothing that is mounted from here on may show on the host, nor the other way round.
    syscalls.mount("none", "/", flags=MS_REC | MS_PRIVATE)
    if spec.userns:  # its layers are mounted, but by another namespace, and so locked: only a copy can become the root
        syscalls.mount(layout.merged, layout.merged, flags=MS_BIND | MS_REC)
    else:
        mount_layers(spec.layers, layout, volatile=spec.remove)
    root = os.open(layout.merged, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mapped = userns.is_mapped()
    mounts = plan(spec, layout.container, mapped, userns.has_id(5))
    for attach in mounts:
        if attach.fills:
            _fill_volume(root, attach)
    for name in ("proc", "sys"):
        refuse_link(root, name)
    for attach in mounts[:KERNEL_MOUNTS]:
        attach_inside(root, attach)
    _make_devices(root, spec, mapped)
    _mount_cgroups(root, spec.privileged)
    if not spec.privileged:
        protect(root)
    for attach in mounts[KERNEL_MOUNTS:]:
        attach_inside(root, attach)
    os.close(root)


def mount_layers(diff_ids: tuple[str, ...], layout: Layout, read_only: bool = False, volatile: bool = False) -> None:
    """Put the layers together at the merged folder: by overlayfs, or as the copy made where it cannot be had."""
    if os.path.isdir(f"{layout.container}/rootfs"):
        syscalls.mount(f"{layout.container}/rootfs", layout.merged, flags=MS_BIND)
        return
    os.chdir(layout.layers)
    layers = tuple(diff_id.removeprefix("sha256:") for diff_id in diff_ids)
    mapped = userns.is_mapped()
    options = overlay_options(layers, layout.container, read_only, mapped)
    opened: list[int] = []
    if len(options) > _LARGEST_OPTIONS:  # more than 60 layers: name them by open descriptors, which is short
        opened = [os.open(layer, os.O_PATH | os.O_CLOEXEC) for layer in layers]
        os.chdir("/proc/self/fd")
        options = overlay_options(tuple(map(str, opened)), layout.container, read_only, mapped)
    _mount_overlay(layout.merged, options, volatile)
    os.chdir("/")
    for fd in opened:  # by an open folder of the host's, the container's paths could lead out of it
        os.close(fd)


def _mount_overlay(merged: str, options: str, volatile: bool) -> None:
    """Mount an overlay. What is in a `volatile` one need not outlive this boot: neither fsync(2) nor its unmounting,
    which writes out what anybody has written to that disk, has an effect. A mark in `work` forbids to mount it again.

    See: the kernel's filesystems/overlayfs.rst, Volatile mount.
    """
    if volatile:
        try:
            syscalls.mount("overlay", merged, "overlay", data=f"{options},volatile")
            return
        except OSError as error:
            if error.errno != errno.EINVAL:  # before Linux 5.10
                raise
    syscalls.mount("overlay", merged, "overlay", data=options)


def _make_devices(root: int, spec: Spec, mapped: bool) -> None:
    """Make the nodes and links of /dev, which is a fresh tmpfs; a privileged container gets the host's nodes, too.

    What `--device` names lies where it says, which may be anywhere in the root.

    In a `mapped` user namespace nobody may make nodes: the host's own are bound there, one by one.
    """
    dev = open_inside(root, "dev")
    old_mask = os.umask(0)
    nodes = {name: (0o666 | stat.S_IFCHR, os.makedev(*number)) for name, number in DEVICES.items()}
    if spec.privileged:
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
    for asked in spec.devices:
        for node, node_mode, node_number in grants.nodes(asked):
            _make_granted(root, node, node_mode, node_number, mapped)
    os.umask(old_mask)
    os.close(dev)


def _make_granted(root: int, device: Device, mode: int, number: int, mapped: bool) -> None:
    """Make one node that `--device` asks for, with the host's own mode, or bind it."""
    if mapped:
        attach_inside(root, Attach(device.source, device.target, flags=MS_BIND, file=True))
        return
    folder = open_target(root, os.path.dirname(device.target))
    explain.step(f"mknod({device.target}, {mode:#o}, {os.major(number)} {os.minor(number)})", f"mknod {device.target}")
    with contextlib.suppress(FileExistsError):
        os.mknod(os.path.basename(device.target), mode, number, dir_fd=folder)
    os.close(folder)


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

    Version 1 has a folder a controller, on a tmpfs; version 2 is one tree. What could write in version 1 would name a
    program for the host to run when a cgroup is empty (release_agent, the class of CVE-2022-0492).
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
        top = open_inside(root, "sys/fs/cgroup")
        restrict(os.readlink(f"/proc/self/fd/{top}"), MS_RDONLY)
        os.close(top)


def _fill_volume(root: int, attach: Attach) -> None:
    """Copy what the image has at a volume's place into the volume, when the volume is still empty."""
    volume = os.open(attach.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(volume, fcntl.LOCK_EX)  # against another container that fills the same one
        with found(root, attach.target) as place:
            if place and os.path.isdir(place) and not os.listdir(volume):
                trees.copy(f"{place}/.", attach.source)
    finally:
        os.close(volume)


def pivot(merged: str, flags: int) -> None:
    """Make `merged` the root of this mount namespace and detach everything else.

    chroot(2) would leave the old root mounted, a few `..` away from any process that keeps a descriptor to it;
    pivot_root takes it out of the namespace altogether. With both names ".", the old root is stacked on the new one,
    and no directory is needed to hold it. `flags` are what the new root is restricted by.

    See: pivot_root(2), notes.
    """
    os.chdir(merged)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.chdir("/")
    if flags:
        restrict("/", flags)


def protect(root: int) -> None:
    """Hide and write-protect what of /proc and /sys speaks to the whole machine.

    A masked file is covered by /dev/null, a masked directory by an empty, read-only tmpfs.
    """
    for path in READ_ONLY_PATHS:
        with found(root, path) as here:
            if here:
                attach_upon(here, Attach(here, path, flags=MS_BIND | MS_REC | MS_RDONLY))
    with found(root, "/dev/null") as null:
        for path in MASKED_PATHS:
            with found(root, path) as here:
                if here and os.path.isdir(here):
                    attach_upon(here, Attach("tmpfs", path, "tmpfs", MS_RDONLY))
                elif here:
                    attach_upon(here, Attach(null, path, flags=MS_BIND))
