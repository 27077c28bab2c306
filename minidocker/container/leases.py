"""Which address belongs to which container: one symbolic link per address, `RUN/network/leases/172.18.0.2`.

A link is made whole or not at all, fails where the name is taken, and is read in one system call; so it is the usual
way to put a lock with its owner into one file. It points at nothing: its text is the owner, `ID PID START`. The lease
holds as long as that process, with that start time, is alive.

See: symlink(2); `ls -l RUN/network/leases`.
"""

import contextlib
import os
from typing import NamedTuple

from minidocker.container import records
from minidocker.errors import NetworkError


class Lease(NamedTuple):
    """An address and the container that has it. `pid` and `start` name the container's first process."""

    address: str
    container_id: str
    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether the owner still runs."""
        return records.start_time(self.pid) == self.start


def take(folder: str, subnet: str, container_id: str, pid: int, preferred: str = "") -> Lease:
    """Lease an address of `subnet` to a container: the preferred one where it is free, else the lowest that is.

    The network's own address, the gateway's (the first) and the broadcast address are never given. The caller holds
    the network's lock and has reclaimed what the dead left.

    Raises: NetworkError when no address is left.
    """
    taken = {lease.address for lease in held(folder)}
    first, size = bounds(subnet)
    if _offset(preferred, first) not in range(2, size - 1) or preferred in taken:
        free = (dotted(first + offset) for offset in range(2, size - 1))
        preferred = next((address for address in free if address not in taken), "")
    if not preferred:
        raise NetworkError(
            f"no address left in {subnet}: {size - 3} containers have one; end one, or set a larger MINIDOCKER_SUBNET"
        )
    lease = Lease(preferred, container_id, pid, records.start_time(pid))
    os.symlink(f"{container_id} {pid} {lease.start}", f"{folder}/{preferred}")
    return lease


def held(folder: str) -> list[Lease]:
    """Return all leases, dead ones too."""
    leases = []
    for address in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # released meanwhile
            container_id, pid, start = os.readlink(f"{folder}/{address}").split()
            leases.append(Lease(address, container_id, int(pid), int(start)))
    return leases


def release(folder: str, container_id: str) -> None:
    """Give back whatever the container has; nothing where it has nothing."""
    with contextlib.suppress(FileNotFoundError):
        for lease in held(folder):
            if lease.container_id == container_id:
                os.unlink(f"{folder}/{lease.address}")


def is_subnet(text: str) -> bool:
    """Say whether a text is like `172.18.0.0/16`, with room for containers."""
    address, _, prefix = text.partition("/")
    parts = address.split(".")
    whole = len(parts) == 4 and all(part.isdecimal() and int(part) < 256 for part in parts)
    return whole and prefix.isdecimal() and 8 <= int(prefix) <= 29


def bounds(subnet: str) -> tuple[int, int]:
    """Return the first address of `172.18.0.0/16` as a number, and how many there are."""
    address, _, prefix = subnet.partition("/")
    return number(address), 1 << 32 - int(prefix)


def gateway(subnet: str) -> str:
    """Return the subnet's first address, which is the bridge's."""
    return dotted(bounds(subnet)[0] + 1)


def number(address: str) -> int:
    """Return an IPv4 address as the number it is."""
    return int.from_bytes(bytes(int(part) for part in address.split(".")), "big")


def dotted(value: int) -> str:
    """Return a number as the IPv4 address it stands for."""
    return ".".join(str(part) for part in value.to_bytes(4, "big"))


def _offset(address: str, first: int) -> int:
    """Return how far `address` lies above `first`; -1 for none."""
    return number(address) - first if address else -1
