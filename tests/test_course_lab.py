"""What a notebook begins with: the `%%shell` magic, the engine's source shown, notebooks read and written."""

import json
import os
import subprocess
import sys

import pytest

from minidocker.course import notebook, shell
from minidocker.course.notebook import KERNEL, Cell, NotANotebook, Notebook
from minidocker.course.show import NoSuchSymbol, resolve, show


def out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_one_command_is_not_echoed(capsys: pytest.CaptureFixture[str]) -> None:
    shell.magic("", "# say it\necho hello", {})
    assert out(capsys) == "hello\n"


def test_several_commands_are_echoed_each_before_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    shell.magic("", "word='it is'\nfor n in 1 2\ndo\n  echo $word $n\ndone | cat\ncat <<END\n  text\nEND\n", {})
    assert out(capsys) == (
        "$ word='it is'\n"
        "$ for n in 1 2\ndo\n  echo $word $n\ndone | cat\nit is 1\nit is 2\n"
        "$ cat <<END\n  text\nEND\n  text\n"
    )


def test_standard_error_stands_where_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    shell.magic("", "{ echo one; echo two >&2; echo three; }", {})
    assert out(capsys) == "one\ntwo\nthree\n"


@pytest.mark.parametrize("cell", ["false\necho not reached", "false | cat", "exit 3"])
def test_a_failing_command_fails_the_cell(cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(shell.CommandFailed, match="exit code"):
        shell.magic("", cell, {})
    assert "\nnot reached" not in out(capsys)


def test_an_expected_failure_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shell.magic("--fails", "exit 125", {})
    assert out(capsys) == "(exit code 125)\n"


def test_an_expected_failure_that_does_not_come_fails_the_cell() -> None:
    with pytest.raises(shell.CommandFailed, match="expected to fail"):
        shell.magic("--fails", "true", {})


def test_capital_variables_are_exported(capsys: pytest.CaptureFixture[str]) -> None:
    shell.magic("", "echo $BASE-$small", {"BASE": "busybox", "small": "no", "NUMBER": 3})
    assert out(capsys) == "busybox-\n"


def test_what_stays_in_the_background_is_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    shell.magic("", "sleep 5 & echo $!", {})
    os.kill(int(out(capsys)), 9)


def test_a_terminal_is_typed_into_at_its_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    cell = "test -t 0\nread -p 'name? ' name; echo hello $name"
    shell.magic(r"--terminal --type 'you\n'", cell, {})
    assert out(capsys).endswith("name? you\nhello you\n")


def test_a_program_that_nobody_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "_HOPELESS", 0.3)
    with pytest.raises(shell.CommandFailed, match="nothing is left to type"):
        shell.magic("--terminal", "cat", {})


def test_progress_is_no_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    cell = r"""stty -echo; printf "a: Downloading 1MB/2MB"; sleep 1; printf "\n> "; read -t 3 word; echo $word"""
    shell.magic(r"--terminal --type 'yes\n'", cell, {})
    assert out(capsys).endswith("2MB\n> yes\n")


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(shell.CommandFailed, match="--quiet"):
        shell.magic("--quiet", "true", {})


def test_a_cell_finds_the_command_wherever_jupyter_was_started_from() -> None:
    code = "import subprocess\nfrom minidocker.course.lab import *\nsubprocess.run(['minidocker', '--version'])"
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("minidocker version"), done.stderr


def test_show_gives_the_live_source() -> None:
    text = repr(show("minidocker.container.rootfs.pivot"))
    assert "minidocker/container/rootfs.py" in text
    assert "syscalls.pivot_root" in text
    shown = show("minidocker.image.oci.Index.choose")._repr_html_()
    assert "highlight" in shown
    assert "white-space:pre;" in shown, "JupyterLab would break long lines anywhere"


def test_what_is_wrapped_is_shown_where_it_stands() -> None:
    assert show("minidocker.registry.transfer.in_words_of_pull").title.startswith("minidocker/registry/transfer.py")


@pytest.mark.parametrize("name", ["minidocker.nothing", "minidocker.image.oci.Index.nothing", "nothing.at.all"])
def test_a_stale_name_is_an_error(name: str) -> None:
    with pytest.raises(NoSuchSymbol, match="nothing"):
        resolve(name)


def test_a_notebook_is_written_in_jupyters_own_form(tmp_path: os.PathLike[str]) -> None:
    import nbformat

    path = f"{tmp_path}/a.ipynb"
    cells = (Cell("markdown", "# Öl\n\ntext", {}, "oel"), Cell("code", "x = 1", {"nbgrader": {"grade_id": "g"}}, "x"))
    notebook.write(path, Notebook(cells, dict(KERNEL)))
    with open(path, encoding="utf-8") as file:
        written = file.read()
    checked = nbformat.reads(written, as_version=4)
    nbformat.validate(checked)
    assert nbformat.writes(checked) == written.rstrip("\n")
    assert notebook.read(path) == Notebook(cells, dict(KERNEL))
    assert notebook.read(path).cells[1].grade_id == "g"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"nbformat": 3}', json.dumps({"nbformat": 4, "cells": [3]})])
def test_what_is_no_notebook_is_refused(text: str) -> None:
    with pytest.raises(NotANotebook):
        notebook.from_bytes(text.encode())
