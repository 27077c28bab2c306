"""What a container does with its own network before anything else: 127.0.0.1 answers, and no port is root's alone."""

import contextlib
import fcntl
import socket
import struct

from minidocker import explain
from minidocker.linux import userns


def bring_up() -> None:
    """Switch on `lo` in the calling process's own network namespace: 127.0.0.1 and ::1 answer from then on.

    Two requests of the older kind, by ioctl, because the child of the shim that needs this has little at hand.

    See: netdevice(7), SIOCGIFFLAGS, SIOCSIFFLAGS, struct ifreq.
    """
    get_flags, set_flags, up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        request = fcntl.ioctl(channel, get_flags, struct.pack("16sh22x", b"lo", 0))
        flags = struct.unpack_from("16xh", request)[0]
        explain.step("ioctl(SIOCSIFFLAGS, lo, IFF_UP)", "ip link set lo up")
        fcntl.ioctl(channel, set_flags, struct.pack("16sh22x", b"lo", flags | up))


def let_users_serve() -> None:
    """Let every user in the calling process's own network namespace take port 80 and send pings, as docker does.

    The namespace's ports are nobody else's, so nothing is given away. What a kernel does not know is left out.

    See: Documentation/networking/ip-sysctl.rst, ip_unprivileged_port_start, ping_group_range.
    """
    last = min(userns.last_id(), 2**31 - 1)
    for name, value in (("ip_unprivileged_port_start", "0"), ("ping_group_range", f"0 {last}")):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/sys/net/ipv4/{name}", "w") as file:
            explain.step(f"write(/proc/sys/net/ipv4/{name}, {value})", f"sysctl -w net.ipv4.{name}='{value}'")
            file.write(value)
