"""What is known of each container: a folder with its record, its state and its files, and how to find it.

`ROOT/containers/ID/record.json` says what the container is and changes only with its name; `state.json` says how its
latest run went. State is derived, never believed: "running" means that the process with that id *and* that start time
is alive now.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from minidocker.container import names
from minidocker.container.files import is_locked, locked, read_json, write_json
from minidocker.container.spec import Port, Spec
from minidocker.errors import AmbiguousPrefix, ContainerNotFound
from minidocker.linux import trees

Json = dict[str, Any]
Ids = list[str]  # `list` is a method below

CREATED = "created"
RUNNING = "running"
EXITED = "exited"

_KILLED_SHIM = 137


class State(NamedTuple):
    """How the container's latest run goes or went. Times are RFC 3339, empty where there is none yet.

    `pid` is the container's first process as the host sees it, `shim` the process that waits for it; each with its
    start time in clock ticks since boot, by which a recycled process id is told from the real one.
    """

    status: str = CREATED
    pid: int = 0
    pid_start: int = 0
    shim: int = 0
    shim_start: int = 0
    boot: str = ""
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started: str = ""
    finished: str = ""
    address: str = ""
    gateway: str = ""
    mac: str = ""
    ports: tuple[Port, ...] = ()


class Container(NamedTuple):
    """A container as it is on disk: what it is, and how it is."""

    id: str
    name: str
    image: str  # as the user named it
    image_id: str
    created: str
    spec: Spec
    state: State

    @property
    def short_id(self) -> str:
        """The twelve digits that people read."""
        return self.id[:12]

    @property
    def running(self) -> bool:
        """Whether its first process is alive."""
        return self.state.status == RUNNING


def now() -> str:
    """Return the time, in UTC, as RFC 3339 with nanoseconds: `2024-05-01T12:00:00.123456789Z`."""
    ns = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ns // 10**9)) + f".{ns % 10**9:09d}Z"


def boot_id() -> str:
    """Return what names this boot of the machine: process ids and start times mean nothing in the next one."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def start_time(pid: int) -> int:
    """Return when `pid` started, in clock ticks since boot; 0 where it is gone or only waits to be reaped.

    See: proc_pid_stat(5), fields 3 and 22; the second field, in brackets, may itself contain spaces and brackets.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


class Containers:
    """All containers below one root: `root` keeps what must last, `run` what ends with the machine's boot."""

    def __init__(self, root: str, run: str) -> None:
        self.root = root
        self.folder = f"{root}/containers"
        self.names = names.Names(root)
        self.layers = f"{root}/layers"
        self.run = run

    def path(self, container_id: str, *names: str) -> str:
        """Return the path of a container's folder, or of something in it."""
        return "/".join((self.folder, container_id, *names))

    def run_path(self, container_id: str, *names: str) -> str:
        """Return the path of a container's run-time folder, or of something in it."""
        return "/".join((self.run, container_id, *names))

    @contextlib.contextmanager
    def making(self, name: str, image: str, image_id: str, spec: Spec, container_id: str = "") -> Iterator[Container]:
        """Yield a new container, whose folder is to be filled in the block; at its end it is recorded, and so listed.

        The name is made up where none is given. A block that raises leaves nothing; one whose process is killed leaves
        a folder that no command shows, see `delete_unfinished`.

        Raises: InvalidArgument for an impossible name, Conflict for one in use, both in docker's words.
        """
        if name:
            names.check(name)
        os.makedirs(self.folder, 0o711, exist_ok=True)
        container_id = container_id or os.urandom(32).hex()
        folder = self.path(container_id)
        with contextlib.ExitStack() as holding:
            try:
                with self.names.locked():
                    os.mkdir(folder, 0o710)
                    holding.enter_context(locked(f"{folder}/lock"))
                    name = self.names.take(name, container_id)
                container = Container(container_id, name, image, image_id, now(), spec, State())
                yield container
                self._write_record(container)
            except BaseException:
                trees.delete(folder)
                raise

    def create(self, name: str, image: str, image_id: str, spec: Spec, container_id: str = "") -> Container:
        """Record a new container whose folder is empty; see `making`."""
        with self.making(name, image, image_id, spec, container_id) as container:
            pass
        return self.load(container.id)

    def delete_unfinished(self) -> None:
        """Delete what commands that were killed while they made a container have left: nobody holds its lock."""
        if not os.path.isdir(self.folder):
            return
        with self.names.locked():
            for container_id in self.ids():
                folder = self.path(container_id)
                if not self.is_recorded(container_id) and not is_locked(f"{folder}/lock"):
                    trees.delete(folder)
            self.names.drop_unowned()

    def _write_record(self, container: Container) -> None:
        """Write a container down; who removes itself at its end need not outlast the machine's."""
        record = {**container._asdict(), "spec": container.spec.to_json()}
        del record["state"]
        write_json(self.path(container.id, "record.json"), record, lasting=not container.spec.remove)

    def ids(self) -> Ids:
        """Return the ids of the containers that have a folder, in no order."""
        try:
            return [name for name in os.listdir(self.folder) if "." not in name]
        except FileNotFoundError:
            return []

    def list(self) -> list[Container]:
        """Return every container, the newest first. One whose record cannot be read yet, or any more, is left out."""
        found = []
        for container_id in self.ids():
            with contextlib.suppress(ContainerNotFound):
                found.append(self.load(container_id))
        return sorted(found, key=lambda container: container.created, reverse=True)

    def damaged(self, whole: Iterable[Container]) -> Ids:
        """Return the ids of those beside the `whole` ones whose record cannot be read, a file cut in half say."""
        known = {container.id for container in whole}
        candidates = [name for name in self.ids() if name not in known]
        return [name for name in candidates if self.is_recorded(name)]

    def is_recorded(self, container_id: str) -> bool:
        """Say whether the container has been made: of one whose record is empty the machine's end left no more."""
        try:
            return os.stat(self.path(container_id, "record.json")).st_size > 0
        except FileNotFoundError:
            return False

    def load(self, container_id: str) -> Container:
        """Read one container by its whole id.

        Raises: ContainerNotFound, also for one that is half made or half removed, or whose record is damaged.
        """
        try:
            record = read_json(self.path(container_id, "record.json"))
            record["spec"] = Spec.from_json(record["spec"])
            return Container(**record, state=self.state(container_id))
        except FileNotFoundError:
            raise ContainerNotFound(f"No such container: {container_id}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise ContainerNotFound(
                f"container {container_id[:12]} has a damaged record ({error}): "
                f"remove it with 'minidocker rm -f {container_id[:12]}'"
            ) from None

    def get(self, name: str) -> Container:
        """Find a container by name, id, or the beginning of an id that fits only one.

        Raises: ContainerNotFound, AmbiguousPrefix, in docker's words.
        """
        wanted = name.removeprefix("/")
        owner = self.names.owner(wanted)
        fitting = [owner] if owner else [each for each in self.ids() if wanted and each.startswith(wanted)]
        made = [container_id for container_id in fitting if self.is_recorded(container_id)]
        if len(made) > 1:
            raise AmbiguousPrefix(f"Multiple IDs found with provided prefix: {name}")
        if made:
            return self.load(made[0])
        raise ContainerNotFound(f"No such container: {name}")

    def state(self, container_id: str) -> State:
        """Return how the container is: what its shim wrote down last, checked against the processes that are alive.

        A run that nobody saw the end of (its shim was killed, the machine was switched off) has ended with 137.
        """
        try:
            data = read_json(self.path(container_id, "state.json"))
            data["ports"] = tuple(Port(**port) for port in data["ports"])
            state = State(**data)
        except FileNotFoundError:
            return State()
        except (ValueError, TypeError, KeyError):
            from minidocker.container import recovery

            lost = State(EXITED, exit_code=_KILLED_SHIM, error="its state file is damaged")
            return recovery.running_state(self.run_path(container_id)) or lost
        if state.status != RUNNING or (state.boot == boot_id() and start_time(state.shim) == state.shim_start):
            return state
        _end_unwatched(state)
        return state._replace(status=EXITED, exit_code=_KILLED_SHIM, error=state.error or "its shim was killed")

    def write_state(self, container_id: str, state: State) -> None:
        """Write down how the container is. Only its shim does so, and whoever cleans up after a shim that is gone.

        That it runs is not waited for to be on the disk, which can take longer than all else: it ends with the machine.
        """
        data = {**state._asdict(), "ports": [port._asdict() for port in state.ports]}
        write_json(self.path(container_id, "state.json"), data, lasting=state.status != RUNNING)

    def rename(self, container: Container, name: str) -> None:
        """Give the container another name.

        Raises: InvalidArgument, Conflict, in docker's words.
        """
        names.check(name)
        with self.names.locked():
            self.names.take(name, container.id)
            self._write_record(container._replace(name=name))
            self.names.drop(container.name, container.id)

    def forget(self, container_id: str) -> str:
        """Take the container out of sight and return what is left of it, to be deleted at leisure."""
        removed = f"{self.path(container_id)}.removed"
        with self.names.locked():
            os.rename(self.path(container_id), removed)
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError, KeyError):
                self.names.drop(read_json(f"{removed}/record.json")["name"], container_id)
        return removed

    @contextlib.contextmanager
    def lock(self, container_id: str) -> Iterator[int]:
        """Hold this container against a second command that would start, stop or remove it; yields the open lock.

        Raises: ContainerNotFound when it has been removed meanwhile.
        """
        with contextlib.ExitStack() as stack:
            try:
                held = stack.enter_context(locked(self.path(container_id, "lock")))
            except FileNotFoundError:
                raise ContainerNotFound(f"No such container: {container_id}") from None
            yield held


def _end_unwatched(state: State) -> None:
    """Kill a container's first process whose shim was killed; with it goes all that runs in the container.

    The kernel does that when the shim dies, unless the program has changed its user, which makes the kernel forget the
    wish. Then it lives until a command comes by. See: PR_SET_PDEATHSIG(2const).
    """
    if state.pid and state.boot == boot_id() and start_time(state.pid) == state.pid_start:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(state.pid, signal.SIGKILL)
