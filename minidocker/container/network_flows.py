"""The kernel's memory of flows (conntrack), of which a published UDP port needs some to be forgotten.

The maps of the firewall are asked for the first packet of a flow only. A UDP client that goes on sending from the same
port keeps its flow alive, and would be sent for ever where the port led before: to the host, or to a container that has
ended. TCP has no such trouble, for there every connection begins a flow.

See: Documentation/networking/nf_conntrack-sysctl.rst; conntrack(8); linux/netfilter/nfnetlink_conntrack.h.
"""

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from minidocker import explain
from minidocker.container import network_links

NETLINK_NETFILTER = 12
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1 << 8 | 1, 1 << 8 | 2
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3


def forget_udp(ports: set[int]) -> None:
    """Make the kernel forget the UDP flows to these ports of the host."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER) as channel:
        channel.send(_message(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, []))
        stale = [found for data in _messages(channel) if (found := _udp_flow(data, ports))]
        for flow, port in stale:
            explain.step("IPCTNL_MSG_CT_DELETE(udp, …)", f"conntrack -D -p udp --orig-port-dst {port}")
            channel.send(_message(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST, [("CTA_TUPLE_ORIG", flow)]))


def _message(kind: int, flags: int, attributes: list[tuple[str, Any]]) -> bytes:
    """Lay out one message about IPv4 flows."""
    message = network_links.pyroute2("netlink.nfnetlink.nfctsocket").nfct_msg()
    message["header"]["type"], message["header"]["flags"] = kind, flags
    message["nfgen_family"] = socket.AF_INET
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)


def _messages(channel: socket.socket) -> Iterator[bytes]:
    """Yield the messages of a dump one by one."""
    while True:
        data = channel.recv(1 << 20)
        while data:
            length, kind = struct.unpack_from("=IH", data)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                error = -struct.unpack_from("=16xi", data)[0]
                raise OSError(error, f"IPCTNL_MSG_CT_GET: {os.strerror(error)}")
            yield data[:length]
            data = data[length + 3 & ~3 :]


def _udp_flow(data: bytes, ports: set[int]) -> tuple[dict[str, Any], int] | None:
    """Return what names a flow, and its port, if it is a UDP one to one of `ports`."""
    message = network_links.pyroute2("netlink.nfnetlink.nfctsocket").nfct_msg(data)
    message.decode()
    flow = message.get_attr("CTA_TUPLE_ORIG")
    ip, proto = flow.get_attr("CTA_TUPLE_IP"), flow.get_attr("CTA_TUPLE_PROTO")
    port = proto.get_attr("CTA_PROTO_DST_PORT")
    if proto.get_attr("CTA_PROTO_NUM") != socket.IPPROTO_UDP or port not in ports:
        return None
    return {"attrs": [("CTA_TUPLE_IP", _plain(ip)), ("CTA_TUPLE_PROTO", _plain(proto))]}, port


def _plain(attribute: Any) -> dict[str, Any]:
    """Return an attribute's parts as they are given to be laid out."""
    return {"attrs": [(part[0], part[1]) for part in attribute["attrs"]]}
