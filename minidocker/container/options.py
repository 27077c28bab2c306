"""What the user asked of `run` and `create`: docker's options as values, before the image has had its say.

The command line and the Python API both fill a `RunOptions`; `minidocker.engine.create` makes a `Spec` of it.
"""

import posixpath
import re
import signal
from collections.abc import Iterable
from typing import NamedTuple

from minidocker.container.spec import Device, Mount, Port, Ulimit
from minidocker.errors import InvalidArgument


class RunOptions(NamedTuple):
    """The options of `run`, named and meant as docker's.

    `entrypoint` None leaves the image's, an empty tuple clears it. `env` holds `NAME=value` (the caller has resolved
    bare names against its own environment). `mounts` come from `parse_volume` and `parse_tmpfs`. `memory` is in bytes.
    The disks' limits are pairs of a device's path and a rate: bytes a second, or operations a second.
    `security_opt` is for `parse_security`.
    """

    command: tuple[str, ...] = ()
    name: str = ""
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    hostname: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    terminal: bool = False
    interactive: bool = False
    detach: bool = False
    remove: bool = False
    read_only: bool = False
    mounts: tuple[Mount, ...] = ()
    ports: tuple[Port, ...] = ()
    publish_all: bool = False
    expose: tuple[str, ...] = ()
    network: str = "bridge"
    extra_hosts: tuple[str, ...] = ()
    memory: int = 0
    cpus: float = 0.0
    pids_limit: int = 0
    blkio_weight: int = 0
    device_read_bps: tuple[tuple[str, int], ...] = ()
    device_read_iops: tuple[tuple[str, int], ...] = ()
    device_write_bps: tuple[tuple[str, int], ...] = ()
    device_write_iops: tuple[tuple[str, int], ...] = ()
    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    userns: str = ""
    devices: tuple[Device, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    init: bool = False
    stop_signal: str = ""
    platform: str = ""


class ExecOptions(NamedTuple):
    """The options of `exec`, named and meant as docker's."""

    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    terminal: bool = False
    interactive: bool = False
    detach: bool = False
    privileged: bool = False


_SIZE = r"(\d+(?:\.\d+)?) ?([bkmgtp]?)(?:i?b)?"
_VOLUME_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"
# More memory than there is means no limit to the kernel; less than this cannot hold a process's first pages.
SMALLEST_MEMORY = 6 * 1024 * 1024


def parse_size(text: str) -> int:
    """Return the bytes that `512m`, `1.5g` or `4096` stands for; units are powers of 1024.

    Raises: InvalidArgument, in docker's words.
    """
    match = re.fullmatch(_SIZE, text.strip(), re.IGNORECASE)
    if not match:
        raise InvalidArgument(f"invalid size: '{text}': write a number and a unit, as in 512m or 1g")
    return int(float(match[1]) * 1024 ** "bkmgtp".index(match[2].lower() or "b"))


def parse_memory(text: str) -> int:
    """Return a memory limit in bytes.

    Raises: InvalidArgument for one too small to start anything in.
    """
    size = parse_size(text)
    if 0 < size < SMALLEST_MEMORY:
        raise InvalidArgument("minimum memory limit allowed is 6MB")
    return size


def parse_rate(text: str) -> tuple[str, int]:
    """Read `/dev/sda:1mb`: a device, and how many bytes a second.

    Raises: InvalidArgument, in docker's words.
    """
    form = "The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer"
    device, rate = _device_and_rate(text)
    try:
        return device, parse_size(rate)
    except InvalidArgument:
        raise InvalidArgument(
            f"invalid rate for device: {text}. {form}. Unit is optional and can be kb, mb, or gb"
        ) from None


def parse_operations(text: str) -> tuple[str, int]:
    """Read `/dev/sda:100`: a device, and how many operations a second.

    Raises: InvalidArgument, in docker's words.
    """
    device, rate = _device_and_rate(text)
    if not rate.isdecimal():
        form = "The correct format is <device-path>:<number>. Number must be a positive integer"
        raise InvalidArgument(f"invalid rate for device: {text}. {form}")
    return device, int(rate)


def _device_and_rate(text: str) -> tuple[str, str]:
    device, colon, rate = text.partition(":")
    if not colon:
        raise InvalidArgument(f"bad format: {text}")
    if not device.startswith("/dev/"):
        raise InvalidArgument(f"bad format for device path: {text}")
    return device, rate


def parse_weight(text: str) -> int:
    """Return a share of the disks, 10 to 1000; 0 leaves it as it is.

    Raises: InvalidArgument, in docker's words.
    """
    if not text.isdecimal() or not (int(text) == 0 or 10 <= int(text) <= 1000):
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    return int(text)


def parse_volume(text: str) -> Mount:
    """Read one `-v`: `/host:/in`, `/host:/in:ro`, `name:/in`, or `/in` alone for a volume without a name.

    Raises: InvalidArgument, in docker's words.
    """
    parts = text.split(":")
    if len(parts) > 3 or not all(parts):
        raise InvalidArgument(f"invalid volume specification: '{text}'")
    source, target = (parts[0], parts[1]) if len(parts) > 1 else ("", parts[0])
    modes = set(parts[2].split(",")) if len(parts) == 3 else set()
    unknown = modes - {"ro", "rw", "z", "Z", "nocopy", "private", "rprivate", "cached", "consistent", "delegated"}
    if unknown:
        raise InvalidArgument(f"invalid mode: {parts[2]}")
    if not target.startswith("/"):
        raise InvalidArgument(
            f"invalid volume specification: '{text}': invalid mount config for type \"volume\": "
            f"invalid mount path: '{target}' mount path must be absolute"
        )
    if posixpath.normpath(target) in ("/", "//"):
        raise InvalidArgument(f"invalid volume specification: '{text}': destination can't be '/'")
    if source.startswith("/"):
        return Mount("bind", source, target, "ro" in modes)
    if source and not re.fullmatch(_VOLUME_NAME, source):
        raise InvalidArgument(
            f'create {source}: "{source}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )
    return Mount("volume", "", target, "ro" in modes, "nocopy" if "nocopy" in modes else "", source)


def parse_tmpfs(text: str) -> Mount:
    """Read one `--tmpfs`: `/run` or `/run:size=64m,mode=1777`.

    Raises: InvalidArgument, in docker's words.
    """
    target, _, options = text.partition(":")
    if not target.startswith("/"):
        raise InvalidArgument(f"invalid mount config for type \"tmpfs\": invalid mount path: '{target}'")
    return Mount("tmpfs", "tmpfs", target, options=options)


class Security(NamedTuple):
    """What `security_opt` asks for; `seccomp` is "" where nothing is said of it."""

    no_new_privileges: bool = False
    seccomp: str = ""


def parse_security(texts: Iterable[str]) -> Security:
    """Read each `--security-opt`: `no-new-privileges[=true|false]`, `seccomp=unconfined`, `seccomp=` a profile's text.

    What asks for no confinement by AppArmor or SELinux gets what it asks for. What asks for some is refused.

    Raises: InvalidArgument, in docker's words.
    """
    found = Security()
    for text in texts:
        name, _, value = text.partition("=") if "=" in text else text.partition(":")
        if text == "no-new-privileges" or (name == "no-new-privileges" and value in ("true", "false")):
            found = found._replace(no_new_privileges=value != "false")
        elif name == "seccomp" and value:
            found = found._replace(seccomp=value)
        elif (name, value) not in (("apparmor", "unconfined"), ("label", "disable")):
            raise InvalidArgument(
                f'invalid --security-opt: "{text[:80]}": known are no-new-privileges, seccomp=FILE, '
                "seccomp=unconfined, apparmor=unconfined and label=disable"
            )
    return found


def parse_signal(text: str) -> int:
    """Return the number of the signal that `KILL`, `SIGKILL`, `9` or `RTMIN+3` names.

    See: signal(7), Real-time signals: systemd as process 1 is stopped by SIGRTMIN+3.

    Raises: InvalidArgument, in docker's words.
    """
    name, plus, distance = text.upper().removeprefix("SIG").partition("+" if "+" in text else "-")
    try:
        number = int(name) if name.isdecimal() else int(signal.Signals[f"SIG{name}"])
        if plus and name in ("RTMIN", "RTMAX"):
            number += int(plus + distance)
        elif plus or number not in signal.valid_signals():
            raise ValueError
        return number
    except (KeyError, ValueError):
        raise InvalidArgument(f"invalid signal: {text}") from None
