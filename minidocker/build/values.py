"""The small values inside instructions: flags, durations, signals, ports, and Go's way of writing lists. Pure."""

import re
from collections.abc import Iterable
from typing import Any

from minidocker.build.lines import Line
from minidocker.build.words import quote
from minidocker.errors import DockerfileError

Json = dict[str, Any]

_UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_SHORTEST = 1_000_000


def flags(line: Line, *names: str, booleans: Iterable[str] = ()) -> dict[str, str]:
    """Read the flags `--name=value` of an instruction that knows `names`, and `--name` for the `booleans`.

    Raises DockerfileError for a flag it does not know, one given twice, or one without a value.
    """
    found: dict[str, str] = {}
    for flag in line.flags:
        name, equals, value = flag.removeprefix("--").partition("=")
        if name not in names and name not in booleans:
            raise DockerfileError(f"Unknown flag: {name}")
        if name in found:
            raise DockerfileError(f"Duplicate flag specified: {name}")
        if (name in names and not equals) or (equals and not value and name in booleans):
            raise DockerfileError(f"Missing a value on flag: {name}")
        if name in booleans:
            value = value.lower() or "true"
            if value not in ("true", "false"):
                raise DockerfileError(f"Expecting boolean value for flag {name}, not: {value}")
        found[name] = value
    return found


def duration(text: str) -> int:
    """Read a duration such as `1m30s` or `1.5h`; return nanoseconds.

    See: Go, time.ParseDuration.
    """
    match = re.fullmatch(r"([+-]?)((?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+|0)", text)
    if match is None:
        raise DockerfileError(f"time: invalid duration {quote(text)}, such as 30s or 1m30s")
    parts = re.findall(r"([\d.]+)(ns|us|µs|μs|ms|s|m|h)", match[2])
    total = 0
    for number, unit in parts:
        whole, _, fraction = number.partition(".")
        total += int((whole or "0")[:20]) * _UNITS[unit]
        total += int((fraction or "0")[:18]) * _UNITS[unit] // 10 ** len((fraction or "0")[:18])
    return -total if match[1] == "-" else total


def optional_duration(name: str, text: str) -> int:
    """Read the duration of a HEALTHCHECK flag; 0 where it is not given."""
    value = duration(text) if text else 0
    if value and value < _SHORTEST:
        raise DockerfileError(f"Interval {quote(name)} cannot be less than 1ms")
    return value


def go_duration(nanoseconds: int) -> str:
    """Write a duration as Go does: `0s`, `500ms`, `1m30s`, `1h0m0s`."""
    if nanoseconds < _UNITS["s"]:
        for unit in ("ms", "µs", "ns"):
            if nanoseconds >= _UNITS[unit]:
                return f"{nanoseconds / _UNITS[unit]:.9g}{unit}"
        return "0s"
    minutes, rest = divmod(nanoseconds, _UNITS["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest / _UNITS['s']:.11g}s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + seconds


def go_strings(strings: Iterable[str]) -> str:
    """Write a list as docker's history shows it: `["a" "b"]`."""
    return "[" + " ".join(quote(text) for text in strings) + "]"


def signal_name(text: str) -> str:
    """Check a signal's name or number and return it as it was written.

    Raises DockerfileError for one that Linux does not have.
    """
    import signal

    known = {name for name in dir(signal) if re.fullmatch(r"SIG[A-Z]+\d?", name)}
    name = text.upper() if text.upper().startswith("SIG") else "SIG" + text.upper()
    real_time = re.fullmatch(r"SIGRTM(?:IN(?:\+\d{1,2})?|AX(?:-\d{1,2})?)", name)
    number = int(text) if re.fullmatch(r"\d{1,3}", text) else 0
    if name not in known and not real_time and not 1 <= number <= signal.NSIG - 1:
        raise DockerfileError(f"Invalid signal: {text}")
    return text


def container_ports(text: str) -> list[str]:
    """Read `80`, `53/udp`, `1000-1003` or `8080:80`; return `80/tcp`, … for each port of the container.

    Raises DockerfileError for what is no port or protocol.
    """
    ports, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in ("tcp", "udp", "sctp"):
        raise DockerfileError(f"Invalid proto: {protocol}")
    wanted = ports.rpartition(":")[2]
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", wanted)
    first = int(match[1]) if match else 0
    last = int(match[2] or match[1]) if match else -1
    if not 0 <= first <= last <= 65535:
        raise DockerfileError(f"Invalid containerPort: {wanted}")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def human_size(size: int) -> str:
    """Write a number of bytes as docker does: `0B`, `2.048kB`, `1.5MB`."""
    amount, units = float(size), iter(("B", "kB", "MB", "GB", "TB", "PB"))
    unit = next(units)
    while amount >= 1000:
        amount, unit = amount / 1000, next(units)
    return f"{amount:.4g}{unit}"
