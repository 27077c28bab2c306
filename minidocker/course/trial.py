"""A Dockerfile tried out for an exercise: built in an engine of its own, run, looked at, changed and built again.

The text may be anybody's, so: a fresh root, no network, no image but busybox, limits on memory, processes and files,
little time, and all in a process of its own that is killed when it takes too long. Nothing is left behind.
"""

import contextlib
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from minidocker.build import dockerfile as dockerfiles
from minidocker.build.filesteps import Add, Copy, Run
from minidocker.container.spec import Limits, Spec, Ulimit
from minidocker.course.calls import Trouble
from minidocker.errors import BuildError, MinidockerError

BASE = "busybox"
PORT = 8080
SECONDS = 20.0
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from minidocker.course import trial; trial.main()"
_MEMORY, _PIDS, _FILE, _DISK, _PRINTED = 64 << 20, 64, 8 << 20, 1 << 30, 1 << 20
_SECRET = "correct-horse-battery-staple"
_STAMP = "/proc/sys/kernel/random/uuid"
INSTALL = f"""\
#!/bin/sh
# Install the libraries that the file $1 lists. What was downloaded for it stays in /var/cache/install.
set -e
mkdir -p /opt/libraries /var/cache/install
while read -r name; do
    head -c 400000 /dev/urandom > "/var/cache/install/$name.tar"
    echo "$name, installed as $(cat {_STAMP})" > "/opt/libraries/$name"
done < "$1"
"""
CONTEXT = {
    "needs.txt": "flask\nwaitress\n",
    "install.sh": INSTALL,
    "www/index.html": "<h1>Guest book</h1>\n",
    "www/cgi-bin/libraries": "#!/bin/sh\necho\ncat /opt/libraries/*\n",
    "notes.md": "What to say about it.\n",
    ".env": f"PASSWORD={_SECRET}\n",
    ".git/objects/pack": "0123456789abcde\n" * 64000,
}


class Visit(NamedTuple):
    """A container of the image, visited: its page, what its program `libraries` says, its user, where it listens."""

    page: str
    libraries: str
    uid: int
    listens: tuple[str, ...]
    log: str


class Trial(NamedTuple):
    """What came out of it. `problem` says in words why it went no further; what is behind that is empty then."""

    problem: str = ""
    log: str = ""
    added: int = 0
    files: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    first: Visit | None = None
    unrelated: bool = False
    page_changed: Visit | None = None
    needs_changed: Visit | None = None


@functools.lru_cache(1)
def try_out(dockerfile: str, dockerignore: str) -> Trial:
    """Build the exercise's application with these two files, and report; the same files are tried once only."""
    if problem := refusal(dockerfile):
        return Trial(problem)
    with engine() as (root, run), tempfile.TemporaryDirectory(prefix="minidocker-context-") as context:
        write(context, {**CONTEXT, "Dockerfile": dockerfile, ".dockerignore": dockerignore})
        answer = _apart(["try", root, run, context], SECONDS)
    if answer is None:
        return Trial(f"building and looking at it took more than {SECONDS:g} seconds, or a gigabyte of the disk")
    visits = {name: Visit(*answer[name]) for name in ("first", "page_changed", "needs_changed") if answer.get(name)}
    return Trial(**{**answer, **visits})


def refusal(text: str) -> str:
    """Say why a Dockerfile is not tried out, "" where it is: it asks for more than the exercise grants."""
    try:
        read = dockerfiles.parse(text)
    except MinidockerError as error:
        return str(error)
    names: set[str] = set()
    for stage in read.stages:
        if stage.start.base not in (BASE, f"{BASE}:latest") and stage.start.base.lower() not in names:
            return f"begin FROM {BASE}: there is no other image here, and {stage.start.base!r} is none"
        names.add(stage.start.name)
    for one in read.instructions:
        if isinstance(one, Add):
            return "use COPY: ADD can fetch from the network"
        if isinstance(one, Run) and one.line.flags:
            return f"RUN {one.line.flags[0]}: no options of RUN here"
        if isinstance(one, Copy) and one.origin and not (one.origin.lower() in names or one.origin.isdigit()):
            return f"COPY --from={one.origin}: only from a stage of this file"
    return ""


@contextlib.contextmanager
def engine() -> Iterator[tuple[str, str]]:
    """Give the root and run folders of an engine that has busybox; remove all that is in it afterwards.

    Raises: Trouble where there can be none, or where something of it stays.
    """
    base = tempfile.mkdtemp(prefix="minidocker-trial-")
    root, run = f"{base}/root", f"{base}/run"
    os.makedirs(root)
    try:
        _surely(["begin", root, run, ""])
        yield root, run
    finally:
        from minidocker.container import rootless

        try:
            _surely(["end", root, run, ""])
        finally:
            rootless.end(run)
            shutil.rmtree(base, ignore_errors=True)


def _surely(words: list[str]) -> None:
    """Do a part of the work that nothing of a learner's takes part in. Raises: Trouble where it cannot be done."""
    try:
        done = _apart(words, SECONDS)
    except MinidockerError as error:
        raise Trouble(str(error)) from None
    if done is None:
        raise Trouble(f"the engine of this check does not {words[0]} within {SECONDS:g} seconds")


def _apart(words: list[str], seconds: float) -> Any:
    """Do a part of the work in a process of its own; return what it reports, None where it took too long."""
    process = start_process(words)
    deadline, free = time.monotonic() + seconds, _free_space()
    while True:
        try:
            out, errors = process.communicate(timeout=0.5)
            break
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline or free - _free_space() > _DISK:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return None
    if process.returncode:
        raise MinidockerError(f"the engine of this check does not work: {errors.strip()[-500:]}")
    return json.loads(out)


def _free_space() -> int:
    """Return how many bytes are free where trials keep their files."""
    status = os.statvfs(tempfile.gettempdir())
    return status.f_bavail * status.f_frsize


def start_process(words: list[str]) -> "subprocess.Popen[str]":
    """Start the process that does the part of the work that the words name: see `main`."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _PROGRAM, package, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def main() -> None:
    """Do what the command line says, in an engine of its own: what `_apart` starts."""
    import minidocker

    part, root, run, context = sys.argv[2:]
    client = minidocker.from_env(root, run)
    answer: Any = {}
    if part == "begin":
        _begin(client)
    elif part == "end":
        _end(client)
    elif part == "serve":
        from minidocker.course import trialverbs

        trialverbs.serve(client)
        return
    else:
        answer = _try(client, context)
    json.dump(answer, sys.stdout)


def _begin(client: Any) -> None:
    """Pull busybox, from the embedded registry where there is one: no check depends on a network."""
    from minidocker.registry import embedded

    if embedded.find(client.engine.root):
        embedded.remember(client.engine.run, "docker.io", "a check does not ask it")
    client.images.pull(BASE)


def _end(client: Any) -> None:
    """Remove all containers, the network and every file."""
    from minidocker.container import network
    from minidocker.linux import trees

    for container in client.containers.list(all=True):
        container.remove(v=True, force=True)
    network.remove_all(client.engine.run)
    trees.delete(client.engine.root)


def _try(client: Any, context: str) -> dict[str, Any]:
    """Carry out the whole trial; stop at the first thing that does not work."""
    found: dict[str, Any] = {}
    try:
        first = _build(client, context, found)
        base = client.images.get(BASE).attrs
        found["added"] = first.attrs["Size"] - base["Size"]
        layers = first.attrs["RootFS"]["Layers"][len(base["RootFS"]["Layers"]) :]
        found["files"], found["secrets"] = _contents(client.engine.root, layers)
        found["first"] = _visit(client)
        write(context, {".env": "PASSWORD=another\n", ".git/objects/more": "more\n", "notes.md": "More.\n"})
        found["unrelated"] = _build(client, context, found).id == first.id
        write(context, {"www/index.html": "<h1>Book of guests</h1>\n"})
        _build(client, context, found)
        found["page_changed"] = _visit(client)
        write(context, {"needs.txt": "flask\nwaitress\njinja\n"})
        _build(client, context, found)
        found["needs_changed"] = _visit(client)
    except MinidockerError as error:
        found["problem"] = str(error)
    return found


def _limited(spec: Spec) -> Spec:
    """Have a RUN limited. Only root can be sure of control groups; others' checks are their own."""
    limits = Limits(_MEMORY, 1.0, _PIDS) if is_root() else Limits()
    return spec._replace(limits=limits, ulimits=(Ulimit("fsize", _FILE, _FILE),))


def is_root() -> bool:
    """Say whether this is the machine's root, and not an ordinary user in a user namespace."""
    with open("/proc/self/uid_map") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def _build(client: Any, context: str, found: dict[str, Any]) -> Any:
    """Build the context as it is now; keep what the first build has printed. Raises: BuildError, also for a flood."""
    from minidocker import buildsteps
    from minidocker.build.builder import BuildOptions

    printed = io.StringIO()

    def take(text: str) -> None:
        printed.write(text)
        if printed.tell() > _PRINTED:
            raise BuildError("the build prints more than a megabyte")

    with open(f"{context}/Dockerfile", encoding="utf-8", errors="surrogateescape") as file:
        options = BuildOptions(file.read(), f"{context}/Dockerfile", tags=("web",), network="none")
    buildsteps.build(client.engine, context, options, take, _limited)
    found.setdefault("log", printed.getvalue())
    return client.images.get("web")


def _contents(root: str, layers: list[str]) -> tuple[list[str], list[str]]:
    """Return the paths of all files in unpacked layers, and of those that hold the secret."""
    paths: set[str] = set()
    secrets: set[str] = set()
    for layer in layers:
        folder = f"{root}/layers/{layer.removeprefix('sha256:')}"
        for where, _, names in os.walk(folder):
            for path in (f"{where}/{name}" for name in names):
                paths.add(path[len(folder) :])
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        if _SECRET.encode() in file.read(_FILE):
                            secrets.add(path[len(folder) :])
    return sorted(paths)[:500], sorted(secrets)


def _visit(client: Any) -> Visit:
    """Start a container without a network, look at it, and remove it."""
    limits = {"mem_limit": _MEMORY, "pids_limit": _PIDS} if is_root() else {}
    container = client.containers.run("web", detach=True, network="none", **limits)
    try:
        pid = container.attrs["State"]["Pid"]
        deadline = time.monotonic() + 3
        while not (listens := _listening(pid)) and container.status == "running" and time.monotonic() < deadline:
            time.sleep(0.02)
        page, libraries = _inside(pid, ("/", "/cgi-bin/libraries")) if listens else ("", "")
        return Visit(page, libraries, _uid(pid), tuple(listens), container.logs(tail=5).decode(errors="replace"))
    finally:
        container.remove(v=True, force=True)


def _listening(pid: int) -> list[str]:
    """Return the addresses, in hexadecimal digits, at which a process's network listens at the port. See: proc(5)."""
    found = []
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{name}") as file:
            for line in file:
                address, _, port = line.split()[1].partition(":")
                if line.split()[3] == "0A" and int(port, 16) == PORT:
                    found.append(address)
    return found


def _uid(pid: int) -> int:
    """Return the user that a container's process is inside, -1 where it has ended."""
    with contextlib.suppress(OSError, StopIteration), open(f"/proc/{pid}/status") as file:
        return int(next(line for line in file if line.startswith("Uid:")).split()[1])
    return -1


def _inside(pid: int, paths: tuple[str, ...]) -> list[str]:
    """Fetch pages in a process's network namespace, from a child that enters it."""
    from minidocker.linux import syscalls

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
            syscalls.setns(namespace, syscalls.CLONE_NEWNET)
            with open(writer, "w") as out:
                json.dump([fetch(f"http://127.0.0.1:{PORT}{path}") for path in paths], out)
        os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return list(json.loads(text)) if text else ["" for _ in paths]


def fetch(url: str) -> str:
    """Return the beginning of a page, "" where there is none."""
    from urllib.request import ProxyHandler, build_opener

    with contextlib.suppress(OSError, ValueError), build_opener(ProxyHandler({})).open(url, timeout=3) as answer:
        return str(answer.read(100_000).decode(errors="replace"))
    return ""


def write(folder: str, files: dict[str, str]) -> None:
    """Write files below a folder; programs can be executed."""
    for name, text in files.items():
        path = f"{folder}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.chmod(path, 0o755 if text.startswith("#!") else 0o644)
