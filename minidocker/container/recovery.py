"""Finding a container's processes again when its state file cannot be read: by the socket at which its shim listens."""

import os
import socket
import struct
import time

from minidocker.container import records
from minidocker.container.attach import connect_to_shim
from minidocker.container.records import State


def running_state(run_folder: str) -> State | None:
    """Return the state of the container with this run-time folder, as its processes tell it; None where none lives.

    What only the file knew, the address and the ports, is not known.

    See: unix(7), SO_PEERCRED: at a socket that listens, who it was that called listen(2).
    """
    try:
        with connect_to_shim(run_folder) as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    shim: int = struct.unpack("3i", credentials)[0]
    for pid in _first_processes(shim):
        return State(
            records.RUNNING,
            pid,
            records.start_time(pid),
            shim,
            records.start_time(shim),
            records.boot_id(),
            error="its state file is damaged",
            started=_moment(records.start_time(pid)),
        )
    return None


def _first_processes(shim: int) -> list[int]:
    """Return the shim's children that are process 1 of a pid namespace: there is one at most.

    See: pid_namespaces(7); proc_pid_status(5), NSpid.
    """
    with open(f"/proc/{shim}/task/{shim}/children") as file:
        children = [int(word) for word in file.read().split()]
    own = os.readlink(f"/proc/{shim}/ns/pid")
    return [pid for pid in children if records.start_time(pid) and os.readlink(f"/proc/{pid}/ns/pid") != own]


def _moment(ticks: int) -> str:
    """Return as RFC 3339 the time so many clock ticks after the machine's boot."""
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.strftime("%Y-%m-%dT%H:%M:%S.0Z", time.gmtime(boot + ticks / os.sysconf("SC_CLK_TCK")))
