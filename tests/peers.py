"""The real thing to compare with: Debian's dockerd, podman and docker-registry, each started by hand, apart.

They are always ended by the process id they were started with.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

DOCKER = "/usr/bin/docker"
DOCKERD = "/usr/sbin/dockerd"


def _run(argv: list[str], input: bytes | None, timeout: float, check: bool) -> subprocess.CompletedProcess[str]:
    """Run a peer's client to its end; with `check` its failure is the test's, with what it said."""
    done = subprocess.run(argv, input=input or b"", capture_output=True, timeout=timeout, check=False)
    out, err = done.stdout.decode(errors="surrogateescape"), done.stderr.decode(errors="surrogateescape")
    assert not check or done.returncode == 0, f"{' '.join(argv)}: exit {done.returncode}\n{out}{err}"
    return subprocess.CompletedProcess(argv, done.returncode, out, err)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: str, seconds: float = 60) -> None:
    """Wait until `ready`; raise RuntimeError with the log's end if the process ends or time runs out."""
    deadline = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            with open(log, errors="replace") as file:
                raise RuntimeError(f"{process.args!r} did not become ready:\n{file.read()[-3000:]}")
        time.sleep(0.1)


class Docker:
    """Debian's docker client, speaking to one daemon."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.host = f"unix://{base}/sock"
        self.argv = [DOCKER, "--config", f"{base}/config", "-H", self.host]

    def run(
        self, *args: str, input: bytes | None = None, timeout: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `docker args…`; `check=False` to look at a failure."""
        return _run([*self.argv, *args], input, timeout, check)


@contextlib.contextmanager
def running_docker(name: str) -> Iterator[Docker]:
    """Yield a docker daemon that all callers with the same `name` share; the last to leave ends it.

    `lock` is held while it is started or ended; every user holds `users` shared, so whoever gets it alone is the last.
    """
    base = f"/tmp/mdd-{name[:8]}"
    os.makedirs(f"{base}/config", exist_ok=True)
    docker = Docker(base)
    with open(f"{base}/lock", "w") as lock, open(f"{base}/users", "w") as users:
        with _locked(lock.fileno()):
            fcntl.flock(users, fcntl.LOCK_SH)
            if not os.path.exists(f"{base}/state"):
                _start_dockerd(base)
        try:
            yield docker
        finally:
            with _locked(lock.fileno()):
                fcntl.flock(users, fcntl.LOCK_UN)
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _stop_dockerd(base)


@contextlib.contextmanager
def _locked(fd: int) -> Iterator[None]:
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _start_dockerd(base: str) -> None:
    """Start dockerd on a bridge of its own, so that it meets no other daemon's `docker0`."""
    bridge, address = f"mdt{os.path.basename(base)[-8:]}", _free_subnet()
    rules = _rules()
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    subprocess.run(["ip", "address", "add", address, "dev", bridge], check=True)
    subprocess.run(["ip", "link", "set", bridge, "up"], check=True)
    with open(f"{base}/log", "wb") as log:
        daemon = subprocess.Popen(
            [DOCKERD, "--data-root", f"{base}/data", "--exec-root", f"{base}/exec", "-p", f"{base}/pid"]
            + ["-H", f"unix://{base}/sock", "--bridge", bridge],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    with open(f"{base}/state", "w") as file:
        json.dump({"pid": daemon.pid, "bridge": bridge, "rules": rules}, file)
    client = Docker(base)
    _wait_for(lambda: client.run("version", check=False).returncode == 0, daemon, f"{base}/log")


def _stop_dockerd(base: str) -> None:
    """End the daemon, and take its bridge and the rules it added with it."""
    with open(f"{base}/state") as file:
        state = json.load(file)
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(state["pid"], signal.SIGTERM)
        _wait_gone(state["pid"])
    subprocess.run(["ip", "link", "delete", state["bridge"]], check=False)
    _restore_rules(state["rules"], state["bridge"])
    with open("/proc/self/mountinfo") as mounts:  # dockerd keeps the host's network namespace mounted
        for target in [line.split()[4] for line in mounts if f" {base}/" in line]:
            subprocess.run(["umount", "-l", target], check=False)
    shutil.rmtree(base, ignore_errors=True)


def _wait_gone(pid: int, seconds: float = 30) -> None:
    """Wait for the end of a process, perhaps the child of another worker; kill it if it does not go."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return  # its parent has not looked yet
        except OSError:
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)


def _free_subnet() -> str:
    """Return the first address of a private network that no link of this machine has."""
    taken = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True).stdout
    return next(f"10.213.{n}.1/24" for n in range(os.getpid() % 200, 255) if f" 10.213.{n}." not in taken)


def _rules() -> dict[str, list[str]]:
    """Return iptables' rules, a list for each table."""
    tables = {}
    for table in ("filter", "nat"):
        done = subprocess.run(["iptables", "-t", table, "-S"], capture_output=True, text=True, check=False)
        tables[table] = done.stdout.splitlines()
    return tables


def _restore_rules(before: dict[str, list[str]], bridge: str) -> None:
    """Undo what dockerd added. While another daemon uses the same chains, only the rules of `bridge` go."""
    shared = _another_dockerd()
    for table, rules in _rules().items():
        added = [rule for rule in rules if rule not in before[table] and (bridge in rule or not shared)]
        for rule in added:
            if rule.startswith("-A"):
                _iptables(table, rule.replace("-A", "-D", 1))
        if shared:
            continue
        for rule in added:
            if rule.startswith("-N"):
                _iptables(table, rule.replace("-N", "-X", 1))
        for rule in before[table]:
            if rule.startswith("-P"):
                _iptables(table, rule)


def _another_dockerd() -> bool:
    """Say whether a docker daemon runs; ours has ended."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as comm:
            if comm.read() == "dockerd\n":
                return True
    return False


def _iptables(table: str, rule: str) -> None:
    subprocess.run(["iptables", "-w", "-t", table, *rule.split()], check=False, capture_output=True)


class Podman:
    """podman as root, without systemd, on its own storage."""

    LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")

    def __init__(self, base: str) -> None:
        self.base = base
        self.argv = ["podman", "--root", f"{base}/root", "--runroot", f"{base}/run"]
        self.argv += ["--runtime", "runc", "--cgroup-manager", "cgroupfs"]

    def run(
        self, *args: str, input: bytes | None = None, timeout: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `podman args…`; `run`, `create` and `build` get limits that a plain root may set."""
        if args[0] in ("run", "create", "build"):
            args = (args[0], *self.LIMITS, *args[1:])
        return _run([*self.argv, *args], input, timeout, check)

    def close(self) -> None:
        """Remove its containers, unmount and remove its storage."""
        self.run("rm", "-af", check=False)
        self.run("umount", "-af", check=False)
        subprocess.run(["umount", f"{self.base}/root/overlay"], check=False, capture_output=True)
        shutil.rmtree(self.base, ignore_errors=True)


class DockerRegistry:
    """One running docker-registry; `host` is what an image's name begins with."""

    def __init__(self, process: subprocess.Popen[bytes], base: str, port: int) -> None:
        self.process, self.base, self.port = process, base, port
        self.host = f"127.0.0.1:{port}"

    @property
    def log(self) -> str:
        """Return what the registry has logged so far, a line for each request."""
        with open(f"{self.base}/log", errors="replace") as file:
            return file.read()

    def close(self) -> None:
        """End the registry and remove what it held."""
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.base, ignore_errors=True)


def running_registry(env: dict[str, str], root: str = "") -> DockerRegistry:
    """Start docker-registry on a free port; `env` overrides its configuration, `root` is where it keeps its blobs."""
    base, port = tempfile.mkdtemp(prefix="mdr", dir="/tmp"), free_port()
    config = {
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": root or f"{base}/data"}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    with open(f"{base}/config.yml", "w") as file:
        json.dump(config, file)  # JSON is YAML
    with open(f"{base}/log", "wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", f"{base}/config.yml"],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    _wait_for(lambda: _listening(port), process, f"{base}/log", 20)
    return DockerRegistry(process, base, port)


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
