"""Containers, as programs see them.

See: docker-py's reference, Containers.
"""

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from minidocker import engine as stories
from minidocker import errors, inspect
from minidocker.client.images import Image
from minidocker.client.keywords import Words, pairs, run_options, words
from minidocker.container import records, stream
from minidocker.container.attach import Attachment
from minidocker.container.options import ExecOptions
from minidocker.engine import Engine

Json = dict[str, Any]
KINDS = {"C": 0, "A": 1, "D": 2}  # of changes, as docker's API numbers them


class ExecResult(NamedTuple):
    """How a program run by `exec_run` ended and what it wrote."""

    exit_code: int | None
    output: Any


class Container:
    """A container, running or not."""

    def __init__(self, engine: Engine, container_id: str) -> None:
        self.engine = engine
        self.id = container_id

    def __repr__(self) -> str:
        return f"<Container: {self.short_id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Container) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def _now(self) -> records.Container:
        return self.engine.containers.load(self.id)

    @property
    def short_id(self) -> str:
        """The id's first twelve digits."""
        return self.id[:12]

    @property
    def name(self) -> str:
        """Its name."""
        return self._now.name

    @property
    def status(self) -> str:
        """`created`, `running` or `exited`, as it is now."""
        return self._now.state.status

    @property
    def image(self) -> Image:
        """The image it was made of."""
        return Image(self.engine, self._now.image_id)

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict(self._now.spec.labels)

    @property
    def attrs(self) -> Json:
        """What `inspect` shows."""
        return inspect.container_json(self.engine, self._now)

    @property
    def ports(self) -> dict[str, list[dict[str, str]] | None]:
        """The published ports: `{"80/tcp": [{"HostIp": …, "HostPort": …}]}`."""
        found: dict[str, list[dict[str, str]] | None] = self.attrs["NetworkSettings"]["Ports"]
        return found

    def reload(self) -> None:
        """Do nothing: every attribute is looked up when it is asked for."""

    def start(self) -> None:
        """Run its program. Raises: StartError."""
        stories.start(self.engine, self._now)

    def stop(self, timeout: float = 10) -> None:
        """Ask it to end; after `timeout` seconds, end it."""
        stories.stop(self.engine, self._now, timeout)

    def restart(self, timeout: float = 10) -> None:
        """Stop it and start it."""
        stories.restart(self.engine, self._now, timeout)

    def kill(self, signal: str | int = "KILL") -> None:
        """Send it a signal."""
        stories.kill(self.engine, self._now, str(signal))

    def remove(self, v: bool = False, force: bool = False) -> None:
        """Remove it, with `v` its volumes without a name, too. Raises: Conflict when it runs and not `force`."""
        stories.remove(self.engine, self._now, force, v)

    def rename(self, name: str) -> None:
        """Give it another name. Raises: Conflict."""
        self.engine.containers.rename(self._now, name)

    def wait(self) -> Json:
        """Wait until it ends; return `{"StatusCode": n}`."""
        return {"Error": None, "StatusCode": stories.wait(self.engine, self._now)}

    def logs(
        self,
        stdout: bool = True,
        stderr: bool = True,
        stream: bool = False,
        follow: bool = False,
        timestamps: bool = False,
        tail: int | str = "all",
    ) -> Any:
        """Return what it wrote as bytes; with `stream` or `follow` an iterator over the lines."""
        wanted = {name for name, asked in (("stdout", stdout), ("stderr", stderr)) if asked}
        last = -1 if tail == "all" else int(tail)
        found = stories.logs(self.engine, self._now, follow, last)
        lines = (
            line.time.encode() + b" " + line.data if timestamps else line.data
            for line in found
            if line.stream in wanted
        )
        return lines if stream or follow else b"".join(lines)

    def exec_run(
        self,
        cmd: Words,
        tty: bool = False,
        privileged: bool = False,
        user: str = "",
        detach: bool = False,
        environment: Mapping[str, str] | Iterable[str] = (),
        workdir: str = "",
        demux: bool = False,
        stream: bool = False,
    ) -> ExecResult:
        """Run one more program in it; return its exit code and output, standard output and error apart with `demux`.

        Raises: ContainerStateError when it does not run, StartError when the program cannot be run.
        """
        asked = ExecOptions(words(cmd), pairs(environment), user, workdir, tty, False, detach, privileged)
        attachment = stories.execute(self.engine, self._now, asked)
        if attachment is None:
            return ExecResult(None, b"")
        if stream:
            return ExecResult(None, (data for _, data in attachment.frames()))
        out, err = _read(attachment)
        return ExecResult(attachment.exit_code, (out or None, err or None) if demux else out + err)

    def attach(self) -> Attachment:
        """Join those who see its output and give it input. Raises: ContainerStateError."""
        return stories.attach(self.engine, self._now)

    def top(self) -> Json:
        """Return its processes: `{"Titles": […], "Processes": [[…], …]}`."""
        titles, rows = stories.top(self.engine, self._now)
        return {"Titles": titles, "Processes": rows}

    def diff(self) -> list[Json]:
        """Return what it changed: `{"Path": …, "Kind": 0 (changed), 1 (added) or 2 (deleted)}`."""
        return [{"Path": c.path, "Kind": KINDS[c.kind]} for c in stories.diff(self.engine, self._now)]

    def commit(
        self,
        repository: str = "",
        tag: str = "",
        message: str = "",
        author: str = "",
        pause: bool = True,
        changes: Iterable[str] = (),
    ) -> Image:
        """Make an image of it; with `pause`, what runs in it stands still meanwhile."""
        name = f"{repository}:{tag}" if tag else repository
        return Image(self.engine, stories.commit(self.engine, self._now, name, message, author, changes, pause).id)

    def export(self) -> Iterator[bytes]:
        """Return its whole root as a tar archive."""
        archive = io.BytesIO()
        stories.export(self.engine, self._now, archive)
        return iter([archive.getvalue()])

    def get_archive(self, path: str) -> tuple[Iterator[bytes], Json]:
        """Return a file or directory as a tar archive, and its name."""
        archive = io.BytesIO()
        stories.copy_out(self.engine, self._now, path, archive)
        return iter([archive.getvalue()]), {"name": path.rstrip("/").rpartition("/")[2]}

    def put_archive(self, path: str, data: bytes | BinaryIO) -> bool:
        """Unpack a tar archive in one of its directories."""
        stories.copy_in(self.engine, self._now, path, io.BytesIO(data) if isinstance(data, bytes) else data)
        return True


class ContainerCollection:
    """The containers of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def get(self, name: str) -> Container:
        """Find a container by name, id, or beginning of an id. Raises: ContainerNotFound."""
        return Container(self.engine, self.engine.containers.get(name).id)

    def list(self, all: bool = False, limit: int = -1) -> list[Container]:
        """Return the running containers, or `all`; the newest first."""
        found = [c for c in self.engine.containers.list() if all or limit >= 0 or c.running]
        return [Container(self.engine, c.id) for c in (found if limit < 0 else found[:limit])]

    def create(self, image: str | Image, command: Words = None, **asked: Any) -> Container:
        """Make a container that does not run yet; `asked` as for `run`."""
        wanted = run_options(command, asked)
        return Container(self.engine, stories.create(self.engine, _name(image), wanted).id)

    def run(
        self,
        image: str | Image,
        command: Words = None,
        stdout: bool = True,
        stderr: bool = False,
        remove: bool = False,
        **asked: Any,
    ) -> Any:
        """Run a program in a new container and return what it wrote; with `detach`, the running container.

        `asked` are docker-py's: `auto_remove`, `cap_add`, `cap_drop`, `detach`, `entrypoint`, `environment`,
        `extra_hosts`, `hostname`, `init`, `labels`, `mem_limit`, `name`, `nano_cpus`, `network`, `network_mode`,
        `pids_limit`, `platform`, `ports`, `privileged`, `publish_all_ports`, `read_only`, `security_opt`,
        `stdin_open`, `stop_signal`, `tmpfs`, `tty`, `user`, `volumes`, `working_dir`.

        Raises: ContainerError when the program's exit code is not 0; what `engine.run` raises.
        """
        detach = asked.get("detach", False)
        wanted = run_options(command, {**asked, "auto_remove": asked.get("auto_remove", False) or (remove and detach)})
        container, attachment = stories.run(self.engine, _name(image), wanted)
        handle = Container(self.engine, container.id)
        if attachment is None:
            return handle
        out, err = _read(attachment)
        code = attachment.exit_code if attachment.exit_code is not None else handle.wait()["StatusCode"]
        if remove:
            with contextlib.suppress(errors.ContainerNotFound):
                handle.remove(force=True)
        if code:
            raise errors.ContainerError(container.name, code, " ".join(container.spec.args), _name(image), err)
        return (out if stdout else b"") + (err if stderr else b"")


def _name(image: str | Image) -> str:
    return image.id if isinstance(image, Image) else image


def _read(attachment: Attachment) -> tuple[bytes, bytes]:
    """Read a process's output and errors to their end."""
    collected: dict[int, list[bytes]] = {stream.STDOUT: [], stream.STDERR: []}
    for kind, data in attachment.frames():
        collected[kind].append(data)
    attachment.close()
    return b"".join(collected[stream.STDOUT]), b"".join(collected[stream.STDERR])
