"""The engine for programs, in the shape of docker's own Python library: what is learned here carries over.

    client = minidocker.from_env()
    client.containers.run("busybox", "echo hello")            # b"hello\\n"
    web = client.containers.run("web", detach=True, ports={"80/tcp": 8080})
    web.logs(), web.exec_run("ps"), web.stop()

Objects are handles: they hold an id and look the rest up when it is asked for. Safe to use from threads.

See: docker-py's reference, Client, Images, Containers.
"""

import contextlib
import io
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

from minidocker import engine as stories
from minidocker import errors, inspect
from minidocker.container import options, ports, records, stream
from minidocker.container.attach import Attachment
from minidocker.container.options import ExecOptions, RunOptions
from minidocker.container.spec import Mount, Port
from minidocker.engine import Engine
from minidocker.progress import Progress

Json = dict[str, Any]
Words = str | Iterable[str] | None
Documents = list[Json]  # `list` is a method below
KINDS = {"C": 0, "A": 1, "D": 2}  # of changes, as docker's API numbers them


class ExecResult(NamedTuple):
    """How a program run by `exec_run` ended and what it wrote."""

    exit_code: int | None
    output: Any


def from_env(root: str = "", run: str = "") -> "Client":
    """Return a client on this machine's engine: on MINIDOCKER_ROOT and MINIDOCKER_RUN, or the usual folders."""
    return Client(stories.open_engine(root, run))


class Client:
    """One engine. `images` and `containers` are the collections of what it has."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.images = ImageCollection(engine)
        self.containers = ContainerCollection(engine)

    def ping(self) -> bool:
        """Say that the engine is there: it always is, there is no server that could be down."""
        return True

    def close(self) -> None:
        """Do nothing: no connection is kept."""


class Image:
    """An image in the store."""

    def __init__(self, engine: Engine, image_id: str) -> None:
        self.engine = engine
        self.id = image_id

    def __repr__(self) -> str:
        names = ", ".join(repr(tag) for tag in self.tags)
        return f"<Image: {names}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def short_id(self) -> str:
        """The id's first ten digits, with `sha256:`."""
        return self.id[:17]

    @property
    def attrs(self) -> Json:
        """What `inspect` shows."""
        return inspect.image_json(self.engine, self.engine.images.get(self.id))

    @property
    def tags(self) -> list[str]:
        """Its names, as people write them."""
        found: list[str] = self.attrs["RepoTags"]
        return found

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its configuration."""
        return self.attrs["Config"].get("Labels") or {}

    def history(self) -> list[Json]:
        """Return what made it, the newest step first."""
        config = self.engine.images.config(self.engine.images.get(self.id))
        return list(reversed(list(config.history)))

    def tag(self, repository: str, tag: str = "latest") -> bool:
        """Give it one more name. Raises: InvalidReference."""
        from minidocker.image import reference

        self.engine.images.tag(self.engine.images.get(self.id), reference.parse(f"{repository}:{tag}"))
        return True

    def remove(self, force: bool = False) -> None:
        """Remove it. Raises: Conflict."""
        stories.remove_image(self.engine, self.id, force)


class ImageCollection:
    """The images of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def get(self, name: str) -> Image:
        """Find an image by name or id. Raises: ImageNotFound."""
        return Image(self.engine, self.engine.images.get(name).id)

    def list(self, name: str = "", all: bool = False) -> list[Image]:
        """Return the images, of one repository where it is named; with `all` those that builds have left, too."""
        from minidocker.image import reference

        wanted = reference.parse(name, "").repository if name else ""
        found = self.engine.images.images(intermediate=all)
        return [
            Image(self.engine, image.id)
            for image in found
            if not wanted or any(reference.parse(tag).repository == wanted for tag in image.tags)
        ]

    def pull(self, repository: str, tag: str = "", platform: str = "") -> Image:
        """Fetch an image. Raises: RegistryError."""
        name = f"{repository}:{tag}" if tag else repository
        return Image(self.engine, stories.pull(self.engine, name, platform).image.id)

    def push(self, repository: str, tag: str = "") -> "Documents":
        """Send an image to its registry; return what was told on the way. Raises: RegistryError, ImageNotFound."""
        news: list[Progress] = []
        stories.push(self.engine, f"{repository}:{tag}" if tag else repository, news.append)
        return [line._asdict() for line in news]

    def build(self, path: str, tag: str = "", dockerfile: str = "", **asked: Any) -> tuple[Image, Iterator[Json]]:
        """Build an image of the folder `path`; return it and the build's lines as `{"stream": …}`.

        `asked` are docker-py's `buildargs`, `nocache`, `pull`, `target`, `labels`, `quiet`, `platform`,
        `network_mode`. Raises: BuildError, DockerfileError.
        """
        from minidocker.build.builder import BuildOptions

        names = {"buildargs": "build_args", "nocache": "no_cache", "network_mode": "network"}
        values = {names.get(name, name): value for name, value in asked.items() if name != "rm"}
        lines: list[str] = []
        wanted = BuildOptions(tags=(tag,) if tag else (), file=dockerfile, **values)
        image_id = stories.build(self.engine, path, wanted, lines.append)
        return Image(self.engine, image_id), iter([{"stream": line} for line in lines])

    def remove(self, image: str, force: bool = False) -> None:
        """Remove an image or one of its names. Raises: ImageNotFound, Conflict."""
        stories.remove_image(self.engine, image, force)


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
        asked = ExecOptions(_words(cmd), _pairs(environment), user, workdir, tty, False, detach, privileged)
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
        self, repository: str = "", tag: str = "", message: str = "", author: str = "", changes: Iterable[str] = ()
    ) -> Image:
        """Make an image of it."""
        name = f"{repository}:{tag}" if tag else repository
        return Image(self.engine, stories.commit(self.engine, self._now, name, message, author, changes).id)

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
        `pids_limit`, `platform`, `ports`, `privileged`, `publish_all_ports`, `read_only`, `stdin_open`,
        `stop_signal`, `tmpfs`, `tty`, `user`, `volumes`, `working_dir`.

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


def run_options(command: Words, asked: Json) -> RunOptions:
    """Return docker-py's keywords as the engine's options. Raises: TypeError for one that is not known."""
    values: Json = {"command": _words(command)}
    for name, value in asked.items():
        field, read = _KEYWORDS.get(name, ("", None))
        if read is None:
            raise TypeError(f"run() got an unexpected keyword argument '{name}'; known: {', '.join(sorted(_KEYWORDS))}")
        if value is not None:
            values[field] = (*values.get(field, ()), *read(value)) if field == "mounts" else read(value)
    return RunOptions(**values)


def _words(value: Words) -> tuple[str, ...]:
    """Read a command line, a list of words, or nothing."""
    return tuple(shlex.split(value) if isinstance(value, str) else value or ())


def _pairs(value: Mapping[str, str] | Iterable[str]) -> tuple[str, ...]:
    """Read variables: a mapping, or a list of `NAME=value`."""
    return tuple(f"{name}={text}" for name, text in value.items()) if isinstance(value, Mapping) else tuple(value)


def _labels(value: Mapping[str, str] | Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple(value.items()) if isinstance(value, Mapping) else tuple((name, "") for name in value)


def _hosts(value: Mapping[str, str] | Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name}:{address}" for name, address in value.items()) if isinstance(value, Mapping) else tuple(value)


def _size(value: int | str) -> int:
    return value if isinstance(value, int) else options.parse_memory(value)


def _volumes(value: Mapping[str, Any] | Iterable[str]) -> list[Mount]:
    """Read volumes: `{"/host": {"bind": "/in", "mode": "ro"}}`, or a list of `/host:/in:ro`."""
    if isinstance(value, Mapping):
        value = [f"{source}:{how['bind']}:{how.get('mode', 'rw')}" for source, how in value.items()]
    return [options.parse_volume(text) for text in value]


def _tmpfs(value: Mapping[str, str]) -> list[Mount]:
    return [options.parse_tmpfs(f"{target}:{how}" if how else target) for target, how in value.items()]


def _ports(value: Mapping[str | int, Any]) -> tuple[Port, ...]:
    """Read ports: `{"80/tcp": 8080}`, with None to choose one, an `(ip, port)` pair, or a list of several."""
    found: list[Port] = []
    for container, hosts in value.items():
        for host in hosts if isinstance(hosts, list) else [hosts]:
            ip, number = host if isinstance(host, tuple) else ("", host)
            found += ports.parse(f"{f'{ip}:' if ip else ''}{number or ''}{':' if ip or number else ''}{container}")
    return tuple(found)


_KEYWORDS: dict[str, tuple[str, Any]] = {
    "auto_remove": ("remove", bool),
    "cap_add": ("cap_add", tuple),
    "cap_drop": ("cap_drop", tuple),
    "detach": ("detach", bool),
    "entrypoint": ("entrypoint", _words),
    "environment": ("env", _pairs),
    "extra_hosts": ("extra_hosts", _hosts),
    "hostname": ("hostname", str),
    "init": ("init", bool),
    "labels": ("labels", _labels),
    "mem_limit": ("memory", _size),
    "name": ("name", str),
    "nano_cpus": ("cpus", lambda value: value / 1e9),
    "network": ("network", str),
    "network_mode": ("network", str),
    "pids_limit": ("pids_limit", int),
    "platform": ("platform", str),
    "ports": ("ports", _ports),
    "privileged": ("privileged", bool),
    "publish_all_ports": ("publish_all", bool),
    "read_only": ("read_only", bool),
    "stdin_open": ("interactive", bool),
    "stop_signal": ("stop_signal", str),
    "tmpfs": ("mounts", _tmpfs),
    "tty": ("terminal", bool),
    "user": ("user", str),
    "volumes": ("mounts", _volumes),
    "working_dir": ("workdir", str),
}


def _name(image: str | Image) -> str:
    return image.id if isinstance(image, Image) else image


def _read(attachment: Attachment) -> tuple[bytes, bytes]:
    """Read a process's output and errors to their end."""
    collected: dict[int, list[bytes]] = {stream.STDOUT: [], stream.STDERR: []}
    for kind, data in attachment.frames():
        collected[kind].append(data)
    attachment.close()
    return b"".join(collected[stream.STDOUT]), b"".join(collected[stream.STDERR])
