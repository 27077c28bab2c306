"""The command line: find out which command was typed, import its module, carry it out, say what went wrong.

Exit codes are docker's: 1 for what could not be done, 125 for an option that is wrong and for `run`'s own failures,
126 and 127 for a program that cannot be run or is not there, 128+n for one that a signal ended, else the program's own.
"""

import os
import sys
from importlib import import_module

from minidocker import __version__
from minidocker.cli.arguments import (
    BAD_ARGUMENTS,
    Call,
    Command,
    HelpWanted,
    Option,
    Settings,
    UsageError,
    check_words,
    did_you_mean,
    help_text,
    options_text,
    parse,
)
from minidocker.cli.catalogue import ABSENT, ALIASES, COMMANDS, GROUPS, members
from minidocker.errors import BuildError, MinidockerError, NetworkError, StartError

INTERRUPTED = 130
FAILED = 1
NOT_EXECUTED = 126  # docker's one code for all that `exec` cannot run

OPTIONS = (
    Option(
        "root",
        "string",
        "Folder for images and containers (default /var/lib/minidocker, or $MINIDOCKER_ROOT)",
        default="",
    ),
    Option(
        "run", "string", "Folder for what ends with this boot (default /run/minidocker, or $MINIDOCKER_RUN)", default=""
    ),
    Option("explain", "bool", "Print every step as the kernel sees it, beside the shell line that would do the same"),
    Option("with", "list", "Run on what you have written in these notebooks of the course: their functions for ours"),
    Option("insecure-registry", "list", "Speak plain HTTP, or TLS without checking, to this registry (host[:port])"),
    Option("help", "bool", "Print this page, or with COMMAND that of the command"),
    Option("version", "bool", "Print version information and quit", "v"),
)


def main(argv: list[str]) -> int:
    """Carry out one command line and return its exit code; print what goes wrong and let nothing escape."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")  # names are bytes to the kernel: print them as they came
    path = ""
    try:
        words, values = parse(argv, OPTIONS, "", stops=True)
        settings = Settings(values["root"], values["run"], values["explain"])
        _allow_insecure(values["insecure-registry"])
        _put_in_place(values["with"])
        if values["version"]:
            return _print_version()
        if not words or values["help"] or words[0] == "help":
            return _print_help(words[words[:1] == ["help"] :])
        path, rest = _find(words)
        if path in GROUPS:
            print(_group_help(path))
            return 0
        return _carry_out(path, rest, settings)
    except HelpWanted:
        return _print_help([])
    except UsageError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # so that the shell's prompt does not stand behind ^C
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED
    except Exception as error:  # noqa: BLE001, the last resort: a bug must not greet a learner with a traceback
        return _report(error, path)


def _allow_insecure(hosts: list[str]) -> None:
    """Add registries to those that the environment names as insecure, which is where the engine looks."""
    if hosts:
        known = os.environ.get("MINIDOCKER_INSECURE_REGISTRIES")
        os.environ["MINIDOCKER_INSECURE_REGISTRIES"] = ",".join([*([known] if known else []), *hosts])


def _put_in_place(notebooks: list[str]) -> None:
    """Have a learner's functions do the engine's work, and say which."""
    if notebooks:
        from minidocker.course import use

        use.begin(notebooks, lambda line: print(f"minidocker: {line}", file=sys.stderr))


def _find(words: list[str]) -> tuple[str, list[str]]:
    """Return the command that the first words name, as typed, and the words after it.

    Raises UsageError for one that does not exist.
    """
    first, second = words[0], " ".join(words[:2])
    if first not in GROUPS:
        if first not in COMMANDS:
            raise UsageError(_unknown(first), BAD_ARGUMENTS)
        return first, words[1:]
    if second in COMMANDS or second in ALIASES:
        return second, words[2:]
    if len(words) == 1 or words[1] == "--help":
        return first, []
    hint = did_you_mean(words[1], list(members(first)))
    message = f"minidocker: '{second}' is not a minidocker command{f': did you mean {first} {hint}?' if hint else '.'}"
    raise UsageError(f"{message}\nSee 'minidocker {first} --help'", BAD_ARGUMENTS)


def _unknown(word: str) -> str:
    message = f"minidocker: '{word}' is not a minidocker command."
    if word in ABSENT:
        message += f"\nDocker has one, minidocker does not: {ABSENT[word]}."
    elif hint := did_you_mean(word, [name for name in COMMANDS if " " not in name] + list(GROUPS)):
        message += f" Did you mean '{hint}'?"
    return f"{message}\nSee 'minidocker --help'"


def _command(path: str) -> tuple[Command, str]:
    """Import the command's module; return the command and its summary."""
    name = ALIASES.get(path, path)
    module, summary = COMMANDS[name]
    command: Command = import_module(f"minidocker.cli.{module}").COMMANDS[name]
    return command, summary


def _without_root(command: Command, settings: Settings) -> Settings:
    """Use an ordinary user's own folders and, for what root has to do, the user namespace in which the user is root."""
    from minidocker.container import rootless

    root, run = rootless.folders(settings.root, settings.run)
    if command.root:
        rootless.enter(run, lambda line: print(f"minidocker: {line}", file=sys.stderr))
    return settings._replace(root=root, run=run)


def _carry_out(path: str, argv: list[str], settings: Settings) -> int:
    """Parse the command's own part of the line and run it."""
    command, summary = _command(path)
    try:
        words, values = parse(argv, command.options, path, command.stops)
    except HelpWanted:
        print(help_text(path, command, summary))
        return 0
    except UsageError as error:
        raise UsageError(str(error), command.misuse or error.exit_code) from None
    check_words(words, command, path, summary)
    if settings.explain:
        from minidocker.cli import explaining

        explaining.start()
    if os.geteuid() != 0:
        settings = _without_root(command, settings)
    return command.run(Call(path, settings, words, values))


def _print_version() -> int:
    print(f"minidocker version {__version__}")
    return 0


def _print_help(words: list[str]) -> int:
    """Print the help of one command, or of all."""
    if not words:
        print(_overview())
        return 0
    try:
        path, _ = _find(words)
    except UsageError:
        print(f"unknown help topic: {' '.join(words)}", file=sys.stderr)
        return FAILED
    print(_group_help(path) if path in GROUPS else help_text(path, *_command(path)))
    return 0


def _overview() -> str:
    plain = {name: entry.summary for name, entry in COMMANDS.items() if " " not in name}
    return (
        "\nUsage:  minidocker [OPTIONS] COMMAND\n\nA container engine in Python, made to be read\n"
        f"\nOptions:\n{options_text(OPTIONS)}"
        f"\nManagement Commands:\n{_two_columns(GROUPS)}\nCommands:\n{_two_columns(plain)}\n"
        "Run 'minidocker COMMAND --help' for more information on a command."
    )


def _group_help(group: str) -> str:
    return (
        f"\nUsage:  minidocker {group} COMMAND\n\n{GROUPS[group]}\n\nCommands:\n{_two_columns(members(group))}\n"
        f"Run 'minidocker {group} COMMAND --help' for more information on a command."
    )


def _two_columns(entries: dict[str, str]) -> str:
    return "".join(f"  {name:10}  {summary}\n" for name, summary in entries.items())


def _report(error: Exception, path: str) -> int:
    """Print what went wrong in one or two lines; return the exit code."""
    if os.environ.get("MINIDOCKER_DEBUG"):
        import traceback

        traceback.print_exc()
    running = ALIASES.get(path, path) == "run"
    prefix = "" if isinstance(error, BuildError) else ("minidocker: " if running else "Error: ")
    print(f"{prefix}{explanation(error)}", file=sys.stderr)
    if running and isinstance(error, MinidockerError) and not isinstance(error, StartError | NetworkError):
        print("See 'minidocker run --help'.", file=sys.stderr)
    if isinstance(error, StartError) and (running or path == "unshare"):
        return error.exit_code
    if isinstance(error, StartError) and ALIASES.get(path, path) == "exec":
        return NOT_EXECUTED
    if isinstance(error, BuildError):
        return error.exit_code
    return 125 if running else FAILED


def explanation(error: Exception) -> str:
    """Return one error's text, with what a person can do about it where the error itself does not say."""
    import errno

    if isinstance(error, MinidockerError):
        return str(error)
    if isinstance(error, OSError):
        text = error.strerror or str(error)
        if error.filename:
            text = f"{os.fsdecode(error.filename)}: {text.lower()}"
        if error.errno == errno.ENOSPC:
            where = f" for {error.filename}" if error.filename else ""
            return (
                f"no space left on device{where}: see 'minidocker system df', free some with 'minidocker system prune'"
            )
        if error.errno in (errno.EACCES, errno.EPERM) and os.geteuid() != 0 and "sudo" not in text:
            return f"{text}: minidocker needs root: run it with sudo"
        return text
    if isinstance(error, RecursionError):
        return "a tree of folders is nested too deeply to be walked"
    return f"{type(error).__name__}: {error}\n{_culprit(error)}"


def _culprit(error: Exception) -> str:
    """Say whose bug an error is: ours, or that of a learner's cell (see `minidocker.course.use`)."""
    place = error.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename.startswith("<your cell"):
            name = place.tb_frame.f_code.co_filename.removeprefix("<your cell ").rstrip(">")
            return f"It was raised in your cell {name}, line {place.tb_lineno}."
        place = place.tb_next
    return "This is a bug in minidocker. MINIDOCKER_DEBUG=1 shows where it happened."
