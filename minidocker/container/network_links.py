"""Links, addresses and routes: requests to the kernel's routing socket, planned as values and sent one by one.

pyroute2 knows how each message is laid out in bytes, and that is all that is used of it: the messages are sent and
their answers read with a plain socket, which any thread may do while an event loop runs in another, and which can
belong to another network namespace. Why, and what it saves: docs/decisions/0003-network.md.

See: netlink(7), rtnetlink(7); RFC 3549.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterable
from typing import Any, NamedTuple

from minidocker import explain
from minidocker.linux import syscalls

Attributes = list[tuple[str, Any] | tuple[str, Any, int]]  # the third is a flag in the attribute's type

NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
NLMSG_ERROR = 2
NLA_F_NESTED = 0x8000
TYPES = {
    "RTM_NEWLINK": 16,
    "RTM_DELLINK": 17,
    "RTM_GETLINK": 18,
    "RTM_SETLINK": 19,
    "RTM_NEWADDR": 20,
    "RTM_NEWROUTE": 24,
}
IFF_UP = 1
AF_BRIDGE = 7
RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST = 254, 3, 1
_importing = threading.Lock()  # `preload` may still run in another thread
LOOPBACK_INDEX = 1  # `lo` is the first link of every network namespace


class Request(NamedTuple):
    """One request: its kind, the fixed fields and the attributes of its message, the shell line that does the same."""

    kind: str
    fields: dict[str, int]
    attributes: Attributes
    shell: str

    def __str__(self) -> str:
        return f"{self.kind}({', '.join([*map('='.join, self._words()), *_words(self.attributes)])})"

    def _words(self) -> Iterable[tuple[str, str]]:
        return ((name, str(value)) for name, value in self.fields.items() if name != "change")


def _words(attributes: Attributes) -> list[str]:
    """Write attributes in lower case without the prefix that all of a kind share: `ifname=veth1, linkinfo={…}`."""
    words = []
    for name, value, *_ in attributes:
        plain = name.partition("_")[2].lower()
        words.append(
            f"{plain}={{{', '.join(_words(value['attrs']))}}}" if isinstance(value, dict) else f"{plain}={value}"
        )
    return words


def _nested(*attributes: tuple[str, Any]) -> dict[str, Any]:
    """Return attributes that are the value of an attribute."""
    return {"attrs": list(attributes)}


def bridge(name: str, alias: str) -> list[Request]:
    """Plan a bridge with a note of whose it is.

    With a hardware address of its own it does not change to that of whichever port comes or goes. The kernel takes a
    note (`alias`) only for a link that exists.
    """
    mac = "02:42:" + os.urandom(4).hex(":")
    kind = ("IFLA_LINKINFO", _nested(("IFLA_INFO_KIND", "bridge")))
    new: Attributes = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac), kind]
    note: Attributes = [("IFLA_IFNAME", name), ("IFLA_IFALIAS", alias)]
    return [
        Request("RTM_NEWLINK", {}, new, f"ip link add {name} address {mac} type bridge"),
        Request("RTM_SETLINK", {}, note, f"ip link set {name} alias {alias}"),
    ]


def start_bridge(name: str, index: int, gateway: str, subnet: str) -> list[Request]:
    """Plan the bridge's address, which is the containers' gateway, and switch it on."""
    prefix_length = int(subnet.partition("/")[2])
    return [_address(index, name, gateway, prefix_length), _up(index, name)]


def cable(veth: str, bridge: str, bridge_index: int, namespace: int, pid: int, mac: str) -> list[Request]:
    """Plan the cable: a pair of links, one end plugged into the bridge, the other `eth0` in the container's namespace.

    One request makes both ends, each in its place. `namespace` is an open /proc/PID/ns/net.
    """
    peer = _nested(("IFLA_IFNAME", "eth0"), ("IFLA_ADDRESS", mac), ("IFLA_NET_NS_FD", namespace))
    info = _nested(("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", _nested(("VETH_INFO_PEER", peer))))
    attributes: Attributes = [("IFLA_IFNAME", veth), ("IFLA_MASTER", bridge_index), ("IFLA_LINKINFO", info)]
    shell = f"ip link add {veth} up master {bridge} type veth peer name eth0 address {mac} netns {pid}"
    return [Request("RTM_NEWLINK", {"flags": IFF_UP, "change": IFF_UP}, attributes, shell)]


def hairpin(veth: str, index: int) -> list[Request]:
    """Plan that the bridge may send a packet back through the port it came from.

    A container may ask for a port that it publishes itself. Where bridged packets pass the firewall too (br_netfilter,
    which docker switches on), the bridge takes such a packet straight back instead of through the host's routing.
    """
    fields = {"family": AF_BRIDGE, "index": index}
    mode: Attributes = [("IFLA_PROTINFO", _nested(("IFLA_BRPORT_MODE", 1)), NLA_F_NESTED)]
    return [Request("RTM_SETLINK", fields, mode, f"bridge link set dev {veth} hairpin on")]


def configure(index: int, address: str, prefix_length: int, gateway: str) -> list[Request]:
    """Plan the container's side: `lo` and `eth0` on, the address, and everything unknown to the gateway.

    A route needs its link switched on.
    """
    route = {"family": socket.AF_INET, "table": RT_TABLE_MAIN, "proto": RTPROT_BOOT, "type": RTN_UNICAST}
    return [
        _up(LOOPBACK_INDEX, "lo"),
        _address(index, "eth0", address, prefix_length),
        _up(index, "eth0"),
        Request("RTM_NEWROUTE", route, [("RTA_GATEWAY", gateway)], f"ip route add default via {gateway}"),
    ]


def _address(index: int, name: str, address: str, prefix_length: int) -> Request:
    hosts = (1 << 32 - prefix_length) - 1
    broadcast = socket.inet_ntoa((int.from_bytes(socket.inet_aton(address), "big") | hosts).to_bytes(4, "big"))
    attributes: Attributes = [("IFA_LOCAL", address), ("IFA_ADDRESS", address), ("IFA_BROADCAST", broadcast)]
    fields = {"family": socket.AF_INET, "prefixlen": prefix_length, "index": index}
    shell = f"ip address add {address}/{prefix_length} broadcast {broadcast} dev {name}"
    return Request("RTM_NEWADDR", fields, attributes, shell)


def delete(name: str) -> list[Request]:
    """Plan the end of a link; a pair goes with either end."""
    return [Request("RTM_DELLINK", {}, [("IFLA_IFNAME", name)], f"ip link delete {name}")]


def _up(index: int, name: str) -> Request:
    return Request("RTM_SETLINK", {"index": index, "flags": IFF_UP, "change": IFF_UP}, [], f"ip link set {name} up")


def open_socket() -> socket.socket:
    """Open a routing socket of the namespace this thread is in; it stays one of that namespace. See: rtnetlink(7)."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def open_socket_in(namespace: int) -> socket.socket:
    """Open a routing socket of another network namespace, where links to come get no IPv6.

    Namespaces belong to threads, so a thread made for this goes there and ends there: no other ever sees itself
    moved, whatever fails. See: setns(2).
    """
    opened: list[socket.socket] = []
    failed: list[OSError] = []

    def enter() -> None:
        try:
            syscalls.setns(namespace, syscalls.CLONE_NEWNET)
            disable_ipv6 = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
            if os.path.exists(disable_ipv6):
                write_sysctl(disable_ipv6, "1")
            opened.append(open_socket())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=enter, name="minidocker-setns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return opened[0]


def write_sysctl(path: str, value: str) -> None:
    """Set one of the kernel's parameters; those below /proc/sys/net are the namespace's own."""
    name = path.removeprefix("/proc/sys/").replace("/", ".")
    explain.step(f"write({path}, {value})", f"sysctl -w {name}={value}")
    with open(path, "w") as file:
        file.write(value)


def apply(channel: socket.socket, requests: Iterable[Request]) -> None:
    """Send each request and wait for the kernel's answer to it.

    Raises: OSError with the request and the kernel's errno.
    """
    for request in requests:
        explain.step(str(request), request.shell)
        _ask(channel, request)


def _ask(channel: socket.socket, request: Request) -> bytes:
    """Send one request; return the kernel's answer, or raise the error it is."""
    channel.send(encode(request))
    answer = channel.recv(65536)
    kind, error = struct.unpack_from("=4xH10xi", answer)
    if kind == NLMSG_ERROR and error:
        raise OSError(-error, f"{request}: {errno.errorcode.get(-error, -error)} ({os.strerror(-error)})")
    return answer


def index_of(channel: socket.socket, name: str) -> int:
    """Return the number of a link; only `lo` has the same in every namespace. Raises: OSError, ENODEV for no link."""
    answer = _ask(channel, Request("RTM_GETLINK", {}, [("IFLA_IFNAME", name)], f"ip link show {name}"))
    return int(struct.unpack_from("=16xBxHi", answer)[2])  # struct nlmsghdr, then ifi_index of struct ifinfomsg


def exists(channel: socket.socket, name: str) -> bool:
    """Say whether there is a link of that name."""
    try:
        return index_of(channel, name) > 0
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return False


def subnet_of(name: str) -> str:
    """Return the subnet of an interface's address, as `172.18.0.0/16`; "" where it has none.

    See: netdevice(7), SIOCGIFADDR and SIOCGIFNETMASK.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            asked = [
                fcntl.ioctl(any_socket, request, struct.pack("256s", name.encode())) for request in (0x8915, 0x891B)
            ]
        except OSError:
            return ""
    address, mask = (int.from_bytes(answer[20:24], "big") for answer in asked)
    return f"{socket.inet_ntoa((address & mask).to_bytes(4, 'big'))}/{mask.bit_count()}"


def remove(channel: socket.socket, name: str) -> None:
    """Remove a link if there is one of that name."""
    if exists(channel, name):
        apply(channel, delete(name))


def encode(request: Request) -> bytes:
    """Lay a request out in bytes."""
    name = {"RTM_NEWADDR": "ifaddrmsg", "RTM_NEWROUTE": "rtmsg"}.get(request.kind, "ifinfmsg")
    message = getattr(pyroute2(f"netlink.rtnl.{name}"), name)()
    message["header"]["type"] = TYPES[request.kind]
    message["header"]["flags"] = _flags(request)
    for name, value in request.fields.items():
        message[name] = value
    message["attrs"] = request.attributes
    message.encode()
    return bytes(message.data)


def _flags(request: Request) -> int:
    """Return what is wanted: an answer or an acknowledgement, and that something new be made where the kind says so."""
    if request.kind == "RTM_GETLINK":
        return NLM_F_REQUEST
    return NLM_F_REQUEST | NLM_F_ACK | (NLM_F_CREATE | NLM_F_EXCL if request.kind.startswith("RTM_NEW") else 0)


def preload() -> None:
    """Import what `encode` needs, for a caller that has something to wait for meanwhile."""
    for name in ("ifinfmsg", "ifaddrmsg", "rtmsg"):
        pyroute2(f"netlink.rtnl.{name}")


def pyroute2(module: str) -> Any:
    """Import one module of pyroute2 without the rest of it.

    `import pyroute2` runs its `__init__`, which imports everything there is in it, for 0.12 s; the three modules for
    links, addresses and routes take 0.025 s. So the package is first entered as what it is, a folder, and its
    `__init__` runs when somebody asks for a name of it: for other users of pyroute2 in this process nothing changes
    but the moment.

    See: PEP 562, module `__getattr__`; docs/decisions/0003-network.md.
    """
    import importlib

    with _importing:
        if "pyroute2" not in sys.modules:
            _enter_package()
        return importlib.import_module(f"pyroute2.{module}")


def _enter_package() -> None:
    """Put `pyroute2` among the imported modules with its `__init__` still to be run."""
    import importlib
    import importlib.util

    spec = importlib.util.find_spec("pyroute2")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("containers' networks need pyroute2: pip install pyroute2", name="pyroute2")
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def complete(name: str) -> Any:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(f"pyroute2.{name}")
        del package.__getattr__
        loader.exec_module(package)
        return getattr(package, name)

    package.__getattr__ = complete  # type: ignore[method-assign]
    sys.modules["pyroute2"] = package
