"""A few verbs of an engine, for a program that is judged: it asks, and another process does it and tells the facts.

The engine is one of its own (see `trial.engine`), the program's own process needs no power over it.
"""

import contextlib
import json
import socket
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from minidocker import errors
from minidocker.course import trial
from minidocker.errors import MinidockerError

SITE = {
    "Dockerfile": """\
FROM busybox
ARG VERSION
COPY serve /
RUN sed -i "s/VERSION/$VERSION/" /serve && test $VERSION != unbuildable
CMD ["sh", "/serve"]
""",
    "serve": """\
mkdir -p /www /data
echo started >> /data/starts
test VERSION = broken && exit 3
echo "<p>version VERSION, started $(wc -l < /data/starts) times</p>" > /www/index.html
exec httpd -f -p 80 -h /www
""",
}


class Served:
    """An engine that can be asked for a few things, the folder of an application, and a free port of this machine."""

    def __init__(self, root: str, run: str, folder: str) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process = trial.start_process(["serve", root, run, ""])

    def close(self) -> None:
        """End the process that does what is asked for."""
        self._process.communicate()

    def ask(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        """Have something done. Raises: what the engine raises."""
        assert self._process.stdin and self._process.stdout  # noqa: S101, both are pipes
        self._process.stdin.write(json.dumps([verb, args, kwargs]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise MinidockerError("the engine of this check has ended")
        value, kind, text = json.loads(line)
        if kind:
            raise getattr(errors, kind, MinidockerError)(text)
        return value

    def build(self, path: str, tag: str, **options: Any) -> str:
        """Build an image; return its id."""
        return str(self.ask("build", path, tag, **options))

    def run(self, image: str, **options: Any) -> str:
        """Start a container in the background; return its id."""
        return str(self.ask("run", image, **options))

    def stop(self, name: str) -> None:
        """Stop a container."""
        self.ask("stop", name)

    def start(self, name: str) -> None:
        """Start a container that was stopped."""
        self.ask("start", name)

    def rename(self, name: str, new: str) -> None:
        """Give a container another name."""
        self.ask("rename", name, new)

    def remove(self, name: str) -> None:
        """Remove a container, also one that runs."""
        self.ask("remove", name)

    def containers(self) -> dict[str, str]:
        """Return the state of every container, by name."""
        return dict(self.ask("containers"))

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what is known of a container."""
        return dict(self.ask("inspect", name))

    def page(self) -> str:
        """Return what a visitor sees, "" where nobody answers."""
        return trial.fetch(f"http://127.0.0.1:{self.port}/")


@contextlib.contextmanager
def served() -> Iterator[Served]:
    """Give an engine with an application to launch; nothing of it is left afterwards."""
    with trial.engine() as (root, run), tempfile.TemporaryDirectory(prefix="minidocker-context-") as folder:
        trial.write(folder, SITE)
        it = Served(root, run, folder)
        try:
            yield it
        finally:
            it.close()


def serve(client: Any) -> None:
    """Do what each line of standard input asks for: what `Served` starts."""
    limited = trial.is_root()
    for line in sys.stdin:
        verb, args, kwargs = json.loads(line)
        try:
            answer = [_do(client, verb, args, kwargs, limited), "", ""]
        except (MinidockerError, OSError, TypeError, ValueError) as error:
            answer = [None, type(error).__name__, str(error)]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _do(client: Any, verb: str, args: list[Any], kwargs: dict[str, Any], limited: bool) -> Any:
    if verb == "build":
        return client.images.build(args[0], tag=args[1], network_mode="none", **kwargs)[0].id
    if verb == "run":
        if not limited:  # an ordinary user may not be able to set limits
            kwargs = {
                name: value for name, value in kwargs.items() if name not in ("mem_limit", "nano_cpus", "pids_limit")
            }
        return client.containers.run(args[0], **{**kwargs, "detach": True}).id
    if verb == "containers":
        return {one.name: one.status for one in client.containers.list(all=True)}
    container = client.containers.get(args[0])
    if verb == "inspect":
        return container.attrs
    more = {"stop": [2], "start": [], "rename": args[1:], "remove": [False, True]}[verb]
    return getattr(container, verb)(*more)
