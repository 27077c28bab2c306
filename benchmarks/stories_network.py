"""Published ports: how much goes through, and how many requests a second, by the loopback and by the host's address."""

import json
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from measure import Failed, Story, run
from peers import free_port
from setting import Client, Setting
from stories_containers import until_answered

KEYS = ("port-loopback", "port-loopback-requests", "port-host", "port-host-requests")


def stories(made: Setting) -> Iterator[Story]:
    """Yield them in the order of the table, with the same two servers in both engines' containers."""
    ports = {who: (free_port(), free_port()) for who in made.both}
    for who, client in made.both.items():
        _serve(made, client, *ports[who])
    for key, address, words in (("loopback", "127.0.0.1", "127.0.0.1"), ("host", _address(), "the host's address")):
        throughput = {who: partial(_throughput, address, ports[who][0]) for who in made.both}
        requests = {who: partial(_requests, address, ports[who][1]) for who in made.both}
        name = f"published port through {words}"
        yield Story(f"port-{key}", f"{name}: throughput", 1.0, throughput, unit="Gbit/s", more_is_better=True)
        yield Story(f"port-{key}-requests", f"{name}: requests", 1.0, requests, unit="/s", more_is_better=True)
    for client in made.both.values():
        client("rm", "-f", "iperf", "web")


def _serve(made: Setting, client: Client, throughput: int, requests: int) -> None:
    """Start the host's own iperf3, and busybox's web server."""
    host = (
        "-v",
        "/:/host:ro",
        "-v",
        f"{made.folder(f'tmp{throughput}')}:/host/tmp",
    )  # it sends what is in a file there
    iperf = (*host, "busybox", "chroot", "/host", "/usr/bin/iperf3", "-s")
    client("run", "-d", "--name", "iperf", "-p", f"{throughput}:5201", *iperf)
    httpd = ("busybox", "sh", "-c", "echo hello > index.html; exec httpd -f -p 80")
    client("run", "-d", "--name", "web", "-p", f"{requests}:80", *httpd)
    until_answered(f"http://127.0.0.1:{requests}/")


def _address() -> str:
    """Return the address by which this machine reaches others."""
    found = re.search(r"src (\S+)", run(["ip", "route", "get", "192.0.2.1"]))
    return found.group(1) if found else "127.0.0.1"


def _throughput(address: str, port: int) -> float:
    """Measure for a second; its server takes a moment after each measurement until it can do another."""
    said: dict[str, Any] = {}
    for _ in range(10):
        said = json.loads(run(["iperf3", "-c", address, "-p", str(port), "-t", "1", "-J"], check=False))
        if "error" not in said:
            return float(said["end"]["sum_received"]["bits_per_second"]) / 1e9
        time.sleep(0.2)
    raise Failed(f"iperf3 at {address}:{port}: {said['error']}")


def _requests(address: str, port: int) -> float:
    said = run(["wrk", "-t", "1", "-c", "8", "-d", "1s", "-H", "Connection: close", f"http://{address}:{port}/"])
    found = re.search(r"Requests/sec: *([\d.]+)", said)
    if not found:
        raise ValueError(said)
    return float(found.group(1))
