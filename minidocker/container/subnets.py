"""Which subnet the bridge gets: the first of a list that nothing on this machine uses."""

import os
import re

from minidocker.container import leases
from minidocker.errors import InvalidArgument, NetworkError

# Docker has 172.17.0.0/16, and goes through the same list for the networks that its users add.
CANDIDATES = (*(f"172.{n}.0.0/16" for n in range(18, 32)), *(f"192.168.{n}.0/20" for n in range(0, 256, 16)))


def choose(remembered: str = "") -> str:
    """Choose a subnet: MINIDOCKER_SUBNET where it is set, else what the bridge had before or the first that is free.

    The caller holds a lock that all who choose hold, until the kernel has a route to the subnet.

    Raises: InvalidArgument, NetworkError.
    """
    with open("/proc/net/fib_trie") as file:
        used = routes(file.read())
    with open("/etc/resolv.conf") as file:
        used += nameservers(file.read())
    wanted = os.environ.get("MINIDOCKER_SUBNET", "")
    if wanted:
        return _free(check(wanted), used)
    return pick([remembered, *CANDIDATES] if remembered else CANDIDATES, used)


def pick(candidates: "list[str] | tuple[str, ...]", used: list[tuple[int, int]]) -> str:
    """Return the first candidate that shares no address with what is used, given as (first address, how many)."""
    for candidate in candidates:
        first, size = leases.bounds(candidate)
        if not any(first < other + count and other < first + size for other, count in used):
            return candidate
    raise NetworkError(
        "no free subnet for the containers' bridge: every private range has a route; name one in MINIDOCKER_SUBNET"
    )


def routes(fib_trie: str) -> list[tuple[int, int]]:
    """Read all routes of all tables, except those to everywhere, and with them the machine's own addresses.

    A leaf `|-- 172.18.0.0` is followed by a line `/16 link UNICAST` for each route there. See: proc(5), net/fib_trie.
    """
    found, address = [], 0
    for line in fib_trie.splitlines():
        if leaf := re.search(r"\|-- ([0-9.]+)$", line):
            address = leases.number(leaf[1])
        elif (prefix := re.match(r"\s+/(\d+) ", line)) and prefix[1] != "0":
            found.append((address, 1 << 32 - int(prefix[1])))
    return found


def nameservers(resolv_conf: str) -> list[tuple[int, int]]:
    """Read the name servers: one behind the default route would be out of reach in a subnet of ours."""
    return [
        (leases.number(address), 1)
        for address in re.findall(r"(?m)^nameserver\s+(\d+\.\d+\.\d+\.\d+)\s*$", resolv_conf)
    ]


def check(text: str) -> str:
    """Check that `10.9.0.0/24` is a subnet with room for containers.

    Raises: InvalidArgument.
    """
    import ipaddress

    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise InvalidArgument(f"MINIDOCKER_SUBNET={text}: not a subnet like 10.9.0.0/24: {error}") from None
    if not 8 <= subnet.prefixlen <= 29:
        raise InvalidArgument(f"MINIDOCKER_SUBNET={text}: the prefix must be between /8 and /29")
    return str(subnet)


def _free(subnet: str, used: list[tuple[int, int]]) -> str:
    """Return the subnet if it is free."""
    try:
        return pick((subnet,), used)
    except NetworkError:
        raise NetworkError(f"MINIDOCKER_SUBNET={subnet}: this machine has a route into it; name another") from None
