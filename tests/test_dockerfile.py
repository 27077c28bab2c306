"""The parser on golden files, on broken input, and beside docker's own builders.

`dockerfiles/good/NAME.Dockerfile` has what it must parse to in `NAME.parsed`; `dockerfiles/bad/NAME.Dockerfile` the
message in `NAME.message`. `python tests/test_dockerfile.py` writes the former anew; read the difference then.
"""

import glob
import json
import os
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidocker.build.dockerfile import KEYWORDS, Dockerfile, parse, parse_trigger
from minidocker.build.draft import Arguments, Draft
from minidocker.build.expander import Expander
from minidocker.errors import DockerfileError
from peers import Docker

FOLDER = os.path.join(os.path.dirname(__file__), "dockerfiles")
GOOD = sorted(glob.glob(f"{FOLDER}/good/*.Dockerfile"))
BAD = sorted(glob.glob(f"{FOLDER}/bad/*.Dockerfile"))


def read(path: str) -> str:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def names(paths: list[str]) -> list[str]:
    return [os.path.basename(path).removesuffix(".Dockerfile") for path in paths]


def dump(dockerfile: Dockerfile) -> str:
    """Write what was understood, one instruction a line."""
    out = [f"escape {dockerfile.escape}", *(f"warning {text}" for text in dockerfile.warnings)]
    for one in dockerfile.instructions:
        fields: dict[str, Any] = one._asdict()  # type: ignore[attr-defined]
        shown = " ".join(f"{name}={value!r}" for name, value in fields.items() if name != "line")
        out.append(f"{one.line.first}-{one.line.last} {type(one).__name__} {shown}")
    return "\n".join(out) + "\n"


@pytest.mark.parametrize("path", GOOD, ids=names(GOOD))
def test_good(path: str) -> None:
    assert dump(parse(read(path))) == read(path.replace(".Dockerfile", ".parsed"))


@pytest.mark.parametrize("path", BAD, ids=names(BAD))
def test_bad(path: str) -> None:
    with pytest.raises(DockerfileError) as error:
        parse(read(path))
    assert read(path.replace(".Dockerfile", ".message")).rstrip("\n") in str(error.value)


def test_the_tutorials_file_has_its_eleven_steps() -> None:
    steps = [one.line.text for one in parse(read(f"{FOLDER}/good/sshd.Dockerfile")).instructions]
    assert len(steps) == 11
    assert steps[0] == "FROM ubuntu:14.04"
    assert steps[1] == "MAINTAINER uEngine solutions <admin@uengine.org>"
    assert steps[7] == 'ENV NOTVISIBLE "in users profile"'
    assert steps[10] == 'CMD ["/usr/sbin/sshd", "-D"]'


def test_an_error_names_and_shows_the_line() -> None:
    with pytest.raises(DockerfileError) as error:
        parse(read(f"{FOLDER}/bad/typo-line-7.Dockerfile"))
    assert error.value.line == 7
    expected = "Dockerfile:7: unknown instruction: RNU (did you mean RUN?)\n  7 | RNU apt-get update"
    assert str(error.value) == expected


@pytest.mark.parametrize("keyword", sorted(KEYWORDS))
def test_a_typo_is_recognised(keyword: str) -> None:
    with pytest.raises(DockerfileError, match=f"did you mean {keyword}\\?"):
        parse(f"FROM a\n{keyword}{keyword[-1]} x")


@pytest.mark.parametrize("text", ["RUN <<EOF\nx\n", "COPY <<a <<b /x/\n1\na\n", "ONBUILD RUN <<E\nx"])
def test_here_document_without_end(text: str) -> None:
    with pytest.raises(DockerfileError, match="unterminated heredoc") as error:
        parse("FROM a\n" + text)
    assert error.value.line == 2


def test_binary_file() -> None:
    with pytest.raises(DockerfileError):
        parse(bytes(range(256)).decode(errors="surrogateescape"))
    with pytest.raises(DockerfileError):
        parse("\x7fELF\x02\x01\x01" + "\0" * 100)


def test_not_utf8_survives() -> None:
    text = b"FROM a\nLABEL x=\xff\xfe\n".decode(errors="surrogateescape")
    assert parse(text).instructions[1].pairs == (("x", "\udcff\udcfe"),)  # type: ignore[attr-defined]


def test_deep_json_is_a_shell_command() -> None:
    (_, run) = parse("FROM a\nRUN " + "[" * 60000).instructions
    assert not run.command.exec_form  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["FROM a", "ONBUILD RUN x", "MAINTAINER x", "", "RUN a\nRUN b", "RNU x"])
def test_bad_trigger(text: str) -> None:
    with pytest.raises(DockerfileError):
        parse_trigger(text)


def test_trigger_with_here_document() -> None:
    trigger = parse("FROM a\nONBUILD RUN <<E\nx\nE\n").instructions[1].trigger  # type: ignore[attr-defined]
    assert parse_trigger(trigger).documents[0].content == "x\n"  # type: ignore[attr-defined]


PIECES = [
    *KEYWORDS,
    *map(str.lower, KEYWORDS),
    "RNU",
    " ",
    "\t",
    "\n",
    "\\\n",
    "\\",
    "`",
    "#",
    "# escape=`\n",
    "--from=",
]
PIECES += [
    "--",
    "=",
    "'",
    '"',
    "[",
    "]",
    '["a"]',
    ",",
    "<<",
    "<<-",
    "EOF",
    "\nEOF\n",
    "$x",
    "${x:-",
    "}",
    "a",
    "b",
    "\r\n",
    "AS",
    "\ufeff",
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_fuzz_pieces(text: str) -> None:
    for start in ("", "FROM a\n"):
        try:
            interpret(start + text)
        except DockerfileError as error:
            assert error.line <= text.count("\n") + 2


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_fuzz_text(text: str) -> None:
    for start in ("", "FROM a\n", "FROM a\nENV ", "FROM a\nCOPY "):
        try:
            parse(start + text)
        except DockerfileError:
            pass


def interpret(text: str) -> tuple[dict[str, Any], list[str]]:
    """Apply all that needs no file to an empty image; return its configuration and history."""
    dockerfile = parse(text)
    outside: dict[str, str] = {}
    for arg in dockerfile.arguments:
        for name, default in arg.expanded(Expander(outside, dockerfile.escape)).declared:
            outside[name] = default or ""
    configs: list[dict[str, Any]] = []
    history: list[str] = []
    for stage in dockerfile.stages:
        base = stage.start.expanded(Expander(outside, dockerfile.escape)).base
        start = dockerfile.stage_number(base)
        draft = Draft(configs[start] if start is not None and start < len(configs) else {}, "", Arguments({}, outside))
        for one in stage.instructions:
            history.append(one.expanded(Expander(draft.variables(), dockerfile.escape)).configure(draft))
        configs.append(draft.config)
    return configs[-1], history


def runnable(path: str) -> bool:
    """Say whether docker 20.10 can build it from nothing: no files, no commands, no here-documents."""
    return not re.search(r"(?mi)^\s*(RUN|COPY|ADD)\b", read(path)) and "busybox" not in read(path)


METADATA = [path for path in GOOD if runnable(path)]
# An ENV before an ARG of its name wins by the documentation; 20.10's BuildKit let the ARG win.
BUILDS = [(path, "0") for path in METADATA] + [(path, "1") for path in METADATA if "env-hides-arg" not in path]
FIELDS = "Env Cmd Entrypoint Labels ExposedPorts Volumes User WorkingDir StopSignal Healthcheck Shell OnBuild".split()


@pytest.mark.peers
@pytest.mark.parametrize(
    ("path", "buildkit"), BUILDS, ids=[f"{os.path.basename(path)}-{buildkit}" for path, buildkit in BUILDS]
)
def test_configuration_is_dockers(docker: Docker, path: str, buildkit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", buildkit)
    tag = f"parse-{os.path.basename(path).removesuffix('.Dockerfile').lower()}-{buildkit}"
    with open(path, "rb") as file:
        text = file.read()
    if b"# syntax" in text:
        text = text.replace(b"# syntax=docker/dockerfile:1\r\n", b"")  # docker would fetch that parser
    docker.run("build", "-q", "-t", tag, "-", input=text)
    theirs = json.loads(docker.run("inspect", tag).stdout)[0]["Config"]
    ours, _ = interpret(text.decode())
    for field in FIELDS:
        assert _comparable(field, ours.get(field)) == _comparable(field, theirs.get(field)), field


def _comparable(field: str, value: Any) -> Any:
    """Drop the PATH and the working directory that docker gives an image which has none."""
    if field == "Env" and value:
        value = [one for one in value if not one.startswith("PATH=/usr/local/sbin")]
    return None if field == "WorkingDir" and value == "/" else value or None


@pytest.mark.peers
@pytest.mark.parametrize("path", METADATA, ids=names(METADATA))
def test_history_is_dockers(docker: Docker, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    tag = f"history-{os.path.basename(path).removesuffix('.Dockerfile').lower()}"
    text = read(path).replace("# syntax=docker/dockerfile:1\r\n", "")
    docker.run("build", "-q", "-t", tag, "-", input=text.encode())
    shown = docker.run("history", "--no-trunc", "--format", "{{json .CreatedBy}}", tag).stdout
    theirs = [json.loads(one).partition("#(nop) ")[2].strip() for one in reversed(shown.splitlines())]
    _, ours = interpret(text)
    assert [one.strip() for one in ours] == theirs


@pytest.mark.peers
@pytest.mark.parametrize("path", BAD, ids=names(BAD))
def test_docker_says_the_same(docker: Docker, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "0")
    with open(path, "rb") as file:
        done = docker.run("build", "-", input=file.read(), check=False)
    assert done.returncode == 1
    if os.path.getsize(path):  # docker's client takes an empty stream for a broken context
        assert read(path.replace(".Dockerfile", ".message")).rstrip("\n") in done.stderr


if __name__ == "__main__":
    for path in GOOD:
        with open(path.replace(".Dockerfile", ".parsed"), "w", encoding="utf-8") as out:
            out.write(dump(parse(read(path))))
