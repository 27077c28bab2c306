"""Published ports: docker's `-p` and `--expose` read, and the host's ports held so that nobody else takes them."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable

from minidocker import explain
from minidocker.container.spec import Port
from minidocker.errors import InvalidArgument, NetworkError

PROTOCOLS = ("tcp", "udp", "sctp")
ANY_ADDRESS = Port(0).host_ip
_DYNAMIC = range(32768, 61000)  # the kernel's own choice. See: ip(7), ip_local_port_range


def parse(text: str) -> list[Port]:
    """Read one `-p`: `[[HOST_IP:][HOST_PORT]:]CONTAINER_PORT[/PROTOCOL]`, where each port may be a range `8000-8010`.

    Ranges of the same length run side by side; a host range for one container port offers a choice. Docker's long form
    `published=8080,target=80,protocol=tcp` is read too.

    Raises: InvalidArgument in docker's words.
    """
    *address, host, container = ["", *(_short_form(text) if "=" in text else text).split(":")]
    container, protocol = _split_protocol(container)
    if not container:
        raise InvalidArgument(f"No port specified: {text}<empty>")
    host_ip = _host_ip(":".join(address[1:]))
    first, last = _range(container, f"Invalid containerPort: {container}")
    host_first, host_last = _range(host, f"Invalid hostPort: {host}") if host else (0, 0)
    if host and first != last and host_last - host_first != last - first:
        raise InvalidArgument(f"Invalid ranges specified for container and host Ports: {container} and {host}")
    if protocol not in PROTOCOLS:
        raise InvalidArgument(f"Invalid proto: {protocol}")
    if first == last:
        return [Port(first, protocol, host_ip, host_first, host_last if host_last > host_first else 0)]
    step = 1 if host else 0
    return [Port(first + n, protocol, host_ip, host_first + step * n) for n in range(last + 1 - first)]


def parse_exposed(text: str) -> list[str]:
    """Read one `--expose` or EXPOSE word, `8000-8010/udp`; return each port as an image's configuration has it.

    Raises: InvalidArgument in docker's words.
    """
    if ":" in text:
        raise InvalidArgument(f"invalid port format for --expose: {text}")
    port, protocol = _split_protocol(text)
    first, last = _range(port, f"invalid range format for --expose: {text}")
    if protocol not in PROTOCOLS:
        raise InvalidArgument(f"Invalid proto: {protocol}")
    return [f"{number}/{protocol}" for number in range(first, last + 1)]


def publish_all(exposed: Iterable[str]) -> list[Port]:
    """Return what `-P` publishes: each exposed port, `22/tcp`, on a port of the host still to be chosen."""
    split = (port.partition("/") for port in exposed)
    return [Port(int(number), protocol or "tcp") for number, _, protocol in split]


def _short_form(text: str) -> str:
    """Turn `published=8080,target=80` into `8080:80/tcp`."""
    fields = dict(field.partition("=")[::2] for field in text.split(","))
    unknown = set(fields) - {"published", "target", "protocol", "mode"}
    if unknown or "target" not in fields:
        raise InvalidArgument(
            f"invalid field {min(unknown)}" if unknown else f"invalid argument {text}: no target port"
        )
    return f"{fields.get('published', '')}:{fields['target']}/{fields.get('protocol', 'tcp')}"


def _split_protocol(text: str) -> tuple[str, str]:
    """Split `80/udp`; the protocol is tcp where none is given."""
    port, _, rest = text.partition("/")
    return port, rest.partition("/")[0].lower() or "tcp"


def _range(text: str, complaint: str) -> tuple[int, int]:
    """Read `80` or `80-90`."""
    first, dash, last = text.partition("-")
    if not all(part.isascii() and part.isdigit() and int(part) < 65536 for part in (first, last if dash else "0")):
        raise InvalidArgument(complaint)
    if dash and int(last) < int(first):
        raise InvalidArgument(complaint)
    return int(first), int(last if dash else first)


def _host_ip(text: str) -> str:
    """Check an address of the host; an IPv6 one stands in brackets."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if bare == text and ":" in text:
        raise InvalidArgument(f"Invalid ip address {text}: address {text}:: too many colons in address")
    if not bare:
        return ANY_ADDRESS
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in bare else socket.AF_INET, bare)
    except OSError:
        raise InvalidArgument(f"Invalid ip address: {bare}") from None
    return bare


def reserve(
    run_dir: str, container_id: str, name: str, ports: Iterable[Port]
) -> tuple[list[Port], list[socket.socket]]:
    """Hold the host's side of `ports`, choosing where the user left the choice, until the sockets are closed.

    The kernel is the one that knows which ports are taken: each is bound, by a socket that never answers, since the
    firewall sends packets on to the container before they would reach it. Whoever inherits the sockets holds the
    ports, and a process cannot end without letting go of them.

    Raises: NetworkError in docker's words when a port is taken; nothing is held then.
    """
    resolved: list[Port] = []
    with contextlib.ExitStack() as held:
        sockets = []
        for port in ports:
            try:
                chosen, holder = _hold_first_free(port)
            except OSError as error:
                reason = _complaint(run_dir, port, error)
                endpoint = f"driver failed programming external connectivity on endpoint {name} ({container_id})"
                raise NetworkError(f"{endpoint}: {reason}") from error
            sockets.append(held.enter_context(holder))
            resolved.append(chosen)
        held.pop_all()
        return resolved, sockets


def _hold_first_free(port: Port) -> tuple[Port, socket.socket]:
    """Hold the first free one of the host ports that `port` allows."""
    given = range(port.host_port, max(port.host_port, port.host_port_last) + 1)
    candidates = given if port.host_port else _DYNAMIC
    for number in candidates:
        chosen = port._replace(host_port=number, host_port_last=0)
        try:
            return chosen, _hold(chosen)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or number == candidates[-1]:
                raise
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _hold(port: Port) -> socket.socket:
    """Bind a socket to one port of the host.

    Connections that ended a minute ago or less still block a TCP port (TIME_WAIT). SO_REUSEADDR overlooks those, but
    also lets another such socket in, unless one of both listens: so then this one does.
    """
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    number = socket.IPPROTO_SCTP if port.protocol == "sctp" else 0
    explain.step(f"bind({port.protocol}, {port.host_ip}:{port.host_port})", f"ss -an | grep {port.host_port}")
    holder = socket.socket(socket.AF_INET, kind, number)
    try:
        try:
            holder.bind((port.host_ip, port.host_port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port.protocol != "tcp":
                raise
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((port.host_ip, port.host_port))
            holder.listen(1)
    except BaseException:
        holder.close()
        raise
    return holder


def _complaint(run_dir: str, port: Port, error: OSError) -> str:
    """Say in docker's words why a port cannot be had: another container has it, or another process."""
    where = f"{port.host_ip}:{port.host_port}"
    if ":" in port.host_ip:
        return f"{where}: the containers' network has IPv4 addresses only; publish on one of the host's"
    if error.errno == errno.EPROTONOSUPPORT:
        return f"{where}: this kernel has no {port.protocol.upper()}"
    if error.errno == errno.EADDRINUSE and not port.host_port_last and _ours(run_dir, port):
        return f"Bind for {where} failed: port is already allocated"
    if not port.host_port or port.host_port_last:
        return "all ports are allocated"
    if error.errno == errno.EACCES:
        why = "an ordinary user may not publish ports below 1024, unless sysctl net.ipv4.ip_unprivileged_port_start"
        return f"{where}: permission denied: {why} allows it"
    verb = "listen" if port.protocol != "udp" else "listen-packet"
    words = {errno.EADDRINUSE: "address already in use", errno.EADDRNOTAVAIL: "cannot assign requested address"}
    reason = words.get(error.errno or 0, os.strerror(error.errno or 0).lower())
    return f"{verb} {port.protocol}4 {where}: bind: {reason}"


def _ours(run_dir: str, port: Port) -> bool:
    """Say whether a container of ours publishes this port; `published/ID` holds the rules that undo it."""
    folder = f"{run_dir}/network/published"
    for container_id in os.listdir(folder) if os.path.isdir(folder) else []:
        with contextlib.suppress(FileNotFoundError), open(f"{folder}/{container_id}") as file:
            if any(f"{port.protocol} . " in line and f". {port.host_port} :" in line for line in file):
                return True
    return False
