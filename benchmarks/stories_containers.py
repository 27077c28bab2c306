"""Containers: start, exec, many of them, what an idle one costs, and what the kernel does for all alike."""

import json
import os
import sys
import time
from collections.abc import Iterator

from measure import OURS, Failed, Story, Teller, run, timed
from peers import free_port
from setting import PROJECT, Client, Setting, commands, pids_of, proportional_memory, tellers

KEYS = ("run", "run-bridge", "run-published", "engine", "exec", "idle", "many", "many-last", "copy-up", "walk")
MANY, IDLE = 100, 10
TENTH, HUNDREDTH = slice(5, 15), slice(90, 100)


def stories(made: Setting) -> Iterator[Story]:
    """Yield them in the order of the table."""
    alone = ("run", "--rm", "--network", "none", "busybox", "true")
    bridged = ("run", "--rm", "busybox", "true")
    everybody = made.everybody
    yield Story("run", "`run --rm --network none busybox true`", 0.30, commands(everybody, *alone), rounds=15)
    yield Story("run-bridge", "`run --rm busybox true`", 0.45, commands(made.both, *bridged), rounds=15)
    yield Story("run-published", "`run -d -p`, until the port answers", 0.50, _publish(made))
    alone_tellers = {OURS: lambda: _engine_alone(made), "runc": lambda: _runc(made)}
    yield Story(
        "engine", "the engine alone, from Python: create, start, wait, remove", 1.0, alone_tellers, ("runc",), 15
    )
    for client in everybody.values():
        client("run", "-d", "--name", "idle", "--network", "none", "busybox", "sleep", "3600")
    yield Story("exec", "`exec idle true`", 0.9, commands(everybody, "exec", "idle", "true"), rounds=15)
    for client in everybody.values():
        client("rm", "-f", "idle")
    memory = tellers(made.both, _idle_memory)
    yield Story("idle", f"an idle container's own processes, one of {IDLE} (PSS)", 8.0, memory, (), 1, "MB")
    yield from _many(made)
    yield from _kernel(made)


def _publish(made: Setting) -> dict[str, Teller]:
    def tell(client: Client) -> float:
        port = free_port()
        server = ("run", "-d", "--name", "web", "-p", f"127.0.0.1:{port}:80", "busybox", "httpd", "-f", "-p", "80")
        started = time.perf_counter()
        client(*server)
        until_answered(f"http://127.0.0.1:{port}/")
        seconds = time.perf_counter() - started
        client("rm", "-f", "web")
        return seconds

    return tellers(made.both, tell)


def until_answered(url: str) -> None:
    """Ask a server until it answers, whatever it says."""
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.001)
    raise TimeoutError(f"{url} does not answer")


def _engine_alone(made: Setting) -> float:
    """Measure in a process of its own, which has started a container before."""
    script = f"{PROJECT}/benchmarks/engine_alone.py"
    return float(run([sys.executable, script], {**os.environ, **made.minidocker.env}))


def _runc(made: Setting) -> float:
    """Run `true` in the same root file system, by a bundle in which nothing is mounted but what runc mounts itself."""
    bundle = f"{made.base}/bundle"
    if not os.path.exists(bundle):
        os.makedirs(f"{bundle}/rootfs")
        packed = f"{made.base}/busybox.tar"
        made.docker("create", "--name", "bundle", "busybox")
        made.docker("export", "-o", packed, "bundle")
        made.docker("rm", "bundle")
        run(["tar", "-xf", packed, "-C", f"{bundle}/rootfs"])
        run(["runc", "spec", "--bundle", bundle])
        with open(f"{bundle}/config.json") as file:
            spec = json.load(file)
        spec["process"] |= {"args": ["true"], "terminal": False}
        with open(f"{bundle}/config.json", "w") as file:
            json.dump(spec, file)
    return timed(lambda: run(["runc", "--root", f"{made.base}/runc", "run", "--bundle", bundle, "alone"]))


def _idle_memory(client: Client) -> float:
    """Return the PSS of what keeps one idle container, without what is there once for all of them, such as dockerd."""
    ids = [client("run", "-d", "--network", "none", "busybox", "sleep", "3600").strip() for _ in range(IDLE)]
    pids = [pid for id in ids for pid in pids_of(id[:12])]
    if len(pids) < IDLE:
        raise Failed(f"{len(pids)} processes have the id of one of {IDLE} containers on their command line")
    memory = sum(map(proportional_memory, pids)) / IDLE
    client("rm", "-f", *ids)
    return memory


def _many(made: Setting) -> Iterator[Story]:
    """Start a hundred, list them, stop them; the single starts are kept, for the plot and the next row."""
    starts: dict[str, list[float]] = {}

    def tell(client: Client) -> float:
        names = [f"many{number}" for number in range(MANY)]
        started = [_clocked_start(client, name) for name in names]
        listing = timed(lambda: client("ps"))
        stopping = timed(lambda: client("stop", "-t", "0", *names))
        client("rm", "-f", *names)
        starts[next(who for who, known in made.both.items() if known is client)] = started
        return sum(started) + listing + stopping

    yield Story(
        "many", f"{MANY} detached containers: start all, `ps`, stop all", 0.35, tellers(made.both, tell), rounds=1
    )
    if starts:
        made.series["containers"] = {who: list(enumerate(found, 1)) for who, found in starts.items()}
        runc = min(_runc(made) for _ in range(5))
        made.series["containers"]["the limit"] = [(1, runc), (MANY, runc)]
    both = {OURS: lambda: _median(starts[OURS][HUNDREDTH]), "the tenth": lambda: _median(starts[OURS][TENTH])}
    yield Story("many-last", "the hundredth's start, against the tenth's", 1.1, both, ("the tenth",), 1)


def _clocked_start(client: Client, name: str) -> float:
    return timed(lambda: client("run", "-d", "--name", name, "busybox", "top"))


def _median(figures: list[float]) -> float:
    return sorted(figures)[len(figures) // 2]


def _kernel(made: Setting) -> Iterator[Story]:
    """Yield what is the kernel's work, measured in the container by the container."""
    context = made.folder("gigabyte")
    with open(f"{context}/big", "wb") as file:
        for _ in range(1000):
            file.write(os.urandom(1000) * 1000)
    with open(f"{context}/Dockerfile", "w") as file:
        file.write("FROM busybox\nCOPY big /big\n")
    for client in made.both.values():
        client("build", "-q", "-t", "gigabyte", context)
    copying = ("run", "--rm", "--network", "none", "gigabyte", "sh", "-c", _clocked("echo >> /big"))
    yield Story("copy-up", "copy-up of a 1 GB file, in the container", 1.03, _clocks(made, copying))
    for client in made.both.values():
        client("rmi", "-f", "gigabyte")
    walking = _clocked("for n in 1 2 3 4 5 6 7 8 9 10; do find /usr > /dev/null; done")
    argv = ("run", "--rm", "--network", "none", "debian:bookworm", "sh", "-c", walking)
    yield Story("walk", "walking `/usr` ten times, in the container", 1.03, _clocks(made, argv))


def _clocked(script: str) -> str:
    return f"read before _ < /proc/uptime; {script}; read after _ < /proc/uptime; echo $before $after"


def _clocks(made: Setting, argv: tuple[str, ...]) -> dict[str, Teller]:
    """Return tellers that give the seconds between the two moments that the container prints."""

    def tell(client: Client) -> float:
        before, after = client(*argv).split()
        return float(after) - float(before)

    return tellers(made.both, tell)
