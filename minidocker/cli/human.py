"""Times, sizes, ports and commands in the words that docker has for them. Pure: the present is handed in."""

import time
from collections.abc import Iterable

from minidocker.container.spec import Port

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"})


def epoch(text: str) -> float:
    """Return the seconds since 1970 that an RFC 3339 time stands for, 0 where it is none.

    By hand, since `datetime` costs a tenth of the whole command to import. The day is counted as in the proleptic
    Gregorian calendar with the year beginning in March, so that the leap day is the last of the year.
    """
    try:
        year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
        clock = int(text[11:13]) * _HOUR + int(text[14:16]) * _MINUTE + int(text[17:19])
        zone = text[19:].lstrip(".0123456789")
        fraction = text[19 : len(text) - len(zone)]
        offset = 0
        if zone and zone[0] in "+-":
            offset = (int(zone[1:3]) * _HOUR + int(zone[4:6]) * _MINUTE) * (-1 if zone[0] == "-" else 1)
    except ValueError:
        return 0.0
    year, month = (year - 1, month + 9) if month < 3 else (year, month - 3)
    days = year * 365 + year // 4 - year // 100 + year // 400 + (month * 153 + 2) // 5 + day - 719469
    return days * _DAY + clock - offset + (float(fraction) if len(fraction) > 1 else 0.0)


def duration(seconds: float) -> str:
    """Return a length of time as people say it: `About a minute`, `3 weeks`."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole < _MINUTE:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if whole < _HOUR:
        return "About a minute" if whole < 2 * _MINUTE else f"{whole // _MINUTE} minutes"
    hours = int(seconds / _HOUR + 0.5)
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    if days < 730:
        return f"{days // 30} months"
    return f"{days // 365} years"


def ago(created: str, now: float) -> str:
    """Return how long ago something was made, `N/A` where nobody wrote it down."""
    then = epoch(created)
    return f"{duration(now - then)} ago" if then > 0 else "N/A"


def local_time(created: str) -> str:
    """Return a moment in this machine's time zone: `2024-05-01 14:00:00 +0200 CEST`."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(epoch(created)))


def local_iso(created: str) -> str:
    """Return a moment in this machine's time zone, as RFC 3339: `2024-05-01T14:00:00+02:00`."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(epoch(created)))
    return f"{text[:-2]}:{text[-2:]}" if text[-5:] != "+0000" else f"{text[:-5]}Z"


def size(count: float, digits: int = 3) -> str:
    """Return a size in units of 1000 with so many significant digits: `2.56kB`, `188MB`."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while float(f"{count:.{digits}g}") >= 1000 and unit != "TB":
        count, unit = count / 1000, next(units)
    return f"{count:.{digits}g}{unit}"


def binary_size(count: float) -> str:
    """Return a size in units of 1024 with four significant digits: `7.761GiB`."""
    units = iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while count >= 1024 and unit != "TiB":
        count, unit = count / 1024, next(units)
    return f"{count:.4g}{unit}"


def ellipsis(text: str, width: int) -> str:
    """Return `text`, cut to `width` characters with a mark where something is missing."""
    return text if len(text) <= width else text[: width - 1] + "…"


def quoted(text: str) -> str:
    """Return `text` between double quotes, with what would break the line escaped."""
    return f'"{text.translate(_ESCAPES)}"'


def command_line(args: Iterable[str]) -> str:
    """Return a command on one line; arguments with spaces are quoted."""
    return " ".join(f"'{arg}'" if " " in arg else arg for arg in args)


def ports(published: Iterable[Port], exposed: Iterable[str]) -> str:
    """Return the PORTS column: `22/tcp`, `0.0.0.0:32770->22/tcp`, neighbours on the same numbers merged to ranges.

    `exposed` are the ports, written `22/tcp`, that the image or `--expose` names; those published are not told twice.
    """
    reachable = {(port.container_port, port.protocol) for port in published}
    entries = [("", *_split_port(text), 0) for text in exposed]
    entries = [entry for entry in entries if entry[1:3] not in reachable]
    entries += [(port.host_ip, port.container_port, port.protocol, port.host_port) for port in published]
    entries.sort(key=lambda entry: (entry[1], entry[0], entry[3], entry[2]))
    finished: list[str] = []
    moved: list[str] = []
    groups: dict[tuple[str, str], tuple[int, int]] = {}
    for address, inside, protocol, outside in entries:
        if address and outside != inside:
            moved.append(f"{_host(address)}:{outside}->{inside}/{protocol}")
            continue
        key = (address, protocol)
        first, last = groups.get(key, (inside, inside - 1))
        if inside > last + 1:
            finished.append(_group(key, first, last))
            first = inside
        groups[key] = (first, inside)
    return ", ".join(finished + [_group(key, *span) for key, span in groups.items()] + moved)


def _split_port(text: str) -> tuple[int, str]:
    number, _, protocol = text.partition("/")
    return int(number), protocol or "tcp"


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _group(key: tuple[str, str], first: int, last: int) -> str:
    address, protocol = key
    span = f"{first}" if first == last else f"{first}-{last}"
    return f"{_host(address)}:{span}->{span}/{protocol}" if address else f"{span}/{protocol}"
