"""The way of a packet from a client to a container's program, by this machine's own names, addresses and rules.

See: nft(8); veth(4); network_namespaces(7); `minidocker.container.firewall.table`.
"""

import re
import socket
from typing import Any, NamedTuple

from minidocker.container import firewall, network, network_links, rootless
from minidocker.container.spec import Port
from minidocker.course.widgets import drawing
from minidocker.course.widgets.picture import Picture, find, following
from minidocker.errors import InvalidArgument, MinidockerError

_LISTENING = "0A"  # see: proc_pid_net(5), /proc/net/tcp: the state of a socket


class Stop(NamedTuple):
    """A place on the way: what it is called, its facts, and in whose namespace it is: `host`, `user`, `container`.

    `onward` is the address that the packet has when it leaves. `tone` is the place's colour; `broken` says that the way
    ends here.
    """

    name: str
    facts: str
    where: str
    tone: str = "grey"
    broken: bool = False
    onward: str = ""


class Links(NamedTuple):
    """What the network that has the bridge says: its rules, the host's end of the cable, the bridge's subnet."""

    rules: str
    veth: str
    subnet: str


class Packet(Picture):
    """The way to one port of a container."""

    def __init__(self, what: Any, port: int | str) -> None:
        self.what, self.wanted = what, port
        self.look()

    def look(self) -> None:
        """Read the container's state, the links and the rules."""
        self.engine, self.container = find(self.what)
        self.problem = ""
        self.number, self.protocol = _port(self.wanted, self.container.state.ports or self.container.spec.ports)
        self.published = [
            port
            for port in (self.container.state.ports if self.container.running else ())
            if (port.container_port, port.protocol) == (self.number, self.protocol)
        ]
        self.names = network.names(self.engine.run)
        self.links = self._links() if self.container.running and self.container.spec.network == "bridge" else None
        self.listens = _listens(self.container.state.pid, self.number, self.protocol) if self.container.running else ""
        self.stops = self._way()
        where = f"port {self.number}/{self.protocol}" if self.number else "no port"
        self.title = f"A packet's way to {self.container.name}, {where}"

    def controls(self) -> list[Any]:
        """Let the reader look again, after a rule or a program has gone."""
        return following(self, 2)

    def _links(self) -> Links | None:
        """Ask the network namespace that has the bridge, which for an ordinary user is not the host's."""
        peer = _number_of_peer(self.container.state.pid)

        def ask() -> Links:
            rules = firewall.finish(firewall.start(["list", "table", "ip", self.names.table]))
            veth = dict(socket.if_nameindex()).get(peer, "")
            return Links(rules, veth, network_links.subnet_of(self.names.bridge))

        try:
            return rootless.in_network(self.engine.run, ask)
        except (MinidockerError, OSError) as error:
            self.problem = str(error)
            return None

    # The way

    def _way(self) -> list[Stop]:
        spec, state = self.container.spec, self.container.state
        if not self.container.running:
            return [Stop(self.container.name, f"{state.status}: it has no network now", "host", "red", True)]
        if spec.network == "none":
            return [
                Stop("a client", "anywhere but in the container", "host"),
                Stop("no way in", "--network none: no cable leads to this container", "host", "red", True),
                Stop("lo", "127.0.0.1: the only card it has, for its own programs", "container", "blue"),
            ]
        if spec.network == "host":
            return [
                Stop(
                    "a client",
                    "on this machine, or one that reaches it",
                    "host",
                    onward=self._at_host(),
                ),
                Stop(
                    "the host's own cards", "--network host: the container has no network of its own", "host", "amber"
                ),
                self._program()._replace(where="host"),
            ]
        return [*self._to_host(), *self._to_container(), self._program()]

    def _at_host(self) -> str:
        return f"127.0.0.1:{self.number}" if self.number else ""

    def _inside(self) -> str:
        """Return the address that a packet has in the container's network."""
        address = _address(self.container.state.address)
        return f"{address}:{self.number}" if self.number else address

    def _to_host(self) -> list[Stop]:
        """From the client to the rules."""
        inside = self._inside()
        if not self.published:
            which = f"{self.number}/{self.protocol} is not published" if self.number else "no port is published"
            facts = f"{which}:\nonly this machine and other containers reach it"
            return [
                Stop("a client", "on this machine", "host", onward=inside),
                Stop("no port of the host", facts, "host", "amber", onward=inside),
            ]
        port = self.published[0]
        address = f"{'127.0.0.1' if port.host_ip == firewall.ANY_ADDRESS else port.host_ip}:{port.host_port}"
        local = port.host_ip.startswith("127.")
        stops = [
            Stop("a client", "on this machine" + ("" if local else ", or one that reaches it"), "host", onward=address),
            Stop(
                "port of the host", f"{port.host_ip}:{port.host_port}/{port.protocol}", "host", "amber", onward=address
            ),
        ]
        if rootless.is_kept(self.engine.run):
            facts = "an ordinary process, which carries it into the user's network"
            stops.append(Stop("slirp4netns", facts, "host", "amber", onward=f"10.0.2.100:{port.host_port}"))
            stops.append(Stop("tap0", "its card there", "user", "amber", onward=f"10.0.2.100:{port.host_port}"))
        return stops

    def _to_container(self) -> list[Stop]:
        """Over the rules, the bridge and the cable."""
        state, where = self.container.state, "user" if rootless.is_kept(self.engine.run) else "host"
        links, address = self.links or Links("", "", ""), _address(self.container.state.address)
        onward, stops = self._inside(), []
        if self.published:
            rule, element = _rule(links.rules, self.published[0], address)
            facts = f"{rule}\n{element}" if element else "no rule leads this port to the container"
            tone = "violet" if element else "red"
            stops.append(Stop(f"nft {self.names.table}", facts, where, tone, not element, onward))
        bridge = f"{state.gateway}, {links.subnet or 'its subnet cannot be read'}"
        stops.append(Stop(f"bridge {self.names.bridge}", bridge, where, "green", onward=onward))
        stops.append(Stop(links.veth or "veth", "the cable's end at the bridge", where, "green", onward=onward))
        stops.append(Stop("eth0", f"{address}, {state.mac}, the cable's other end", "container", "blue", onward=onward))
        return stops

    def _program(self) -> Stop:
        where = f"port {self.number}/{self.protocol}" if self.number else f"any {self.protocol} port"
        if self.container.spec.network == "host" and not self.number:
            return Stop(
                "its programs", "take ports of the host itself: name one to see who listens", "container", "blue"
            )
        if self.listens:
            return Stop("a program", f"listens on {self.listens}", "container", "blue")
        return Stop("nobody", f"no program listens on {where}: the packet is refused", "container", "red", True)

    def text(self) -> str:
        """Say the way, a place a line."""
        names = {"host": "on the host", "user": "in the user's own network", "container": "in the container"}
        lines = [f"{self.title}."]
        for number, stop in enumerate(self.stops, 1):
            facts = stop.facts.replace("\n", "\n     ")
            onward = f"\n     → to {stop.onward}" if stop.onward else ""
            lines.append(f"  {number}. {stop.name} ({names[stop.where]}): {facts}{onward}")
        return "\n".join([*lines, *filter(None, [self._back(), self.problem])])

    def body(self) -> str:
        """Draw the places one below the other, framed by the namespace that they are in."""
        parts, frames = list[str](), list[str]()
        y, begin = 8.0, 8.0
        places: list[tuple[Stop, float, float]] = []
        for number, stop in enumerate(self.stops):
            new = number == 0 or stop.where != self.stops[number - 1].where
            if new and number:
                frames.append(self._frame(self.stops[number - 1].where, begin, y - 18))
                y += 8
            if new:
                begin, y = y, y + 14
            height = 28.0 + 18 * (stop.facts.count("\n"))
            places.append((stop, y, height))
            y += height + 28
        frames.append(self._frame(self.stops[-1].where, begin, y - 18))
        for (stop, top, height), after in zip(places, [*places[1:], None], strict=True):
            parts.append(_place(stop, top, height))
            if after and not stop.broken:
                parts.append(drawing.arrow([(140, top + height), (140, after[1] - 1)]))
            if after and stop.onward and not stop.broken:
                leaves = after[0].where != stop.where  # then the words stand between the frames
                below = top + height + (28 if leaves else 18)
                parts.append(drawing.words(152, below, f"to {stop.onward}", "mono small dim"))
        said = drawing.note(self.problem, "red") if self.problem else ""
        back = f'<div class="dim">{drawing.escape(self._back())}</div>'
        return drawing.svg(y, *frames, *parts) + back + said

    def _back(self) -> str:
        """Say how the answer comes back, where it goes over the rules."""
        whole = self.published and not any(stop.broken for stop in self.stops)
        return (
            "The answer goes the same way back; connection tracking puts the host's address in again." if whole else ""
        )

    def _frame(self, where: str, top: float, bottom: float) -> str:
        titles = {
            "host": "the host's network",
            "user": "the user's own network namespace",
            "container": f"{self.container.name}'s own network namespace",
        }
        tone = "blue" if where == "container" else "grey"
        title = drawing.words(800, top + 18, titles[where], "small dim", "end")
        return drawing.box(8, top, 804, bottom - top, tone, "empty dashed") + title


def _place(stop: Stop, top: float, height: float) -> str:
    """Draw one place: its name in a box, its facts beside it."""
    parts = [drawing.box(24, top, 232, height, stop.tone, "dashed" if stop.broken else "")]
    parts.append(drawing.words(140, top + height / 2 + 4.5, stop.name, "", "middle", 32))
    facts = stop.facts.split("\n")
    for number, text in enumerate(facts):
        first = top + height / 2 + 4.5 - 9 * (len(facts) - 1)
        kind = "mono" if stop.name.startswith("nft") and len(facts) > 1 else ""
        parts.append(drawing.words(268, first + 18 * number, text, kind, most=74 if not kind else 72))
    return "".join(parts)


def _port(wanted: int | str, known: tuple[Port, ...]) -> tuple[int, str]:
    """Read `80` or `80/udp`; 0 is the first that is published, where there is one."""
    if not wanted:
        return (known[0].container_port, known[0].protocol) if known else (0, "tcp")
    number, _, protocol = str(wanted).partition("/")
    if not number.isdecimal() or not 0 < int(number) < 65536 or (protocol or "tcp") not in ("tcp", "udp", "sctp"):
        raise InvalidArgument(f"{wanted!r} is no port: write 80 or 80/udp")
    return int(number), protocol or "tcp"


def _address(address: str) -> str:
    return address.partition("/")[0]


def _number_of_peer(pid: int) -> int:
    """Return the number that the other end of the container's eth0 has in its namespace. See: sysfs, iflink."""
    try:
        with open(f"/proc/{pid}/root/sys/class/net/eth0/iflink") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return 0


def _rule(rules: str, port: Port, address: str) -> tuple[str, str]:
    """Find in a table's listing the rule that leads a port to an address, and the map's element: "" for none."""
    for name in ("somewhere", "everywhere"):
        host = "" if name == "everywhere" else rf"{re.escape(port.host_ip)} \. "
        wanted = rf"{port.protocol} \. {host}{port.host_port} : {re.escape(address)} \. {port.container_port}\b"
        listed = re.search(rf"map {name} \{{(.*?)\n\t\}}", rules, re.DOTALL)
        element = re.search(wanted, listed[1]) if listed else None
        rule = re.search(rf"dnat ip to .* map @{name}", rules)
        if element and rule:
            return rule[0], f"@{name}: {element[0]}"
    return "", ""


def _listens(pid: int, port: int, protocol: str) -> str:
    """Return where somebody listens on a port, or on any for 0, as the namespace of a process has it; "" for nobody."""
    found = []
    for name in (protocol, f"{protocol}6"):
        try:
            with open(f"/proc/{pid}/net/{name}") as file:
                lines = [line.split() for line in list(file)[1:]]
        except OSError:
            continue
        for fields in lines:
            address, _, number = fields[1].partition(":")
            if port in (int(number, 16), 0) and (fields[3] == _LISTENING or protocol == "udp"):
                found.append(f"{_readable(address)}:{int(number, 16)}")
    return ", ".join(dict.fromkeys(found))


def _readable(address: str) -> str:
    """Return an address as people write it: the kernel has it as words of four bytes, each in the machine's order."""
    import sys

    raw = bytes.fromhex(address)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    if len(raw) == 4:
        return socket.inet_ntop(socket.AF_INET, raw)
    return f"[{socket.inet_ntop(socket.AF_INET6, raw)}]"


def packet(container: Any, port: int | str = 0) -> Packet:
    """Draw the way of a packet to a container's port, `80` or `53/udp`; 0 is the first that is published.

    Raises: ContainerNotFound; InvalidArgument for what is no port.
    """
    return Packet(container, port)
