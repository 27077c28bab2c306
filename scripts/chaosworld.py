"""The world that `chaos.py` breaks: folders of its own, a registry to pull from, the processes of ours, and the checks.

What a command has reported as done is written down in `Promises`; the checks hold the disk and the kernel to it.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import Any

from leaks import Leaks, read
from minidocker.engine import open_engine
from minidocker.errors import MinidockerError
from minidocker.image import layers
from minidocker.image.store import Image, ImageStore
from minidocker.registry.embedded import remember

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
START = "import sys; from minidocker.cli.entry import entry; sys.argv[0] = 'minidocker'; sys.exit(entry())"
PATIENCE = 180  # seconds after which a command counts as stuck


class Broken(Exception):
    """Something was lost, is half there, is left behind, or a command failed that must not."""


class Promises:
    """What commands have reported as done: these images and containers must be there."""

    def __init__(self) -> None:
        self.images: dict[str, str] = {}  # by name: the id
        self.containers: dict[str, str] = {}  # by id: the name

    def id_of(self, name: str) -> str:
        """Return the id of the container that was promised under this name, or empty."""
        return next((key for key, value in self.containers.items() if value == name), "")


class World:
    """A ROOT and a RUN, and a registry beside them that nobody kills."""

    def __init__(self, base: str = "") -> None:
        self.base = base or tempfile.mkdtemp(prefix="mdchaos", dir="/tmp")
        self.root, self.run = f"{self.base}/root", f"{self.base}/run"
        self.files = f"{self.base}/files"
        for folder in (self.root, self.run, self.files):
            os.makedirs(folder)
        self.env = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:{self.base}/mark",  # by which the shims are known: it is all they inherit
            "MINIDOCKER_ROOT": self.root,
            "MINIDOCKER_RUN": self.run,
        }
        remember(self.run, "docker.io", "chaos does not ask it")
        self.promises = Promises()
        self._good_layers: dict[str, list[str]] = {}
        self._registry: subprocess.Popen[bytes] | None = None

    # Commands

    def start(self, *words: str, **popen: Any) -> subprocess.Popen[bytes]:
        """Start one of our commands, in a process group of its own."""
        script = os.path.join(os.path.dirname(sys.executable), "minidocker")
        argv = [script] if os.path.exists(script) else [sys.executable, "-c", START]
        return subprocess.Popen([*argv, *words], env=self.env, stdin=subprocess.DEVNULL, process_group=0, **popen)

    def command(self, *words: str) -> tuple[int, str, str]:
        """Run one of our commands to its end; return its exit code and what it printed."""
        process = self.start(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            stacks = "\n".join(f"{pid} {read(f'/proc/{pid}/wchan')} {title(pid)}" for pid in self.processes())
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise Broken(f"minidocker {' '.join(words)} is stuck\n{stacks}") from None
        return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    def ok(self, *words: str) -> str:
        """Run one of our commands, which must succeed; return what it printed."""
        code, out, err = self.command(*words)
        if code:
            raise Broken(f"minidocker {' '.join(words)}: exit {code}\n{out}{err}")
        return out.rstrip("\n")

    # The registry

    def serve(self, names: Iterable[str]) -> list[str]:
        """Start a registry and push images of several layers to it; return the names to pull."""
        with open(f"{self.base}/registry.log", "wb") as log:
            self._registry = self.start(
                "registry", "serve", "--addr", "127.0.0.1:0", "--root", f"{self.base}/registry",
                stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._registry.stdout  # noqa: S101, it is a pipe
        host = self._registry.stdout.readline().decode().partition("http://")[2].partition("/")[0]
        self.ok("pull", "-q", "busybox")
        served = []
        for name in names:
            for layer in range(3):
                self._context(f"{self.files}/{name}", f"FROM busybox\nCOPY f /{name}\nCOPY g /{name}-{layer}\n")
            self.ok("build", "-q", "-t", f"{host}/{name}", f"{self.files}/{name}")
            self.ok("push", f"{host}/{name}")
            served.append(f"{host}/{name}:latest")
        self.ok("save", "-o", f"{self.files}/saved.tar", *served)
        self.ok("rmi", "-f", *served)
        return served

    def _context(self, folder: str, dockerfile: str) -> None:
        os.makedirs(folder, exist_ok=True)
        for name, size in (("f", 3_000_000), ("g", 500_000)):
            with open(f"{folder}/{name}", "wb") as file:
                file.write(os.urandom(size))
        with open(f"{folder}/Dockerfile", "w") as file:
            file.write(dockerfile)

    # Processes

    def processes(self) -> list[int]:
        """Return the processes that commands of ours have started and that are not a container's program."""
        registry = self._registry.pid if self._registry else 0
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        mark = f"{self.base}/mark"
        ours = {pid for pid in pids if pid != registry and mark in read(f"/proc/{pid}/environ")}
        for pid in pids:  # nft has an environment of its own
            ours |= {pid} if parent(pid) in ours and title(pid).startswith("nft") else set()
        return sorted(ours)

    def kill_one(self, rng: random.Random, command: int) -> str:
        """Kill one process of ours, more often the command or what it has started than a shim that runs for long."""
        mine = [pid for pid in self.processes() if pid == command or started(pid) >= started(command)]
        pool = mine if mine and rng.random() < 0.85 else self.processes()
        if not pool:
            return "nobody"
        pid = rng.choice(sorted(pool, key=title))
        text = f"{pid} {title(pid)}"
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return text

    # Checks

    def check(self) -> None:
        """Every list can be shown, and what was promised is in it."""
        listed = set(self.ok("ps", "-aq", "--no-trunc").split())
        if lost := set(self.promises.containers) - listed:
            raise Broken(f"containers are lost: {[(self.promises.containers[one], one) for one in lost]}")
        lines = self.ok("images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
        shown = dict(line.split() for line in lines)
        for name, image_id in self.promises.images.items():
            if not shown.get(name, "").startswith(image_id):
                raise Broken(f"image {name} is lost: {image_id} was reported, {shown.get(name)} is there")
        if listed:
            self.ok("inspect", *sorted(listed))
        for name in sorted(os.listdir(f"{self.root}/containers")) if os.path.isdir(f"{self.root}/containers") else ():
            if name in listed and not os.path.isdir(f"{self.root}/containers/{name}/upper"):
                raise Broken(f"container {name} is listed and has no root")

    def check_images(self) -> None:
        """Each image that is listed is whole: its blobs are what their names say, its layers what the blobs hold."""
        store = open_engine(self.root, self.run).images
        for image in store.images():
            try:
                self._check_image(store, image)
            except (OSError, MinidockerError) as error:
                raise Broken(f"image {image.id} {image.tags} is listed and not whole: {error}") from error

    def _check_image(self, store: ImageStore, image: Image) -> None:
        manifest, config = store.manifest(image), store.config(image)
        for layer, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            store.layout.check_blob(layer.digest)
            if diff_id not in self._good_layers:
                scratch = f"{self.base}/scratch"
                os.mkdir(scratch)
                with store.layout.open_blob(layer.digest) as blob:
                    layers.unpack(layers.TarReader(layers.decompressed(blob)), scratch)
                self._good_layers[diff_id] = listing(scratch)
                shutil.rmtree(scratch)
            if listing(store.layer_path(diff_id)) != self._good_layers[diff_id]:
                raise Broken(f"layer {diff_id} of {image.tags} is not what its blob holds")
            store.layer_size(diff_id)

    def check_created(self) -> None:
        """A container that is listed as created is whole: it starts."""
        for container in self.ok("ps", "-aq", "--no-trunc", "--filter", "status=created").split():
            code, _, problem = self.command("start", container)
            if code and "already allocated" not in problem:  # its port may be another's by now
                raise Broken(f"container {container} is listed as created and cannot be started: {problem}")

    def check_network(self) -> None:
        """No two containers that run have the same address, and none the port of another."""
        ids = self.ok("ps", "-q", "--no-trunc").split()
        documents = json.loads(self.ok("inspect", *ids)) if ids else []
        addresses = [document["NetworkSettings"]["IPAddress"] for document in documents]
        taken = [address for address in addresses if address]
        if len(taken) != len(set(taken)):
            raise Broken(f"an address is given twice: {sorted(taken)}")

    # The end

    def everything(self) -> list[str]:
        """List every file in ROOT and RUN but what locks and remembers, and what is in the kernel."""
        files = [
            os.path.relpath(os.path.join(folder, name), self.base)
            for top in (self.root, self.run)
            for folder, folders, names in os.walk(top)
            for name in (*folders, *names)
        ]
        return sorted(files) + Leaks(self.root, self.run).found_after(5)

    def end(self) -> None:
        """End all that is left by force."""
        if self._registry:
            self._registry.terminate()
            self._registry.wait(20)
            if self._registry.stdout:
                self._registry.stdout.close()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        Leaks(self.root, self.run).clean()
        shutil.rmtree(self.base, ignore_errors=True)


def listing(folder: str) -> list[str]:
    """Describe what is in a tree: names, kinds, sizes."""
    found = []
    for top, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(top, name)
            status = os.lstat(path)
            size = 0 if os.path.isdir(path) else status.st_size
            found.append(f"{os.path.relpath(path, folder)} {status.st_mode:o} {size}")
    return sorted(found)


def title(pid: int) -> str:
    """Return a process's command line, for people: without the long way to it."""
    words = [word for word in read(f"/proc/{pid}/cmdline").split("\0") if word]
    return " ".join(words[-1:] if "minidocker-" in "".join(words[-1:]) else [os.path.basename(w) for w in words])[:90]


def parent(pid: int) -> int:
    """Return the parent of a process; 0 where it is gone."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if fields else 0


def started(pid: int) -> int:
    """Return when a process started, in clock ticks since boot."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[19]) if fields else 0


def wait_until_gone(pids: Iterable[int], seconds: float) -> list[int]:
    """Wait until these processes have ended; return those that have not."""
    deadline = time.monotonic() + seconds
    left = list(pids)
    while (left := [pid for pid in left if started(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
