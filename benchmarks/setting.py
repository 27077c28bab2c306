"""What is measured, set up: each engine with a store of its own, and a registry that holds the same images for all."""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from measure import Teller, run, timed

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, f"{PROJECT}/tests")

from peers import DockerRegistry, Podman, running_docker, running_registry  # noqa: E402

COMMAND = os.path.join(os.path.dirname(sys.executable), "minidocker")


class Client(NamedTuple):
    """A command line that speaks docker's language, and the environment it needs."""

    argv: Sequence[str]
    env: Mapping[str, str]
    limits: Sequence[str] = ()

    def __call__(self, *args: str, check: bool = True) -> str:
        """Carry out a command and return its output; it must succeed unless `check` is False."""
        given = (args[0], *self.limits, *args[1:]) if args[0] in ("run", "create", "build") else args
        return run([*self.argv, *given], {**os.environ, **self.env}, check)


class Setting(NamedTuple):
    """All that stories need. `base` is a folder for whatever they make; everything is on the same file system.

    `series` takes what the plots are drawn from: by name, for each teller, pairs of how many and how long.
    """

    base: str
    registry: DockerRegistry
    minidocker: Client
    docker: Client
    podman: Client
    series: dict[str, Any]

    @property
    def everybody(self) -> dict[str, Client]:
        """Return the engines by name, ours first."""
        return {"minidocker": self.minidocker, "docker": self.docker, "podman": self.podman}

    @property
    def both(self) -> dict[str, Client]:
        """Return ours and docker."""
        return {"minidocker": self.minidocker, "docker": self.docker}

    def name(self, image: str) -> str:
        """Return an image's name with the registry that holds it."""
        return f"{self.registry.host}/{image}"

    def folder(self, name: str) -> str:
        """Return a new, empty folder."""
        path = f"{self.base}/{name}"
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        return path


def tellers(clients: Mapping[str, Client], tell: Callable[[Client], float]) -> dict[str, Teller]:
    """Return a teller for each client: the same story, told by each."""
    return {who: functools.partial(tell, client) for who, client in clients.items()}


def commands(clients: Mapping[str, Client], *argv: str) -> dict[str, Teller]:
    """Return a teller for each client: how long it takes to carry out a command line."""
    return tellers(clients, lambda client: timed(lambda: client(*argv)))


@contextlib.contextmanager
def setting() -> Iterator[Setting]:
    """Yield it, with `busybox`, `debian:bookworm` and `eight:12` in the registry; the first two are in each engine."""
    base = tempfile.mkdtemp(prefix="mdb", dir="/tmp")
    ours = Client([COMMAND], {"MINIDOCKER_ROOT": f"{base}/root", "MINIDOCKER_RUN": f"{base}/run"})
    registry, podman = running_registry({}), Podman(f"{base}/podman")
    try:
        with running_docker(f"bench{os.getpid() % 1000}") as docker:
            made = Setting(
                base,
                registry,
                ours,
                Client(docker.argv, {"DOCKER_BUILDKIT": "0"}),
                Client(podman.argv, {}, podman.LIMITS),
                {},
            )
            os.mkdir(f"{base}/root")
            _fill(made)
            yield made
    finally:
        if left := ours("ps", "-aq", check=False).split():
            ours("rm", "-f", *left, check=False)
        ours("system", "prune", "--all", "--force", check=False)
        podman.close()
        registry.close()
        shutil.rmtree(base, ignore_errors=True)


def _fill(made: Setting) -> None:
    ours = made.minidocker
    for image in ("busybox:latest", "debian:bookworm"):
        ours("pull", "-q", image)
        ours("tag", image, made.name(image))
        ours("push", made.name(image))
        made.docker("pull", "-q", made.name(image))
        made.docker("tag", made.name(image), image)
        made.podman("pull", "-q", "--tls-verify=false", made.name(image))
        made.podman("tag", made.name(image), image, f"docker.io/library/{image}")
    ours("build", "-q", "-t", made.name("eight:12"), layered(made.folder("eight"), 8, 12_000_000))
    ours("push", made.name("eight:12"))
    ours("rmi", made.name("eight:12"))


def layered(folder: str, layers: int, size: int) -> str:
    """Fill a build context for an image of so many layers, each of twelve files and so many bytes; return the folder.

    Half of each file is noise, half text: it shrinks to about half, as programs do.
    """
    lines = ["FROM scratch"]
    for number in range(layers):
        os.mkdir(f"{folder}/{number}")
        for part in range(12):
            with open(f"{folder}/{number}/{part}", "wb") as file:
                half = size // 24
                file.write(os.urandom(half) + (f"line {number} of {part}\n".encode() * (half // 10))[:half])
        lines.append(f"COPY {number} /{number}")
    with open(f"{folder}/Dockerfile", "w") as file:
        file.write("\n".join(lines) + "\n")
    return folder


def pids_of(needle: str) -> list[int]:
    """Return the processes on whose command line a word stands."""
    found = subprocess.run(["pgrep", "-f", needle], capture_output=True, text=True, check=False)
    return [int(pid) for pid in found.stdout.split() if int(pid) != os.getpid()]


def proportional_memory(pid: int) -> float:
    """Return a process's proportional set size in MB. See: proc_pid_smaps(5)."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1000
