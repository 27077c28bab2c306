"""What a container is given beyond the usual: device nodes of the host, resource limits, settings of the kernel.

`--device`, `--ulimit`, `--sysctl`: how they are written, and how they are carried out.

See: setrlimit(2); sysctl(8), and namespaces(7) for which settings are a namespace's own.
"""

import os
import re
import resource
import stat

from minidocker import explain
from minidocker.container.spec import Device, Ulimit
from minidocker.errors import InvalidArgument, StartError

_ULIMIT = r"([a-z]+)=(-1|\d+)(?::(-1|\d+))?"
_ULIMITS = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"),
    *("rtprio", "rttime", "sigpending", "stack"),
)
# Settings that belong to a container's own ipc namespace; those below `net.` belong to its network namespace.
_IPC_SYSCTLS = (
    *("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax"),
    *("kernel.shmmni", "kernel.shm_rmid_forced"),
)
_SYSCTL_NAME = r"[a-z0-9_]+(?:[./][A-Za-z0-9_-]+)+"


def parse_device(text: str) -> Device:
    """Read one `--device`: `/dev/fuse`, `/dev/fuse:/dev/other`, `/dev/fuse:/dev/other:r`, `/dev/fuse:r`.

    Raises: InvalidArgument, in docker's words.
    """
    source, *rest = text.split(":")
    permissions = "rwm"
    if rest and not rest[-1].startswith("/"):
        permissions = rest.pop()
        if not permissions or set(permissions) - set("rwm") or len(set(permissions)) < len(permissions):
            raise InvalidArgument(f"bad mode specified: {permissions}")
    target = rest[0] if rest else source
    if len(rest) > 1 or not source.startswith("/") or not target.startswith("/"):
        raise InvalidArgument(f"bad format for path: {text}: --device takes /dev/NAME[:/dev/OTHER][:rwm]")
    return Device(source, target, permissions)


def parse_ulimit(text: str) -> Ulimit:
    """Read one `--ulimit`: `nofile=1024` or `nofile=1024:2048`.

    Raises: InvalidArgument, in docker's words.
    """
    match = re.fullmatch(_ULIMIT, text)
    if not match:
        raise InvalidArgument(f"invalid ulimit argument: {text}")
    name, soft = match[1], int(match[2])
    hard = int(match[3]) if match[3] else soft
    if name not in _ULIMITS:
        raise InvalidArgument(f"invalid ulimit type: {name}: it is one of {', '.join(_ULIMITS)}")
    if hard != -1 and (soft == -1 or soft > hard):
        raise InvalidArgument(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return Ulimit(name, soft, hard)


def parse_sysctl(text: str) -> tuple[str, str]:
    """Read one `--sysctl`: `net.ipv4.ip_forward=1`; only settings that a container has for itself.

    Raises: InvalidArgument, in docker's words.
    """
    name, equals, value = text.partition("=")
    own = name in _IPC_SYSCTLS or name.startswith(("net.", "fs.mqueue."))
    if not equals or not own or not re.fullmatch(_SYSCTL_NAME, name):
        raise InvalidArgument(f"sysctl '{text}' is not allowed")
    return name, value


def nodes(device: Device) -> list[tuple[Device, int, int]]:
    """Return the nodes that a `--device` means, each with its mode and number: one, or all below a directory.

    Raises: StartError, in docker's words.
    """
    complaint = f'error gathering device information while adding custom device "{device.source}"'
    try:
        status = os.stat(device.source)
        if stat.S_ISDIR(status.st_mode):
            inside = [Device(f"{device.source}/{name}", f"{device.target}/{name}", device.permissions)
                      for name in sorted(os.listdir(device.source))]  # fmt: skip
            return [node for each in inside if _is_node_or_directory(each.source) for node in nodes(each)]
    except OSError as error:
        raise StartError(f"{complaint}: {(error.strerror or 'failed').lower()}") from error
    if not _is_node_or_directory(device.source):
        raise StartError(f"{complaint}: not a device node")
    return [(device, status.st_mode, status.st_rdev)]


def _is_node_or_directory(path: str) -> bool:
    mode = os.stat(path).st_mode
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)


def rules(devices: tuple[Device, ...]) -> tuple[str, ...]:
    """Return what the devices cgroup is to allow besides: `c 10:229 rwm`."""
    found = []
    for device in devices:
        for each, mode, number in nodes(device):
            kind = "b" if stat.S_ISBLK(mode) else "c"
            found.append(f"{kind} {os.major(number)}:{os.minor(number)} {each.permissions}")
    return tuple(found)


def set_ulimits(ulimits: tuple[Ulimit, ...]) -> None:
    """Set resource limits for this process and what it becomes; to raise one takes more than docker's capabilities.

    Raises: StartError.
    """
    for limit in ulimits:
        number = getattr(resource, f"RLIMIT_{limit.name.upper()}", None)
        if number is None:
            raise StartError(f"this system has no ulimit {limit.name}")
        explain.step(f"setrlimit(RLIMIT_{limit.name.upper()}, {limit.soft}, {limit.hard})", f"ulimit # {limit.name}")
        try:
            resource.setrlimit(number, (limit.soft, limit.hard))
        except (OSError, ValueError) as error:
            raise StartError(f"error setting rlimit {limit.name} to {limit.soft}:{limit.hard}: {error}") from error


def set_sysctls(settings: tuple[tuple[str, str], ...]) -> None:
    """Write settings of the namespaces that this process is in. The host's /proc is still in place.

    Raises: StartError.
    """
    for name, value in settings:
        path = f"/proc/sys/{name.replace('.', '/')}"
        explain.step(f"write({path}, {value!r})", f"sysctl -w {name}='{value}'")
        try:
            with open(path, "w") as file:
                file.write(value)
        except OSError as error:
            raise StartError(f"cannot set sysctl {name}={value}: {(error.strerror or 'failed').lower()}") from error
