"""Talking to containers that exist: `start`, `attach`, `exec`, `logs`."""

import sys
from typing import TYPE_CHECKING, Any

from minidocker.cli.arguments import Call, Command, Option
from minidocker.cli.run_options import environment, environment_variable
from minidocker.cli.terminal import DETACH_KEYS, Detached, Wishes, check_terminal, converse, parse_keys, write_all
from minidocker.errors import ContainerStateError, InvalidArgument

if TYPE_CHECKING:
    from minidocker.engine import Engine

DETACHED = "read escape sequence"


def start(call: Call) -> int:
    """Start containers; with `-a` or `-i` stay with the one that is named."""
    from minidocker import engine as stories
    from minidocker.cli.output import each

    engine = call.engine()

    def begin(name: str) -> None:
        stories.start(engine, engine.containers.get(name))
        print(name)

    if not (call["attach"] or call["interactive"]):
        return each(call.words, begin)
    if len(call.words) > 1:
        raise InvalidArgument("you cannot start and attach multiple containers at once")
    container = engine.containers.get(call.word(0))
    wishes = _wishes(call, container, call["interactive"] and container.spec.open_stdin)
    attachment = stories.start(engine, container, attach=True)
    try:
        return _stay(stories, engine, container, attachment, wishes)
    except Detached:
        return 0


def attach(call: Call) -> int:
    """Join a running container's input and output."""
    from minidocker import engine as stories

    engine = call.engine()
    container = engine.containers.get(call.word(0))
    if not container.running:
        raise ContainerStateError("You cannot attach to a stopped container, start it first")
    wishes = _wishes(call, container, container.spec.open_stdin and not call["no-stdin"])._replace(redraw=True)
    try:
        return _stay(stories, engine, container, stories.attach(engine, container), wishes, call["sig-proxy"])
    except Detached:
        print(DETACHED, file=sys.stderr)
        return 1


def _wishes(call: Call, container: Any, stdin: bool) -> Wishes:
    wishes = Wishes(container.spec.terminal, stdin, keys=parse_keys(call["detach-keys"]))
    check_terminal(wishes)
    return wishes


def _stay(
    stories: Any, engine: "Engine", container: Any, attachment: Any, wishes: Wishes, passes_signals: bool = True
) -> int:
    """Talk to the container until it ends. Raises: Detached."""
    if passes_signals and not wishes.terminal:
        wishes = wishes._replace(
            forward=lambda number: stories.kill(engine, engine.containers.load(container.id), number.name)
        )
    return converse(attachment, wishes)


def execute(call: Call) -> int:
    """Run one more program in a running container."""
    from minidocker.container import shims

    wishes = Wishes(call["tty"], call["interactive"], keys=parse_keys(call["detach-keys"]))
    if not call["detach"]:
        check_terminal(wishes)
    shims.prepare()
    from minidocker import engine as stories
    from minidocker.container.options import ExecOptions

    options = ExecOptions(
        command=tuple(call.words[1:]),
        env=environment(call["env"], call["env-file"]),
        user=call["user"],
        workdir=call["workdir"],
        terminal=call["tty"],
        interactive=call["interactive"] and not call["detach"],
        detach=call["detach"],
        privileged=call["privileged"],
    )
    engine = call.engine()
    attachment = stories.execute(engine, engine.containers.get(call.word(0)), options)
    if attachment is None:
        return 0
    try:
        return converse(attachment, wishes)
    except Detached:
        print(DETACHED, file=sys.stderr)
        return 1


def logs(call: Call) -> int:
    """Print what a container printed, each stream on its own descriptor."""
    from minidocker import engine as stories
    from minidocker.cli.human import epoch

    engine = call.engine()
    container = engine.containers.get(call.word(0))
    tail = -1 if call["tail"] == "all" else _line_count(call["tail"])
    since = moment(call["since"]) if call["since"] else ""
    until = epoch(moment(call["until"])) if call["until"] else float("inf")
    sys.stdout.flush()
    for line in stories.logs(engine, container, follow=call["follow"], tail=tail, since=since):
        if epoch(line.time) > until:
            break
        stamp = f"{line.time} ".encode() if call["timestamps"] else b""
        write_all(2 if line.stream == "stderr" else 1, stamp + line.data)
    return 0


def _line_count(text: str) -> int:
    if not text.isdigit():
        raise InvalidArgument(f'invalid number of lines: "{text}": expected a number or "all"')
    return int(text)


def moment(text: str) -> str:
    """Return as RFC 3339 what `--since` names: a time, seconds since 1970, or how long ago (`42m`, `1h30m`).

    Raises: InvalidArgument for what is none of them.
    """
    import re
    from datetime import UTC, datetime, timedelta

    units = {"s": "seconds", "m": "minutes", "h": "hours"}
    try:
        if re.fullmatch(r"(\d+(\.\d+)?[hms])+", text):
            parts = {units[unit]: float(number) for number, unit in re.findall(r"([\d.]+)([hms])", text)}
            when = datetime.now(UTC) - timedelta(**parts)
        elif re.fullmatch(r"\d+(\.\d+)?", text) and len(text) > 4:
            when = datetime.fromtimestamp(float(text), UTC)
        else:
            when = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidArgument(f'failed to parse value as time or duration: "{text}"') from None
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


_KEYS = Option("detach-keys", "string", "Override the key sequence for detaching a container", default=DETACH_KEYS)

COMMANDS = {
    "start": Command(
        start,
        "[OPTIONS] CONTAINER [CONTAINER...]",
        (
            Option("attach", "bool", "Attach STDOUT/STDERR and forward signals", "a"),
            _KEYS,
            Option("interactive", "bool", "Attach container's STDIN", "i"),
        ),
        at_least=1,
        at_most=None,
    ),
    "attach": Command(
        attach,
        "[OPTIONS] CONTAINER",
        (
            _KEYS,
            Option("no-stdin", "bool", "Do not attach STDIN"),
            Option("sig-proxy", "bool", "Proxy all received signals to the process", default=True),
        ),
        at_least=1,
        at_most=1,
    ),
    "exec": Command(
        execute,
        "[OPTIONS] CONTAINER COMMAND [ARG...]",
        (
            Option("detach", "bool", "Detached mode: run command in the background", "d"),
            _KEYS,
            Option("env", "list", "Set environment variables", "e", read=environment_variable),
            Option("env-file", "list", "Read in a file of environment variables"),
            Option("interactive", "bool", "Keep STDIN open even if not attached", "i"),
            Option("privileged", "bool", "Give extended privileges to the command"),
            Option("tty", "bool", "Allocate a pseudo-TTY", "t"),
            Option("user", "string", "Username or UID (format: <name|uid>[:<group|gid>])", "u", ""),
            Option("workdir", "string", "Working directory inside the container", "w", ""),
        ),
        at_least=2,
        at_most=None,
        stops=True,
    ),
    "logs": Command(
        logs,
        "[OPTIONS] CONTAINER",
        (
            Option("details", "bool", "Show extra details provided to logs (there are none)"),
            Option("follow", "bool", "Follow log output", "f"),
            Option("since", "string", "Show logs since timestamp (2013-01-02T13:23:37Z) or relative (42m)", default=""),
            Option("tail", "string", "Number of lines to show from the end of the logs", "n", "all"),
            Option("timestamps", "bool", "Show timestamps", "t"),
            Option("until", "string", "Show logs before a timestamp or relative (42m)", default=""),
        ),
        at_least=1,
        at_most=1,
    ),
}
