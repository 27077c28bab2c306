"""docker-py's keywords for a new container, read as the engine's options."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from minidocker.container import grants, options, ports
from minidocker.container.options import RunOptions
from minidocker.container.spec import Mount, Port, Ulimit

Json = dict[str, Any]
Words = str | Iterable[str] | None


def run_options(command: Words, asked: Json) -> RunOptions:
    """Return docker-py's keywords as the engine's options. Raises: TypeError for one that is not known."""
    values: Json = {"command": words(command)}
    for name, value in asked.items():
        field, read = _KEYWORDS.get(name, ("", None))
        if read is None:
            raise TypeError(f"run() got an unexpected keyword argument '{name}'; known: {', '.join(sorted(_KEYWORDS))}")
        if value is not None:
            values[field] = (*values.get(field, ()), *read(value)) if field == "mounts" else read(value)
    return RunOptions(**values)


def words(value: Words) -> tuple[str, ...]:
    """Read a command line, a list of words, or nothing."""
    return tuple(shlex.split(value) if isinstance(value, str) else value or ())


def pairs(value: Mapping[str, str] | Iterable[str]) -> tuple[str, ...]:
    """Read variables: a mapping, or a list of `NAME=value`."""
    return tuple(f"{name}={text}" for name, text in value.items()) if isinstance(value, Mapping) else tuple(value)


def _labels(value: Mapping[str, str] | Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple(value.items()) if isinstance(value, Mapping) else tuple((name, "") for name in value)


def _hosts(value: Mapping[str, str] | Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name}:{address}" for name, address in value.items()) if isinstance(value, Mapping) else tuple(value)


def _size(value: int | str) -> int:
    return value if isinstance(value, int) else options.parse_memory(value)


def _volumes(value: Mapping[str, Any] | Iterable[str]) -> list[Mount]:
    """Read volumes: `{"/host": {"bind": "/in", "mode": "ro"}}`, or a list of `/host:/in:ro`."""
    if isinstance(value, Mapping):
        value = [f"{source}:{how['bind']}:{how.get('mode', 'rw')}" for source, how in value.items()]
    return [options.parse_volume(text) for text in value]


def _tmpfs(value: Mapping[str, str]) -> list[Mount]:
    return [options.parse_tmpfs(f"{target}:{how}" if how else target) for target, how in value.items()]


def _ports(value: Mapping[str | int, Any]) -> tuple[Port, ...]:
    """Read ports: `{"80/tcp": 8080}`, with None to choose one, an `(ip, port)` pair, or a list of several."""
    found: list[Port] = []
    for container, hosts in value.items():
        for host in hosts if isinstance(hosts, list) else [hosts]:
            ip, number = host if isinstance(host, tuple) else ("", host)
            found += ports.parse(f"{f'{ip}:' if ip else ''}{number or ''}{':' if ip or number else ''}{container}")
    return tuple(found)


def _rates(value: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, int], ...]:
    """Read limits of disks: `[{"Path": "/dev/sda", "Rate": 1000}]`."""
    return tuple((limit["Path"], limit["Rate"]) for limit in value)


def _ulimits(value: Iterable[Mapping[str, Any]]) -> tuple[Ulimit, ...]:
    """Read resource limits: `[{"Name": "nofile", "Soft": 1024, "Hard": 2048}]`."""
    return tuple(grants.parse_ulimit(f"{limit['Name']}={limit['Soft']}:{limit['Hard']}") for limit in value)


_KEYWORDS: dict[str, tuple[str, Any]] = {
    "auto_remove": ("remove", bool),
    "blkio_weight": ("blkio_weight", int),
    "cap_add": ("cap_add", tuple),
    "cap_drop": ("cap_drop", tuple),
    "detach": ("detach", bool),
    "devices": ("devices", lambda value: tuple(map(grants.parse_device, value))),
    "device_read_bps": ("device_read_bps", _rates),
    "device_read_iops": ("device_read_iops", _rates),
    "device_write_bps": ("device_write_bps", _rates),
    "device_write_iops": ("device_write_iops", _rates),
    "entrypoint": ("entrypoint", words),
    "environment": ("env", pairs),
    "extra_hosts": ("extra_hosts", _hosts),
    "hostname": ("hostname", str),
    "init": ("init", bool),
    "labels": ("labels", _labels),
    "mem_limit": ("memory", _size),
    "name": ("name", str),
    "nano_cpus": ("cpus", lambda value: value / 1e9),
    "network": ("network", str),
    "network_mode": ("network", str),
    "pids_limit": ("pids_limit", int),
    "platform": ("platform", str),
    "ports": ("ports", _ports),
    "privileged": ("privileged", bool),
    "publish_all_ports": ("publish_all", bool),
    "read_only": ("read_only", bool),
    "security_opt": ("security_opt", tuple),
    "userns_mode": ("userns", str),
    "stdin_open": ("interactive", bool),
    "stop_signal": ("stop_signal", str),
    "sysctls": ("sysctls", lambda value: tuple(grants.parse_sysctl(f"{name}={text}") for name, text in value.items())),
    "tmpfs": ("mounts", _tmpfs),
    "tty": ("terminal", bool),
    "ulimits": ("ulimits", _ulimits),
    "user": ("user", str),
    "volumes": ("mounts", _volumes),
    "working_dir": ("workdir", str),
}
