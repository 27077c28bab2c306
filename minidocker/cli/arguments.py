"""Command lines, read as docker reads them: what a command accepts is a table, and parsing is one walk over the words.

Not argparse: it has no `--rm=false`, `-p8080:80` means something else to it, it cannot stop at the image's name so that
`run busybox ls -l` keeps its `-l`, its messages are not docker's, and importing it takes longer than `ps` itself.

See: the flag syntax of pflag, which docker uses.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from minidocker.errors import InvalidArgument

if TYPE_CHECKING:
    from minidocker.engine import Engine

BAD_OPTION = 125
BAD_ARGUMENTS = 1


class Option(NamedTuple):
    """One option. `kind` is the word that the help shows; `bool` takes no value, `list` may be given often.

    `read` checks and converts the value, and raises InvalidArgument or ValueError for a wrong one.
    """

    name: str
    kind: str
    help: str
    short: str = ""
    default: Any = None
    read: Callable[[str], Any] = str

    @property
    def shown(self) -> str:
        """The option as messages show it: `-m, --memory`."""
        return f"-{self.short}, --{self.name}" if self.short else f"--{self.name}"

    @property
    def unsaid(self) -> Any:
        """The value where the command line does not have the option."""
        if self.kind == "list":
            return []
        return bool(self.default) if self.kind == "bool" else self.default


class Settings(NamedTuple):
    """The options that stand before the command."""

    root: str = ""
    run: str = ""
    explain: bool = False


class Call:
    """One command line, read: the words that are no options, and what was said about each option."""

    def __init__(self, path: str, settings: Settings, words: list[str], values: dict[str, Any]) -> None:
        self.path = path
        self.settings = settings
        self.words = words
        self._values = values

    def __getitem__(self, name: str) -> Any:
        """Return an option's value: what was said, else its default."""
        return self._values[name]

    def word(self, position: int, otherwise: str = "") -> str:
        """Return the word at `position`, or `otherwise` where there are fewer."""
        return self.words[position] if position < len(self.words) else otherwise

    def engine(self) -> "Engine":
        """Open the engine on the folders that the settings name."""
        from minidocker.engine import open_engine

        return open_engine(self.settings.root, self.settings.run)


class Command(NamedTuple):
    """What a command accepts, and the function that carries it out and returns the exit code.

    `at_most` None: any number of words. `stops`: options end at the first word that is none. `root`: only root can.
    `misuse`: the exit code for a line that cannot be understood, where it is not docker's.
    """

    run: Callable[[Call], int]
    usage: str = ""
    options: tuple[Option, ...] = ()
    at_least: int = 0
    at_most: int | None = 0
    stops: bool = False
    root: bool = True
    about: str = ""
    misuse: int = 0


# Options that tutorials use and minidocker does not have; any other is taken for a slip of the finger.
NOT_HERE = (
    "restart link link-local-ip network-alias ip ip6 mac-address dns dns-search dns-option gpus runtime log-driver "
    "log-opt health-cmd no-healthcheck shm-size ipc pid uts cgroupns cgroup-parent cpu-shares cpuset-cpus memory-swap "
    "memory-reservation oom-kill-disable oom-score-adj group-add volumes-from volume-driver isolation squash ssh secret"
)


class UsageError(Exception):
    """A command line that cannot be understood; the text is ready to print."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class HelpWanted(Exception):
    """`--help` was among the options."""


def parse(argv: list[str], options: tuple[Option, ...], path: str, stops: bool) -> tuple[list[str], dict[str, Any]]:
    """Separate the words from the options; return both, every option with a value.

    Raises UsageError for an option that does not exist or has no or a wrong value, HelpWanted.
    """
    long = {option.name: option for option in options}
    short = {option.short: option for option in options if option.short}
    values: dict[str, Any] = {option.name: option.unsaid for option in options}
    words: list[str] = []
    rest = list(reversed(argv))
    while rest:
        word = rest.pop()
        if word == "--":
            words += reversed(rest)
            break
        if len(word) < 2 or word[0] != "-":
            words.append(word)
            if stops:
                words += reversed(rest)
                break
        elif word[1] == "-":
            _long(word, rest, long, values, path)
        else:
            _short(word, rest, long, short, values, path)
    return words, values


def _long(word: str, rest: list[str], long: dict[str, Option], values: dict[str, Any], path: str) -> None:
    """Take in `--name`, `--name=value` or `--name value`."""
    name, equals, value = word[2:].partition("=")
    option = long.get(name)
    if option is None:
        if name == "help":
            raise HelpWanted
        absent = f": docker {path} has it, minidocker does not" if name in NOT_HERE.split() else ""
        raise wrong_option(f"unknown flag: --{name}{absent or _like(name, long)}", path)
    if not equals:
        if option.kind == "bool":
            value = "true"
        elif rest:
            value = rest.pop()
        else:
            raise wrong_option(f"flag needs an argument: --{name}", path)
    _store(option, value, values, path)


def _short(
    word: str, rest: list[str], long: dict[str, Option], short: dict[str, Option], values: dict[str, Any], path: str
) -> None:
    """Take in `-i`, `-it`, `-p 80`, `-p80`, `-p=80` or `-i=false`; a whole long name after one dash is a slip."""
    name = word[1:].partition("=")[0]
    if len(name) > 1 and name in long:
        raise wrong_option(f"unknown shorthand flag: '{name[0]}' in {word}: did you mean --{word[1:]}?", path)
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = short.get(letter)
        if option is None:
            if letter == "h":
                raise HelpWanted
            raise wrong_option(f"unknown shorthand flag: '{letter}' in -{letter}{letters}{_like(name, long)}", path)
        if letters.startswith("="):
            value, letters = letters[1:], ""
        elif option.kind == "bool":
            value = "true"
        elif letters:
            value, letters = letters, ""
        elif rest:
            value = rest.pop()
        else:
            raise wrong_option(f"flag needs an argument: '{letter}' in -{letter}", path)
        _store(option, value, values, path)


def _store(option: Option, text: str, values: dict[str, Any], path: str) -> None:
    """Check one value and keep it."""
    try:
        value = _boolean(text) if option.kind == "bool" else option.read(text)
    except (InvalidArgument, ValueError) as error:
        raise wrong_option(f'invalid argument "{text}" for "{option.shown}" flag: {error}', path) from None
    if option.kind == "list":
        values[option.name].append(value)
    else:
        values[option.name] = value


def _boolean(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError("not true or false: invalid syntax")


def whole_number(text: str) -> int:
    """Read a whole number; the error is one that `_store` can show."""
    try:
        return int(text)
    except ValueError:
        raise ValueError("not a whole number: invalid syntax") from None


def decimal(text: str) -> float:
    """Read a number such as 0.5, never negative."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ValueError("not a number of processors such as 0.5 or 2")
    return number


def labels(given: Iterable[str]) -> dict[str, str]:
    """Return the labels that `name=value` or `name` give."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if not name:
            raise InvalidArgument(f"invalid label format: {text!r}")
        found[name] = value
    return found


def wrong_option(message: str, path: str) -> UsageError:
    """Return the error for an option, in docker's words."""
    return UsageError(f"{message}\nSee '{f'minidocker {path}'.rstrip()} --help'.", BAD_OPTION)


def check_words(words: list[str], command: Command, path: str, summary: str) -> None:
    """Raise UsageError where there are too few or too many words."""
    least, most, given = command.at_least, command.at_most, len(words)
    if given >= least and (most is None or given <= most):
        return
    if most == 0:
        wanted = "accepts no arguments"
    elif most == least:
        wanted = f"requires exactly {least} argument{'s' * (least != 1)}"
    elif given < least:
        wanted = f"requires at least {least} argument{'s' * (least != 1)}"
    else:
        wanted = f"requires at most {most} argument{'s' * (most != 1)}"
    message = f"\"minidocker {path}\" {wanted}.\nSee 'minidocker {path} --help'."
    raise UsageError(f"{message}\n\nUsage:  {_usage(path, command)}\n\n{summary}", BAD_ARGUMENTS)


def _usage(path: str, command: Command) -> str:
    """Return the usage line, or lines where there are two forms, indented as docker does."""
    return "\n\t".join(f"minidocker {path} {form}".rstrip() for form in command.usage.split("\n"))


def help_text(path: str, command: Command, summary: str) -> str:
    """Return what `--help` prints for one command."""
    text = f"\nUsage:  {_usage(path, command)}\n\n{summary}\n"
    if command.about:
        text += f"\n{command.about}\n"
    return text + (f"\nOptions:\n{options_text(command.options)}" if command.options else "")


def options_text(options: tuple[Option, ...]) -> str:
    """Return the options in two columns, as docker lays them out for a terminal of 80 columns."""
    import textwrap

    heads = []
    for option in sorted(options, key=lambda option: option.name):
        kind = "" if option.kind == "bool" else f" {option.kind}"
        heads.append((f"  {f'-{option.short},' if option.short else '   '} --{option.name}{kind}", option))
    column = max(len(head) for head, _ in heads) + 3
    lines = []
    for head, option in heads:
        default = "" if option.default in (None, False, "", 0) else f" (default {_shown_default(option.default)})"
        wrapped = textwrap.wrap(option.help + default, max(80 - column, 24), break_on_hyphens=False)
        lines += [f"{head:{column}}{wrapped[0]}", *(" " * column + line for line in wrapped[1:])]
    return "\n".join(lines) + "\n"


def _shown_default(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def did_you_mean(word: str, known: list[str]) -> str:
    """Return the known word that `word` looks like, or nothing."""
    import difflib

    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.6)), "")


def _like(name: str, long: dict[str, Option]) -> str:
    close = did_you_mean(name, list(long)) if len(name) > 1 else ""
    return f": did you mean --{close}?" if close else ""
