"""What a container is to be: everything its birth needs, resolved to values, with nothing left to look up.

A `Spec` is made once, from an image's configuration and the user's options, and kept with the container; `run`,
`restart`, a build's RUN and a grader's sandbox all start from one.

See: OCI runtime-spec, config.md, which says the same at greater length.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

Json = dict[str, Any]

# What `Spec.seccomp` says beside a profile's text.
SECCOMP_DEFAULT = "default"
SECCOMP_UNCONFINED = "unconfined"


class Port(NamedTuple):
    """A published port. `host_port` 0 means: choose a free one; with `host_port_last`, one of that range."""

    container_port: int
    protocol: str = "tcp"
    host_ip: str = "0.0.0.0"  # noqa: S104, docker's default, and the user's to change
    host_port: int = 0
    host_port_last: int = 0


class Mount(NamedTuple):
    """Something attached inside the container's root.

    `kind` is `bind` (`source` is a path of the host), `volume` (`source` is a folder of ours, filled from the image
    when it is new) or `tmpfs`; `options` are mount(8)'s, such as `size=64m`, or `nocopy` for a volume that is not to be
    filled; `name` is a volume's name.
    """

    kind: str
    source: str
    target: str
    read_only: bool = False
    options: str = ""
    name: str = ""


class Throttle(NamedTuple):
    """How fast one disk may be used. `what` is `read_bps`, `write_bps` (bytes), `read_iops` or `write_iops`, a second.

    `number` is the disk's `major:minor`.
    """

    device: str
    number: str
    what: str
    rate: int


class Limits(NamedTuple):
    """What the container may use at most; 0 is no limit. `memory` in bytes, `cpus` in processors.

    `io_weight`, from 10 to 1000, is its share of a busy disk beside other containers.
    """

    memory: int = 0
    cpus: float = 0.0
    pids: int = 0
    io_weight: int = 0
    throttles: tuple[Throttle, ...] = ()


class Device(NamedTuple):
    """A device node: where it is on the host and in the container, and which of read, write, mknod are allowed."""

    source: str
    target: str
    permissions: str = "rwm"


class Ulimit(NamedTuple):
    """A resource limit by the name that docker gives it; -1 is none."""

    name: str
    soft: int
    hard: int


class Spec(NamedTuple):
    """Everything that the birth of a container needs.

    With `stdin_once` standard input ends with that of the first who is attached; without, it stays open for the next.

    `layers` are the image's diff ids, lowest first. `env` holds `NAME=value`. `user` is docker's `user[:group]`, names
    or numbers, looked up inside the container. `network` is `bridge`, `none` or `host`. `capabilities` have no `CAP_`.
    `seccomp` is a profile as JSON, or one of the words above. `userns` is `remap` or "": no user namespace of its own.
    """

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    workdir: str = "/"
    user: str = ""
    hostname: str = ""
    layers: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    read_only: bool = False
    terminal: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    network: str = "bridge"
    ports: tuple[Port, ...] = ()
    exposed: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    limits: Limits = Limits()
    capabilities: tuple[str, ...] = ()
    privileged: bool = False
    no_new_privileges: bool = False
    seccomp: str = SECCOMP_DEFAULT
    init: bool = False
    stop_signal: str = "SIGTERM"
    remove: bool = False
    tied: bool = False  # to the command that started it: it ends when that goes away
    labels: tuple[tuple[str, str], ...] = ()
    userns: str = ""
    devices: tuple[Device, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> Json:
        """Return the value as JSON holds it: objects for parts that have names, and nothing that is as by default."""
        told: Json = {name: value for name, value in self._asdict().items() if value != self._field_defaults.get(name)}
        for name in told.keys() & {"mounts", "ports"}:
            told[name] = [part._asdict() for part in told[name]]
        if "limits" in told:
            told["limits"] = self.limits._asdict()
        return told

    @classmethod
    def from_json(cls, data: Json) -> "Spec":
        """Read what `to_json` wrote."""
        return cls(**{name: _READERS.get(name, _value)(told) for name, told in data.items()})


def _value(told: Any) -> Any:
    return tuple(told) if isinstance(told, list) else told


def _limits(told: Json) -> Limits:
    return Limits(**{**told, "throttles": tuple(Throttle(*throttle) for throttle in told["throttles"])})


_READERS: dict[str, Callable[[Any], Any]] = {
    "mounts": lambda told: tuple(Mount(**mount) for mount in told),
    "ports": lambda told: tuple(Port(**port) for port in told),
    "limits": _limits,
    "devices": lambda told: tuple(Device(*device) for device in told),
    "ulimits": lambda told: tuple(Ulimit(*limit) for limit in told),
    "sysctls": lambda told: tuple((name, value) for name, value in told),
    "labels": lambda told: tuple((name, value) for name, value in told),
}
