"""The nftables rules of the containers' network: plans as text, and the one place that runs `nft`.

One table of our own holds everything: who may be reached (`forward`), how answers find back (`outgoing`), and two
maps that say to which container a port of the host leads. To publish a port is to add an element to a map, to end
that is to delete it; the rules themselves never change.

Beside docker one thing is needed in a table that is not ours. A packet must be accepted by *every* chain on its way,
and docker lets its own chain drop what it does not know. `DOCKER-USER` is the chain docker keeps free for such
rules; ours carry the bridge's name as comment, by which they are found again.

See: nft(8); Documentation/networking/ip-sysctl.rst, route_localnet; docker's "Packet filtering and firewalls".
"""

import os
from collections.abc import Iterable
from typing import NamedTuple

from minidocker import explain
from minidocker.container.spec import Port
from minidocker.errors import NetworkError

ANY_ADDRESS = Port(0).host_ip


def table(name: str, bridge: str, subnet: str) -> str:
    """Plan the whole table. To run it again repairs the rules and keeps what is published.

    - `guard`: the bridge may route 127.0.0.0/8 (so that the host's 127.0.0.1:8080 can lead to a container), hence
      nothing that comes *from* a container may claim or reach such an address (CVE-2020-8558).
    - `publish`: a port of one address of the host goes before the same port of every address.
    - `forward`: containers reach each other and go out; from elsewhere come only answers and published ports.
    - `outgoing`: an answer must come back through the host, to be translated back. So the host's address replaces
      the container's on the way out, 127.0.0.1, and a container's own when it asks for a port published by its
      neighbour or itself.
    """
    return f"""\
table ip {name} {{ }}
flush table ip {name}
table ip {name} {{
    map everywhere {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map somewhere {{ type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }}
    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname "{bridge}" ip saddr 127.0.0.0/8 drop
        iifname "{bridge}" ip daddr 127.0.0.0/8 drop
    }}
    chain publish {{
        dnat ip to meta l4proto . ip daddr . th dport map @somewhere
        dnat ip to meta l4proto . th dport map @everywhere
    }}
    chain incoming {{
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local goto publish
    }}
    chain local {{
        type nat hook output priority -100; policy accept;
        fib daddr type local goto publish
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        oifname != "{bridge}" accept
        iifname "{bridge}" accept
        ct state established,related accept
        ct status dnat accept
        drop
    }}
    chain outgoing {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname != "{bridge}" ip saddr {subnet} masquerade
        oifname "{bridge}" ip saddr 127.0.0.0/8 masquerade
        oifname "{bridge}" ip saddr {subnet} ct status dnat masquerade
    }}
}}
"""


def publish(name: str, address: str, ports: Iterable[Port]) -> str:
    """Plan the map elements by which `ports` of the host lead to the container at `address`."""
    return "".join(f"add element ip {name} {_element(port, address)}\n" for port in ports)


def unpublish(name: str, address: str, ports: Iterable[Port]) -> str:
    """Plan the reverse of `publish`, fit to be run twice.

    To delete what is not there is an error, to add what is there none: so each element is added first. That fails
    where the port leads to another container by now, which must stay. Each line is a transaction of its own.
    """
    return "".join(
        f"add element ip {name} {_element(port, address)}; delete element ip {name} {_element(port, address)}\n"
        for port in ports
    )


def forget(name: str, port: Port) -> str:
    """Plan the removal of whatever `port` leads to."""
    return f"delete element ip {name} {_element(port, ANY_ADDRESS)}"


def _element(port: Port, address: str) -> str:
    """Return one element with the map it belongs to."""
    target = f"{address} . {port.container_port}"
    if port.host_ip == ANY_ADDRESS:
        return f"everywhere {{ {port.protocol} . {port.host_port} : {target} }}"
    return f"somewhere {{ {port.protocol} . {port.host_ip} . {port.host_port} : {target} }}"


class Rule(NamedTuple):
    """One line of `nft -a list ruleset`, with the chain it stands in."""

    table: str
    chain: str
    text: str


def rules(listing: str) -> list[Rule]:
    """Read a listing: chain headers (as rules without text) and all lines within."""
    found, table_name, chain = [], "", ""
    for line in listing.splitlines():
        words = line.split()
        if words[:1] == ["table"]:
            table_name, chain = " ".join(words[1:3]), ""
        elif words[:1] == ["chain"]:
            chain = words[1]
            found.append(Rule(table_name, chain, ""))
        elif words[:1] == ["}"]:
            chain = ""
        elif chain and words:
            found.append(Rule(table_name, chain, line.strip()))
    return found


def missing(listing: str, name: str, bridge: str, subnet: str) -> str:
    """Plan what has to be added to the rules of `listing` for the network to work; "" where nothing is missing."""
    present = rules(listing)
    whole = any(rule.table == f"ip {name}" and f" {subnet} " in rule.text for rule in present)
    plan = "" if whole else table(name, bridge, subnet)
    chain = _foreign_chain(present)
    if chain and not any(_is_ours(rule, bridge) for rule in present):
        # Each rule is put on top, so the last here becomes the first. What goes to docker's own bridges is left to
        # docker's rules, which let only published ports through.
        for match in (
            'iifname "{}" accept',
            'iifname "{}" oifname "br-*" return',
            'iifname "{}" oifname "docker0" return',
            'oifname "{}" accept',
        ):
            plan += f'insert rule ip filter {chain} {match.format(bridge)} comment "{bridge}"\n'
    return plan


def _foreign_chain(present: list[Rule]) -> str:
    """Return the chain of iptables' table that would drop our packets, or docker's that decides before it; or ""."""
    filters = [rule for rule in present if rule.table == "ip filter"]
    if any(rule.chain == "DOCKER-USER" for rule in filters):
        return "DOCKER-USER"
    dropping = any(rule.chain == "FORWARD" and rule.text.endswith("policy drop;") for rule in filters)
    return "FORWARD" if dropping else ""


def _is_ours(rule: Rule, bridge: str) -> bool:
    """Say whether the rule is one that `missing` put into a foreign chain."""
    return f'comment "{bridge}"' in rule.text


def removal(listing: str, name: str, bridge: str) -> str:
    """Plan how everything of ours goes: the table, and our rules in other tables by the handle they are listed with."""
    plan = f"delete table ip {name}\n" if f"table ip {name} {{" in listing else ""
    for rule in rules(listing):
        if _is_ours(rule, bridge):
            plan += f"delete rule {rule.table} {rule.chain} {rule.text.rpartition('# ')[2]}\n"
    return plan


class Running(NamedTuple):
    """An `nft` that works while we do something else."""

    pid: int
    output: int
    script: str


def start_listing() -> Running:
    """Start to list the IPv4 rules: handles with them (`-a`), elements of maps left out (`-t`)."""
    return start(["-a", "-t", "list", "ruleset", "ip"])


def apply(script: str, held: int = -1) -> None:
    """Run a script as one transaction: all of it happens, or nothing. `nft` is given the open file `held`, too.

    Raises: NetworkError with nft's own words.
    """
    if explain.listening():
        lines = script.splitlines()
        shell = f"nft '{lines[0]}'" if len(lines) == 1 else f"nft -f - <<'END'\n{script}END"
        explain.step(f"sendmsg(NETLINK_NETFILTER, one transaction of {len(lines)} lines)", shell)
    finish(start(["-f", "-"], script, held))


def start(args: list[str], script: str = "", held: int = -1) -> Running:
    """Start `nft`; input and output are files in memory, so that neither side ever waits for the other.

    Only what the shim has at hand is used: it runs this at the container's end. See: memfd_create(2), posix_spawn(3).
    """
    source, output = os.memfd_create("nft-input"), os.memfd_create("nft-output")
    try:
        os.write(source, script.encode())
        os.lseek(source, 0, os.SEEK_SET)
        redirect = [
            (os.POSIX_SPAWN_DUP2, source, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
            *([(os.POSIX_SPAWN_DUP2, held, 3)] if held >= 0 else []),
        ]
        pid = os.posix_spawn(
            _program(), ["nft", *args], {"PATH": "/usr/sbin:/sbin", "LC_ALL": "C"}, file_actions=redirect
        )
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(source)
    return Running(pid, output, script)


def finish(running: Running) -> str:
    """Wait for `nft` and return what it printed.

    Raises: NetworkError with nft's own words.
    """
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(running.pid, 0)[1])
        text = os.pread(running.output, os.fstat(running.output).st_size, 0).decode(errors="replace")
    finally:
        os.close(running.output)
    if status:
        raise NetworkError(f"nft could not change the rules: {text.strip()}")
    return text


def _program() -> str:
    """Find `nft`, also where PATH lacks the system's own folders, as a plain user's does."""
    for folder in [*os.environ.get("PATH", "").split(":"), "/usr/sbin", "/sbin"]:
        if folder and os.access(f"{folder}/nft", os.X_OK):
            return f"{folder}/nft"
    raise NetworkError("containers' networks need the nft command: install it with `apt-get install nftables`")
