"""What is done to containers by name: `stop`, `kill`, `restart`, `rm`, `wait`, `rename`, `port`, `top`."""

import sys

from minidocker.cli.arguments import Call, Command, Option, whole_number
from minidocker.cli.output import each, together
from minidocker.cli.tables import columns
from minidocker.container.spec import Port
from minidocker.errors import ContainerNotFound, ContainerStateError, InvalidArgument, MinidockerError


def stop(call: Call) -> int:
    """Ask containers to end; kill those that do not."""
    from minidocker import engine as stories

    engine = call.engine()

    def act(name: str) -> str:
        stories.stop(engine, engine.containers.get(name), float(call["time"]))
        return name

    return together(call.words, act)


def restart(call: Call) -> int:
    """Stop containers that run, and start them again."""
    from minidocker import engine as stories

    engine = call.engine()

    def act(name: str) -> str:
        stories.restart(engine, engine.containers.get(name), float(call["time"]))
        return name

    return together(call.words, act)


def kill(call: Call) -> int:
    """Send containers a signal."""
    from minidocker import engine as stories
    from minidocker.container.options import parse_signal

    parse_signal(call["signal"])
    engine = call.engine()

    def act(name: str) -> str:
        stories.kill(engine, engine.containers.get(name), call["signal"])
        return name

    return together(call.words, act)


def rm(call: Call) -> int:
    """Remove containers."""
    from minidocker import engine as stories

    engine = call.engine()

    def act(name: str) -> str:
        try:
            stories.remove(engine, engine.containers.get(name), force=call["force"], volumes=call["volumes"])
        except ContainerNotFound as error:
            if not call["force"]:
                raise
            if not stories.remove_damaged(engine, name):
                print(f"Error: {error}", file=sys.stderr)
                return ""
        return name

    return together(call.words, act)


def wait(call: Call) -> int:
    """Wait until containers end; print their exit codes."""
    from minidocker import engine as stories

    engine = call.engine()

    def act(name: str) -> None:
        print(stories.wait(engine, engine.containers.get(name)), flush=True)

    return each(call.words, act)


def rename(call: Call) -> int:
    """Give a container another name."""
    engine = call.engine()
    new = call.word(1)
    if not new:
        raise InvalidArgument("neither old nor new names may be empty")
    container = engine.containers.get(call.word(0))
    if container.name == new:
        raise InvalidArgument("Renaming a container with the same name as its current name")
    engine.containers.rename(container, new)
    return 0


def port(call: Call) -> int:
    """Print where a container's published ports are to be found."""
    container = call.engine().containers.get(call.word(0))
    published: tuple[Port, ...] = container.state.ports if container.running else ()
    if len(call.words) == 1:
        for entry in sorted(published):
            print(f"{entry.container_port}/{entry.protocol} -> {_address(entry)}")
        return 0
    number, _, protocol = call.word(1).partition("/")
    if not number.isdigit() or int(number) > 65535:
        raise InvalidArgument(f"Invalid port: {call.word(1)}")
    protocol = protocol.lower() or "tcp"
    found = [entry for entry in published if (entry.container_port, entry.protocol) == (int(number), protocol)]
    if not found:
        raise MinidockerError(f"No public port '{number}/{protocol}' published for {call.word(0)}")
    for entry in found:
        print(_address(entry))
    return 0


def _address(entry: Port) -> str:
    host = f"[{entry.host_ip}]" if ":" in entry.host_ip else entry.host_ip
    return f"{host}:{entry.host_port}"


def top(call: Call) -> int:
    """Print a container's processes, as `ps` sees them."""
    from minidocker import engine as stories

    engine = call.engine()
    container = engine.containers.get(call.word(0))
    if not container.running:
        raise ContainerStateError(f"Container {container.id} is not running")
    titles, rows = stories.top(engine, container, call.words[1:])
    sys.stdout.write(columns([titles, *rows], wide=20))
    return 0


_ONE_OR_MORE = "[OPTIONS] CONTAINER [CONTAINER...]"


def _seconds(meaning: str) -> Option:
    return Option("time", "int", meaning, "t", 10, whole_number)


COMMANDS = {
    "stop": Command(
        stop, _ONE_OR_MORE, (_seconds("Seconds to wait for stop before killing it"),), at_least=1, at_most=None
    ),
    "restart": Command(
        restart,
        _ONE_OR_MORE,
        (_seconds("Seconds to wait for stop before killing the container"),),
        at_least=1,
        at_most=None,
    ),
    "kill": Command(
        kill,
        _ONE_OR_MORE,
        (Option("signal", "string", "Signal to send to the container", "s", "KILL"),),
        at_least=1,
        at_most=None,
    ),
    "rm": Command(
        rm,
        _ONE_OR_MORE,
        (
            Option("force", "bool", "Force the removal of a running container (uses SIGKILL)", "f"),
            Option("volumes", "bool", "Remove anonymous volumes associated with the container", "v"),
        ),
        at_least=1,
        at_most=None,
    ),
    "wait": Command(wait, "CONTAINER [CONTAINER...]", at_least=1, at_most=None),
    "rename": Command(rename, "CONTAINER NEW_NAME", at_least=2, at_most=2),
    "port": Command(port, "CONTAINER [PRIVATE_PORT[/PROTO]]", at_least=1, at_most=2, root=False),
    "top": Command(top, "CONTAINER [ps OPTIONS]", at_least=1, at_most=None, stops=True),
}
