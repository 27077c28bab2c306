"""Command lines are read as docker reads them, and refused in docker's words with docker's exit codes."""

import re
import shutil
import subprocess
from typing import Any

import pytest

from minidocker import __version__
from minidocker.cli import arguments, catalogue, main, run
from minidocker.cli.arguments import HelpWanted, Option, UsageError, parse, whole_number

OURS = ("doctor", "registry serve", "grade", "course ")  # commands that docker does not have
OPTIONS = (
    Option("interactive", "bool", "", "i"),
    Option("tty", "bool", "", "t"),
    Option("detach", "bool", "", "d"),
    Option("rm", "bool", ""),
    Option("sig-proxy", "bool", "", default=True),
    Option("publish", "list", "", "p"),
    Option("name", "string", "", default=""),
    Option("time", "int", "", "n", 10, whole_number),
)


@pytest.mark.parametrize(
    ("line", "words", "said"),
    [
        ("-it image sh", ["image", "sh"], {"interactive": True, "tty": True}),
        ("-itd image", ["image"], {"interactive": True, "tty": True, "detach": True}),
        ("-p8080:80 image", ["image"], {"publish": ["8080:80"]}),
        ("-p=8080:80 -p 81:81 image", ["image"], {"publish": ["8080:80", "81:81"]}),
        ("-itp 80 image", ["image"], {"interactive": True, "tty": True, "publish": ["80"]}),
        ("--publish=1 --publish 2 image", ["image"], {"publish": ["1", "2"]}),
        ("--rm=false image", ["image"], {"rm": False}),
        ("--rm=TRUE image", ["image"], {"rm": True}),
        ("-i=false image", ["image"], {"interactive": False}),
        ("--sig-proxy=false image", ["image"], {"sig-proxy": False}),
        ("--name=x=y image", ["image"], {"name": "x=y"}),
        ("--name -x image", ["image"], {"name": "-x"}),
        ("-n5 image", ["image"], {"time": 5}),
        ("-n -1 image", ["image"], {"time": -1}),
        ("--rm image ls -l --rm=no", ["image", "ls", "-l", "--rm=no"], {"rm": True}),
        ("-- -image", ["-image"], {}),
        ("-", ["-"], {}),
        ("", [], {}),
    ],
)
def test_words_and_options_are_told_apart(line: str, words: list[str], said: dict[str, Any]) -> None:
    found, values = parse(line.split(), OPTIONS, "run", stops=True)
    assert found == words
    assert {name: value for name, value in values.items() if name in said} == said


def test_options_may_stand_behind_the_words_where_a_command_allows_it() -> None:
    words, values = parse("a -i b --name=c".split(), OPTIONS, "rm", stops=False)
    assert (words, values["interactive"], values["name"]) == (["a", "b"], True, "c")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--foo", "unknown flag: --foo"),
        ("--nam x", "unknown flag: --nam: did you mean --name?"),
        ("-z", "unknown shorthand flag: 'z' in -z"),
        ("-itz", "unknown shorthand flag: 'z' in -z"),
        ("-rm image", "unknown shorthand flag: 'r' in -rm: did you mean --rm?"),
        ("-name=x image", "unknown shorthand flag: 'n' in -name=x: did you mean --name=x?"),
        ("-p", "flag needs an argument: 'p' in -p"),
        ("--name", "flag needs an argument: --name"),
        ("--rm=maybe image", 'invalid argument "maybe" for "--rm" flag: '),
        ("-n x image", 'invalid argument "x" for "-n, --time" flag: '),
    ],
)
def test_a_wrong_option_is_refused_with_125(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line.split(), OPTIONS, "run", stops=True)
    assert str(caught.value).startswith(message)
    assert str(caught.value).endswith("\nSee 'minidocker run --help'.")
    assert caught.value.exit_code == 125


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_is_wanted_wherever_it_stands(word: str) -> None:
    with pytest.raises(HelpWanted):
        parse(["-i", word], OPTIONS, "run", stops=True)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (
            "run",
            1,
            "\"minidocker run\" requires at least 1 argument.\nSee 'minidocker run --help'.\n\nUsage:  minidocker",
        ),
        ("tag a", 1, '"minidocker tag" requires exactly 2 arguments.'),
        ("rename a", 1, '"minidocker rename" requires exactly 2 arguments.'),
        ("ps extra", 1, '"minidocker ps" accepts no arguments.'),
        ("container ls extra", 1, '"minidocker container ls" accepts no arguments.'),
        ("exec web", 1, '"minidocker exec" requires at least 2 arguments.'),
        ("logout a b", 1, '"minidocker logout" requires at most 1 argument.'),
        ("foo", 1, "minidocker: 'foo' is not a minidocker command.\nSee 'minidocker --help'\n"),
        ("imags", 1, "minidocker: 'imags' is not a minidocker command. Did you mean 'images'?\n"),
        ("pause", 1, "minidocker: 'pause' is not a minidocker command.\nDocker has one, minidocker does not: "),
        ("image lst", 1, "minidocker: 'image lst' is not a minidocker command: did you mean image ls?\n"),
        ("--foo", 125, "unknown flag: --foo\nSee 'minidocker --help'.\n"),
        ("run --memory=x busybox", 125, 'invalid argument "x" for "-m, --memory" flag: invalid size: \'x\''),
        ("run -rm -i -t centos:6.4 /bin/bash", 125, "unknown shorthand flag: 'r' in -rm: did you mean --rm?\n"),
        ("ps -f foo", 125, 'invalid argument "foo" for "-f, --filter" flag: bad format of filter'),
        ("run --network lan busybox", 125, 'invalid argument "lan" for "--network" flag: network lan not found'),
        ("run --add-host x busybox", 125, 'invalid argument "x" for "--add-host" flag: bad format for add-host'),
        ("help foo", 1, "unknown help topic: foo\n"),
    ],
)
def test_a_line_that_cannot_be_understood(line: str, code: int, message: str, capsys: Any) -> None:
    assert main.main(line.split()) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message)


def test_the_version_is_the_packages(capsys: Any) -> None:
    assert main.main(["-v"]) == 0
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"minidocker version {__version__}\n" * 2


@pytest.mark.parametrize("path", [*catalogue.COMMANDS, *catalogue.ALIASES])
def test_every_command_has_a_page_of_help(path: str, capsys: Any) -> None:
    assert main.main([*path.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"\nUsage:  minidocker {path}")
    assert catalogue.COMMANDS[catalogue.ALIASES.get(path, path)].summary in text
    if "Options:\n" in text:
        for line in text.partition("Options:\n")[2].splitlines():
            assert len(line) <= 80, line


@pytest.mark.parametrize("path", catalogue.COMMANDS)
def test_every_option_is_explained_and_named_once(path: str) -> None:
    command, _ = main._command(path)
    names = [option.name for option in command.options]
    letters = [option.short for option in command.options if option.short]
    assert len(set(names)) == len(names)
    assert len(set(letters)) == len(letters)
    assert all(option.help for option in command.options)


def test_the_overview_lists_every_command_and_group(capsys: Any) -> None:
    assert main.main([]) == 0
    text = capsys.readouterr().out
    for name in [*catalogue.GROUPS, *(name for name in catalogue.COMMANDS if " " not in name)]:
        assert re.search(rf"^  {name} +\S", text, re.MULTILINE), name


@pytest.mark.parametrize("group", catalogue.GROUPS)
def test_a_group_alone_explains_its_commands(group: str, capsys: Any) -> None:
    assert main.main([group]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"\nUsage:  minidocker {group} COMMAND\n")
    assert all(f"\n  {name} " in text for name in catalogue.members(group))


@pytest.mark.peers
@pytest.mark.parametrize("path", [path for path in catalogue.COMMANDS if not path.startswith(OURS)])
def test_every_option_is_dockers(path: str) -> None:
    """What docker has under the same name has the same letter; a new name would surprise who comes from docker."""
    docker = shutil.which("docker", path="/usr/bin")
    assert docker
    text = subprocess.run([docker, *path.split(), "--help"], capture_output=True, text=True, check=True).stdout
    known = dict.fromkeys(re.findall(r"^      --([\w-]+)", text, re.MULTILINE), "")
    known |= {name: letter for letter, name in re.findall(r"^  -(\w), --([\w-]+)", text, re.MULTILINE)}
    command, _ = main._command(path)
    ours = {option.name: option.short for option in command.options}
    ours.pop("net", None)  # an old name of --network, which docker still takes but does not list
    ours.pop("platform", None)  # behind a switch in docker 20.10
    assert ours.items() <= known.items()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
        (OSError(28, "No space left on device", "/x"), 1, "Error: no space left on device for /x: "),
        (ZeroDivisionError("oops"), 1, "Error: ZeroDivisionError: oops\nThis is a bug in minidocker. "),
        (
            FileNotFoundError(2, "No such file or directory", "a"),
            1,
            "Error: a: no such file or directory\n",
        ),
    ],
)
def test_whatever_happens_there_is_no_traceback(
    error: BaseException, code: int, message: str, monkeypatch: Any, capsys: Any
) -> None:
    def fail(_call: arguments.Call) -> int:
        raise error

    monkeypatch.setitem(run.COMMANDS, "create", run.COMMANDS["create"]._replace(run=fail, root=False))
    assert main.main(["create", "busybox"]) == code
    printed = capsys.readouterr().err
    assert printed.startswith(message)
    assert "Traceback" not in printed


def test_the_traceback_can_be_had(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("MINIDOCKER_DEBUG", "1")
    monkeypatch.setitem(run.COMMANDS, "create", run.COMMANDS["create"]._replace(run=lambda _: 1 // 0, root=False))
    assert main.main(["create", "busybox"]) == 1
    assert "Traceback" in capsys.readouterr().err
