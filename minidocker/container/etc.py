"""The three files that docker lays over an image's own: /etc/hosts, /etc/hostname and /etc/resolv.conf.

They lie in the container's folder and are bind mounted, so they are written in place and never replaced.
"""

import os
from collections.abc import Iterable

HOSTS = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""
PUBLIC_SERVERS = ("8.8.8.8", "8.8.4.4")  # docker's choice where there are no others
# Where systemd keeps the real name servers when /etc/resolv.conf only names its own stub on the loopback.
_RESOLVED = "/run/systemd/resolve/resolv.conf"


def hosts(address: str, hostname: str, extra: Iterable[str], gateway: str = "") -> str:
    """Return a container's /etc/hosts; `extra` are `name:address` pairs, where `host-gateway` is the bridge. Pure."""
    lines = []
    for pair in extra:
        name, _, target = pair.partition(":")
        lines.append(f"{gateway if target == 'host-gateway' else target}\t{name}\n")
    if address:
        short = hostname.partition(".")[0]
        lines.append(f"{address}\t{hostname}{f' {short}' if short != hostname else ''}\n")
    return HOSTS + "".join(lines)


def resolv_conf(text: str, otherwise: tuple[str, ...] = PUBLIC_SERVERS) -> str:
    """Return a container's /etc/resolv.conf, made of the host's: without name servers on the host's loopback. Pure.

    A loopback address means another machine inside the container. With no server left, those named `otherwise`.
    """
    lines = text.splitlines()
    kept = [line for line in lines if not (line.startswith("nameserver") and _is_loopback(line.split()[-1]))]
    if not any(line.startswith("nameserver") for line in kept):
        kept += [f"nameserver {server}" for server in otherwise]
    return "\n".join(kept) + "\n"


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def read_host_resolv_conf(shares_network: bool, otherwise: tuple[str, ...] = PUBLIC_SERVERS) -> str:
    """Return what a container's /etc/resolv.conf is to hold on this host."""
    text = _read("/etc/resolv.conf")
    if shares_network:
        return text
    servers = [line.split()[-1] for line in text.splitlines() if line.startswith("nameserver")]
    if servers and all(_is_loopback(server) for server in servers) and os.path.exists(_RESOLVED):
        text = _read(_RESOLVED)
    return resolv_conf(text, otherwise)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def write(path: str, text: str) -> None:
    """Write one of the files in place, readable by every user of the container."""
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.chmod(path, 0o644)


def prepare(folder: str, hostname: str, shares_network: bool, name_servers: tuple[str, ...] = PUBLIC_SERVERS) -> None:
    """Write the files into a container's folder before it starts; /etc/hosts is filled when the address is known.

    `name_servers` are for a host whose own ones only the host reaches.
    """
    write(f"{folder}/hostname", hostname + "\n")
    write(f"{folder}/resolv.conf", read_host_resolv_conf(shares_network, name_servers))
    write(f"{folder}/hosts", _read("/etc/hosts") if shares_network else HOSTS)
