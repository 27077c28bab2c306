"""What the tests share: roots of their own that must be left clean, the command, and real peers to compare with.

A test marked `root` needs root; one marked `peers` needs docker, podman, skopeo or docker-registry. Where such a thing
is missing the test is skipped with the reason; with CI=true or MINIDOCKER_REQUIRE_ALL=1 a skip is a failure.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from leaks import Leaks
from minidocker.container import network
from minidocker.engine import Engine, open_engine
from minidocker.registry.embedded import remember
from peers import Docker, DockerRegistry, Podman, running_docker, running_registry
from terminal import Terminal

REQUIRE_ALL = os.environ.get("CI") == "true" or os.environ.get("MINIDOCKER_REQUIRE_ALL") == "1"
DEFAULT_ROOT = "/var/lib/minidocker"
PEERS = ("/usr/bin/docker", "/usr/sbin/dockerd", "podman", "skopeo", "docker-registry", "runc", "htpasswd")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, and say why."""
    if (item.get_closest_marker("root") or item.get_closest_marker("peers")) and os.geteuid() != 0:
        pytest.skip("needs root")
    if item.get_closest_marker("peers"):
        missing = [tool for tool in PEERS if not shutil.which(tool)]
        if missing:
            pytest.skip(f"needs {', '.join(missing)}: run `make test`, which installs them")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Turn a skip into a failure where everything is required."""
    outcome: Any = yield
    report = outcome.get_result()
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where everything is required: {report.longrepr}"


class Roots(NamedTuple):
    """The folders of one test's own minidocker, on short paths: a socket's path has 108 bytes at most."""

    root: str
    run: str

    @property
    def env(self) -> dict[str, str]:
        """Return the environment in which the command uses these folders."""
        return {"MINIDOCKER_ROOT": self.root, "MINIDOCKER_RUN": self.run}


@pytest.fixture
def roots(monkeypatch: pytest.MonkeyPatch) -> Iterator[Roots]:
    """Give the test its own root and run folder, also in the environment; fail it if it leaves anything behind."""
    base = tempfile.mkdtemp(prefix="md", dir="/tmp")
    roots = Roots(f"{base}/root", f"{base}/run")
    os.mkdir(roots.root)
    os.mkdir(roots.run)
    for name, value in roots.env.items():
        monkeypatch.setenv(name, value)
    yield roots
    leaks = Leaks(roots.root, roots.run)
    try:
        if leaks.ids:
            remove_containers(Minidocker(roots))
        network.remove_all(roots.run)
        found = leaks.found_after(3)
    finally:
        leaks.clean()
        shutil.rmtree(base, ignore_errors=True)
    assert not found, "left behind by the test: " + "; ".join(found)


@pytest.fixture
def root_dir(roots: Roots) -> str:
    """Return the test's own MINIDOCKER_ROOT."""
    return roots.root


@pytest.fixture
def run_dir(roots: Roots) -> str:
    """Return the test's own MINIDOCKER_RUN."""
    return roots.run


class Minidocker:
    """The command, as a person runs it, on one test's folders."""

    def __init__(self, roots: Roots) -> None:
        self.env = roots.env
        script = os.path.join(os.path.dirname(sys.executable), "minidocker")
        start = "import sys; from minidocker.cli.entry import entry; sys.argv[0] = 'minidocker'; sys.exit(entry())"
        self.argv = [script] if os.path.exists(script) else [sys.executable, "-c", start]

    def __call__(
        self, *args: str, input: str | None = None, timeout: float = 60, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command to its end; look at `returncode`, `stdout` and `stderr`."""
        return subprocess.run(
            [*self.argv, *args],
            input=input if input is not None else "",
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout,
            env={**os.environ, **self.env, **(env or {})},
            check=False,
        )

    def ok(self, *args: str, input: str | None = None, timeout: float = 60) -> str:
        """Run the command, require that it succeeds and return what it printed, without the last newline."""
        done = self(*args, input=input, timeout=timeout)
        assert done.returncode == 0, f"minidocker {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.rstrip("\n")

    def start(self, *args: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Start the command and do not wait for it; the caller does."""
        return subprocess.Popen([*self.argv, *args], env={**os.environ, **self.env}, **popen)

    def pty(self, *args: str, rows: int = 24, columns: int = 80) -> Terminal:
        """Start the command on a terminal of its own; use as a context manager."""
        return Terminal([*self.argv, *args], env=self.env, rows=rows, columns=columns)


def remove_containers(minidocker: Minidocker) -> None:
    """Remove a test's containers as a user would; what then remains is a leak."""
    listed = minidocker("ps", "-aq", "--no-trunc").stdout.split()
    if listed:
        minidocker("rm", "-f", *listed)


@pytest.fixture
def minidocker(roots: Roots) -> Minidocker:
    """Return the command, working on the test's own folders."""
    return Minidocker(roots)


@pytest.fixture(scope="session")
def embedded() -> str:
    """Return the embedded registry's folder, made by `make setup`; only read it."""
    folder = os.environ.get("MINIDOCKER_EMBEDDED") or f"{DEFAULT_ROOT}/registry"
    if not os.path.exists(f"{folder}/index.json"):
        pytest.skip(f"no embedded registry in {folder}: run `make setup` as root")
    return folder


@pytest.fixture
def busybox_image(roots: Roots, embedded: str, minidocker: Minidocker) -> str:
    """Put `busybox:latest` into the test's own image store and return its name."""
    return add_image(roots, embedded, minidocker, "busybox:latest")


@pytest.fixture
def home(roots: Roots, busybox_image: str) -> Engine:
    """Return the engine on the test's own folders, with busybox in its store."""
    return open_engine(roots.root, roots.run)


@pytest.fixture
def debian_image(roots: Roots, embedded: str, minidocker: Minidocker) -> str:
    """Put `debian:bookworm` into the test's own image store and return its name."""
    return add_image(roots, embedded, minidocker, "debian:bookworm")


def add_image(roots: Roots, embedded: str, minidocker: Minidocker, name: str) -> str:
    """Take `name` out of the embedded registry into the test's own store, without asking docker.io first."""
    remember(roots.run, "docker.io", "the tests do not ask it")
    done = minidocker("pull", "-q", name, env={"MINIDOCKER_EMBEDDED": embedded})
    assert done.returncode == 0, done.stderr
    return name


@pytest.fixture(scope="session")
def docker(testrun_uid: str) -> Iterator[Docker]:
    """Return Debian's docker client on a daemon that all workers of this test run share."""
    with running_docker(testrun_uid) as docker:
        yield docker


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """Return podman on storage of this worker's own."""
    base = tempfile.mkdtemp(prefix="mdp", dir="/tmp")
    podman = Podman(base)
    yield podman
    podman.close()


@pytest.fixture
def docker_registry() -> Iterator[Callable[..., DockerRegistry]]:
    """Return a factory that starts Debian's docker-registry on a free port of 127.0.0.1.

    `docker_registry(env={"REGISTRY_AUTH": "htpasswd", …})`: the registry's own variables override its configuration.
    """
    servers: list[DockerRegistry] = []

    def start(env: dict[str, str] | None = None, root: str = "") -> DockerRegistry:
        servers.append(running_registry(env or {}, root))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
