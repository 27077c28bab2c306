"""The containers' network: a bridge for all, and for each container a cable, an address and its published ports.

`connect` runs in the engine's process once the container's empty namespace exists, `disconnect` in its shim when it
has ended. What is not in the kernel itself is in files:

    RUN/network/subnet             the bridge's subnet; written last, so where it is the bridge is whole
    RUN/network/lock               guards the making of the bridge and the choice of addresses
    RUN/network/leases/ADDRESS     which container has the address (see `leases`)
    RUN/network/published/ID       the nft lines that undo the container's published ports
    RUN/network/forwards/ID        for an ordinary user: what slirp4netns does for the container (see `slirp`)

A shim must stay small, so to disconnect takes nothing but files and the `nft` command.

See: veth(4), ip-link(8), nft(8); `network_links` and `firewall` for the plans that are applied here.
"""

import contextlib
import fcntl
import os
import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from minidocker.container import files, firewall, leases, rootless
from minidocker.container.spec import Port
from minidocker.errors import NetworkError
from minidocker.linux import userns

if TYPE_CHECKING:
    import socket

DEFAULT_RUN = "/run/minidocker"
# Two roots that look for a free subnet at the same time would find the same one.
SUBNET_LOCK = "/run/minidocker-network.lock"


class Endpoint(NamedTuple):
    """Where a container is on the network. `veth` is the host's end of its cable."""

    container_id: str
    address: str
    prefix_length: int
    gateway: str
    mac: str
    veth: str
    bridge: str


class Names(NamedTuple):
    """What the bridge and the nftables table of a run folder are called."""

    bridge: str
    table: str


def names(run_dir: str) -> Names:
    """Return the well-known names for the default run folder and others for any other, so that roots do not meet."""
    if run_dir == DEFAULT_RUN:
        return Names("minidocker0", "minidocker")
    mark = f"{zlib.crc32(os.fsencode(os.path.realpath(run_dir))):08x}"
    return Names(f"mdk-{mark}", f"minidocker-{mark}")


def preload() -> None:
    """Import what `connect` needs; worth it in a thread while the shim starts."""
    from minidocker.container import network_links

    network_links.preload()


def connect(
    run_dir: str,
    container_id: str,
    pid: int,
    ports: Iterable[Port] = (),
    preferred: str = "",
    handed_over: Iterable["socket.socket"] = (),
) -> Endpoint:
    """Give the container whose first process is `pid` a network, and lead `ports` of the host to it.

    Its network namespace must be empty but for `lo`. The ports are those that `ports.reserve` returned and holds; the
    sockets that are `handed_over` hold them only until slirp4netns can. The `preferred` address is given if it is free.
    A failure gives back the address and the ports; the cable goes with the namespace.

    Raises: NetworkError; OSError with the request that the kernel refused.
    """
    return rootless.in_network(
        run_dir, lambda: _connect(run_dir, container_id, pid, tuple(ports), preferred, handed_over)
    )


def _connect(
    run_dir: str,
    container_id: str,
    pid: int,
    ports: tuple[Port, ...],
    preferred: str,
    handed_over: Iterable["socket.socket"],
) -> Endpoint:
    """Connect a container to the bridge of the network namespace that this thread is in."""
    _disconnect(run_dir, container_id)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(_disconnect, run_dir, container_id)
        listing = firewall.start_listing()  # nft takes as long as the links do; so both at once
        try:
            endpoint, subnet = _plug_in(run_dir, container_id, pid, preferred)
        finally:
            rules = firewall.finish(listing)
        _repair_firewall(run_dir, subnet, rules)
        if rootless.is_kept(run_dir):
            from minidocker.container import slirp

            slirp.guard(rules)
            for holder in handed_over:
                holder.close()
            ports = slirp.forward(run_dir, container_id, ports)
        if ports:
            _publish(run_dir, endpoint, ports)
        on_failure.pop_all()
    return endpoint


def disconnect(run_dir: str, container_id: str) -> None:
    """Give back a container's ports and address; may be called twice, and for a container without a network.

    Its links are the kernel's to remove: they go with the container's network namespace.
    """
    if rootless.is_kept(run_dir) and not rootless.holder(run_dir):  # its network is gone, only our notes are not
        for name in ("published", "forwards"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{run_dir}/network/{name}/{container_id}")
        leases.release(f"{run_dir}/network/leases", container_id)
        return
    rootless.in_network(run_dir, lambda: _disconnect(run_dir, container_id))


def _disconnect(run_dir: str, container_id: str) -> None:
    try:
        if rootless.is_kept(run_dir):
            from minidocker.container import slirp

            slirp.end_forwards(run_dir, container_id)
        _unpublish(f"{run_dir}/network/published/{container_id}")
    finally:
        leases.release(f"{run_dir}/network/leases", container_id)


def remove_all(run_dir: str) -> None:
    """Remove the bridge, the rules and the files, as if there had never been a container. None may be running."""
    if not rootless.is_kept(run_dir) or rootless.holder(run_dir):
        rootless.in_network(run_dir, lambda: _remove_links(run_dir))
    _remove_files(run_dir)


def _remove_links(run_dir: str) -> None:
    from minidocker.container import network_links as links

    own = names(run_dir)
    rules = firewall.finish(firewall.start_listing())
    if plan := firewall.removal(rules, own.table, own.bridge):
        firewall.apply(plan)
    with links.open_socket() as host:
        links.remove(host, own.bridge)


def _remove_files(run_dir: str) -> None:
    folder = f"{run_dir}/network"
    for name in ("leases", "published", "forwards"):
        for entry in os.listdir(f"{folder}/{name}") if os.path.isdir(f"{folder}/{name}") else ():
            os.unlink(f"{folder}/{name}/{entry}")
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(f"{folder}/{name}")
    for name in ("subnet", "subnet.tmp", "subnet.lock", "lock"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{folder}/{name}")
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(folder)


def _plug_in(run_dir: str, container_id: str, pid: int, preferred: str) -> tuple[Endpoint, str]:
    """Lease an address, run a cable from the bridge to the container and configure both; also return the subnet."""
    from minidocker.container import network_links as links

    own = names(run_dir)
    with contextlib.ExitStack() as closing:
        host = closing.enter_context(links.open_socket())
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        closing.callback(os.close, namespace)
        inside = closing.enter_context(links.open_socket_in(namespace))
        with _locked(run_dir):
            subnet = _ensure_bridge(run_dir, host)
            _reclaim(run_dir)
            lease = leases.take(f"{run_dir}/network/leases", subnet, container_id, pid, preferred)
        endpoint = _endpoint(lease, subnet, own.bridge)
        bridge_index = links.index_of(host, own.bridge)
        links.apply(host, links.cable(endpoint.veth, own.bridge, bridge_index, namespace, pid, endpoint.mac))
        links.apply(host, links.hairpin(endpoint.veth, links.index_of(host, endpoint.veth)))
        eth0 = links.index_of(inside, "eth0")
        links.apply(inside, links.configure(eth0, endpoint.address, endpoint.prefix_length, endpoint.gateway))
    return endpoint, subnet


def _endpoint(lease: leases.Lease, subnet: str, bridge: str) -> Endpoint:
    """Name everything.

    The hardware address follows from the address, as docker's does, so a neighbour that remembers it is never wrong;
    the cable's name is random, so a restart does not meet the old one on its way out.
    """
    mac = "02:42:" + ":".join(f"{int(part):02x}" for part in lease.address.split("."))
    veth = f"veth{os.urandom(4).hex()}"
    prefix_length = int(subnet.partition("/")[2])
    return Endpoint(lease.container_id, lease.address, prefix_length, leases.gateway(subnet), mac, veth, bridge)


def _ensure_bridge(run_dir: str, host: "socket.socket") -> str:
    """Make the bridge unless it is there; return its subnet. The caller holds the network's lock."""
    from minidocker.container import network_links as links
    from minidocker.container import subnets

    own, path = names(run_dir), f"{run_dir}/network/subnet"
    remembered = _remembered_subnet(path, own.bridge)
    if remembered and links.exists(host, own.bridge):
        return remembered
    with files.locked(f"{run_dir}/network/subnet.lock" if userns.is_mapped() else SUBNET_LOCK):
        links.remove(host, own.bridge)  # what was begun and never finished
        subnet = subnets.choose(remembered)
        links.apply(host, links.bridge(own.bridge, run_dir))
        index = links.index_of(host, own.bridge)
        links.apply(host, links.start_bridge(own.bridge, index, leases.gateway(subnet), subnet))
    links.write_sysctl(f"/proc/sys/net/ipv4/conf/{own.bridge}/route_localnet", "1")
    links.write_sysctl("/proc/sys/net/ipv4/ip_forward", "1")
    with open(f"{path}.tmp", "w") as file:
        file.write(subnet)
    os.rename(f"{path}.tmp", path)
    return subnet


def _remembered_subnet(path: str, bridge: str) -> str:
    """Return the subnet noted at `path`; where the note is damaged, what the bridge has; "" where there is neither."""
    try:
        with open(path) as file:
            noted = file.read()
    except FileNotFoundError:
        return ""
    if leases.is_subnet(noted):
        return noted
    from minidocker.container import network_links as links

    return links.subnet_of(bridge)


def _reclaim(run_dir: str) -> None:
    """Disconnect the containers that ended without anybody doing it: their shim was killed."""
    for lease in leases.held(f"{run_dir}/network/leases"):
        if not lease.alive:
            _disconnect(run_dir, lease.container_id)


def _repair_firewall(run_dir: str, subnet: str, rules: str) -> None:
    """Add the rules that are missing: at first all, later those that a firewall's or docker's restart took away."""
    own = names(run_dir)
    if firewall.missing(rules, own.table, own.bridge, subnet):
        with _locked(run_dir):  # look again: whoever had the lock before may have done it
            rules = firewall.finish(firewall.start_listing())
            if plan := firewall.missing(rules, own.table, own.bridge, subnet):
                firewall.apply(plan)


def _publish(run_dir: str, endpoint: Endpoint, ports: tuple[Port, ...]) -> None:
    """Lead the ports of the host to the container; note first how that is undone.

    `nft` holds the note's lock with us: should we be killed, nobody undoes what it has not done yet. A rule that is in
    the way is what a killed shim left, for the port itself is held by us.
    """
    table = names(run_dir).table
    plan = firewall.publish(table, endpoint.address, ports)
    with files.locked(f"{run_dir}/network/published/{endpoint.container_id}") as note:
        os.write(note, firewall.unpublish(table, endpoint.address, ports).encode())
        try:
            firewall.apply(plan, note)
        except NetworkError as error:
            if "File exists" not in str(error):
                raise
            for port in ports:
                with _already_gone():
                    firewall.apply(firewall.forget(table, port), note)
            firewall.apply(plan, note)
    if udp := {port.host_port for port in ports if port.protocol == "udp"}:
        from minidocker.container import network_flows

        network_flows.forget_udp(udp)


def _unpublish(path: str) -> None:
    """Undo `_publish` by the note it left; nothing where there is none."""
    with contextlib.suppress(FileNotFoundError):
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # an nft whose command was killed may still be doing it
            undo = file.read()
        os.unlink(path)
        try:
            firewall.apply(undo)
        except NetworkError:  # all or nothing: so one by one, for those that are still there
            for line in undo.splitlines():
                with _already_gone():
                    firewall.apply(line)


@contextlib.contextmanager
def _already_gone() -> Iterator[None]:
    """Let pass that a rule, or the whole table, is not there any more, or is another container's by now."""
    try:
        yield
    except NetworkError as error:
        if "No such file" not in str(error) and "File exists" not in str(error):
            raise


@contextlib.contextmanager
def _locked(run_dir: str) -> Iterator[None]:
    """Hold the network's lock, in a folder made for it where there is none yet."""
    for name in ("leases", "published", "forwards"):
        os.makedirs(f"{run_dir}/network/{name}", exist_ok=True)
    with files.locked(f"{run_dir}/network/lock"):
        yield
