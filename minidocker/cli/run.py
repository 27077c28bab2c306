"""`run` and `create`: a new container from an image."""

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from minidocker.cli import interrupt
from minidocker.cli.arguments import Call, Command, Option
from minidocker.cli.progress import printer
from minidocker.cli.run_options import OPTIONS, run_options
from minidocker.cli.terminal import DETACH_KEYS, Detached, Wishes, check_terminal, converse, parse_keys
from minidocker.errors import Conflict, InvalidArgument

if TYPE_CHECKING:
    from minidocker.engine import Engine


def run(call: Call) -> int:
    """Create a container and start it; stay with it until it ends, unless it is to be left alone."""
    from minidocker.container import shims

    detach: bool = call["detach"]
    if detach and call["attach"]:
        raise InvalidArgument("Conflicting options: -a and -d")
    options = run_options(call, detach)
    wishes = _wishes(call)
    if not detach:
        check_terminal(wishes)
    container_id = os.urandom(32).hex()
    shims.prepare()
    from minidocker import engine as stories

    engine = call.engine()

    def forward(number: signal.Signals) -> None:
        stories.kill(engine, engine.containers.load(container_id), number.name)

    if detach or call["sig-proxy"]:
        interrupt.forward_once_it_runs(engine.containers, container_id, None if detach else forward)
    with _container_id_file(call["cidfile"]) as write_id:
        with printer(sys.stderr) as report:
            _pull_first(engine, call, report)
            container, attachment = stories.run(engine, call.word(0), options, report, container_id)
        write_id(container.id)
    if attachment is None:
        print(container.id)
        return 0
    if call["sig-proxy"]:
        wishes = wishes._replace(forward=forward)
    try:
        return converse(attachment, wishes)
    except Detached:
        return 0


def create(call: Call) -> int:
    """Create a container and print its id."""
    from minidocker import engine as stories

    options = run_options(call, detach=False)
    engine = call.engine()
    with _container_id_file(call["cidfile"]) as write_id:
        with printer(sys.stderr) as report:
            _pull_first(engine, call, report)
            container = stories.create(engine, call.word(0), options, report)
        write_id(container.id)
    print(container.id)
    return 0


def _wishes(call: Call) -> Wishes:
    """Return which streams are wanted: those named by `-a`, else both outputs, and the input with `-i`."""
    named: list[str] = call["attach"]
    return Wishes(
        terminal=call["tty"],
        stdin="stdin" in named if named else call["interactive"],
        stdout=not named or "stdout" in named,
        stderr=not named or "stderr" in named,
        keys=parse_keys(call["detach-keys"]),
    )


def _pull_first(engine: "Engine", call: Call, report: Any) -> None:
    """Do what `--pull` asks for; `missing` is what the engine does by itself."""
    from minidocker import engine as stories

    if call["pull"] == "always":
        stories.pull(engine, call.word(0), call["platform"], report)
    elif call["pull"] == "never":
        engine.images.get(call.word(0))


@contextlib.contextmanager
def _container_id_file(path: str) -> Any:
    """Yield what writes the container's id to `path`; a file that nothing was written to does not stay."""
    if not path:
        yield lambda _container_id: None
        return
    try:
        file = open(path, "x")  # noqa: SIM115, closed below
    except FileExistsError:
        raise Conflict(
            f"Container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    with file:
        try:
            yield file.write
        except BaseException:
            os.unlink(path)
            raise


_KEYS = Option("detach-keys", "string", "Override the key sequence for detaching a container", default=DETACH_KEYS)

COMMANDS = {
    "run": Command(
        run,
        "[OPTIONS] IMAGE [COMMAND] [ARG...]",
        (
            *OPTIONS,
            Option("detach", "bool", "Run container in background and print container ID", "d"),
            _KEYS,
            Option("sig-proxy", "bool", "Proxy received signals to the process", default=True),
        ),
        at_least=1,
        at_most=None,
        stops=True,
    ),
    "create": Command(create, "[OPTIONS] IMAGE [COMMAND] [ARG...]", OPTIONS, at_least=1, at_most=None, stops=True),
}
