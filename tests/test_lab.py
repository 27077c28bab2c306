"""The course in real JupyterLab: what `make lab` opens, and a learner's first hour in a real browser."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator

import pytest

from conftest import Roots
from minidocker.course import catalogue, notebook
from minidocker.course.notebook import KERNEL, Cell, Notebook
from minidocker.registry.embedded import remember
from ordinary import Ordinary, ordinary_user

pytest.importorskip("playwright")
from playwright.sync_api import expect

import labkit
from lab import _options

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not os.path.exists(labkit.BROWSER), reason="needs chromium: run `make test`, which installs it"),
]
EXERCISE = "start_time"
FIRST_STEPS = (
    "from minidocker.course.lab import *",
    "%%shell\nminidocker run --rm busybox echo hello from a container",
    'layers("busybox", "/bin/sh")',
    "%%shell\nfalse",
)


def new_home(folder: str) -> dict[str, str]:
    """Copy the course with one notebook more, and return the environment for it."""
    environment = labkit.new_home(folder)
    cells = tuple(Cell("code", source, {}, f"step-{number}") for number, source in enumerate(FIRST_STEPS, 1))
    notebook.write(f"{folder}/course/notebooks/first_steps.ipynb", Notebook(cells, dict(KERNEL)))
    return environment


@pytest.fixture
def home() -> Iterator[str]:
    """Give a folder for the course's copy and all that Jupyter keeps."""
    with tempfile.TemporaryDirectory(prefix="mdl", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.fixture
def lab(home: str, roots: Roots, embedded: str) -> dict[str, str]:
    """Return the environment for a course of the test's own."""
    remember(roots.run, "docker.io", "the tests do not ask it")
    return {**os.environ, **new_home(home), **roots.env, "MINIDOCKER_EMBEDDED": embedded}


@pytest.fixture
def user() -> Iterator[Ordinary]:
    """Give an ordinary user, whose containers live in a user namespace."""
    with ordinary_user(subordinate=True) as user:
        yield user


def start(*options: str) -> list[str]:
    return [*labkit.LAB, "--port", str(labkit.free_port()), *options]


def test_the_first_notebook_runs_from_top_to_bottom(lab: dict[str, str]) -> None:
    with labkit.running(start(), lab) as address, labkit.browser(address) as page:
        learner = labkit.Learner(page, address)
        expect(page.locator(".jp-DirListing-content")).to_contain_text("01_install.ipynb")
        expect(page.locator(".jp-Dialog, .Toastify__toast")).to_have_count(0)
        outcome = learner.run_all()
        assert outcome["errors"] == []
        assert outcome["cells"] > 20
        expect(learner.cell("minidocker run --rm $BASE cat /etc/issue")).to_contain_text("Debian GNU/Linux 12")
        expect(page.locator(".jp-Dialog, .Toastify__toast")).to_have_count(0)


def test_a_picture_answers_and_an_exercise_is_done_wrong_then_right(lab: dict[str, str]) -> None:
    exercise = catalogue.load(labkit.PROJECT).get(EXERCISE)
    with open(f"{labkit.PROJECT}/solutions/wrong/{exercise.section}.toml", "rb") as file:
        wrong = tomllib.load(file)[EXERCISE][0]
    with labkit.running(start(), lab) as address, labkit.browser(address) as page:
        learner = labkit.Learner(page, address)
        take_first_steps(learner)
        learner.open(f"exercises/{exercise.section}.ipynb")
        learner.run("from minidocker.course.lab import *")
        learner.write(f"def {EXERCISE}(", exercise.solution.replace(wrong["old"], wrong["new"]))
        verdict = learner.run(f'check("{EXERCISE}")')
        expect(verdict).to_contain_text("✗")
        expect(verdict).to_contain_text(wrong["says"])
        expect(verdict).not_to_contain_text("Hint 1")
        verdict.get_by_role("button", name="A hint").click()
        expect(verdict).to_contain_text("Hint 1 of 3")
        expect(verdict).not_to_contain_text("Hint 2")
        learner.write(f"def {EXERCISE}(", exercise.solution)
        learner.run(f'check("{EXERCISE}")')
        expect(verdict).to_contain_text(f"all {exercise.points} points")
        expect(verdict).not_to_contain_text("✗")
    with open(lab["MINIDOCKER_COURSE_STATE"]) as file:
        noted = json.load(file)["exercises"][EXERCISE]
    assert noted == {"earned": exercise.points, "points": exercise.points, "hints": 1, "looked": False}


def test_an_ordinary_users_lab_does_the_same(user: Ordinary, embedded: str) -> None:
    environment = {**new_home(user.account.pw_dir), "MINIDOCKER_EMBEDDED": embedded}
    own = str(user.account.pw_uid)
    subprocess.run(["chown", "-R", f"{own}:{user.account.pw_gid}", user.account.pw_dir], check=True)
    exercise = catalogue.load(labkit.PROJECT).get(EXERCISE)
    with labkit.running(user.argv(start(), environment)) as address, labkit.browser(address) as page:
        learner = labkit.Learner(page, address)
        take_first_steps(learner)
        learner.open(f"exercises/{exercise.section}.ipynb")
        learner.run("from minidocker.course.lab import *")
        learner.write(f"def {EXERCISE}(", exercise.solution)
        expect(learner.run(f'check("{EXERCISE}")')).to_contain_text(f"all {exercise.points} points")


def take_first_steps(learner: labkit.Learner) -> None:
    """Run a container in a cell, ask a picture for another file than it begins with, and see a cell fail."""
    learner.open("notebooks/first_steps.ipynb")
    assert learner.run_all()["errors"] == ["step-4: CommandFailed: exit code 1"]
    expect(learner.cell("hello from")).to_contain_text("Unable to find image 'busybox:latest' locally")
    picture = learner.cell("layers(")
    field = picture.get_by_role("combobox")
    expect(field).to_have_value("/bin/sh")
    expect(picture).not_to_contain_text("/no/such/file")
    field.fill("/no/such/file")
    field.press("Enter")
    expect(picture).to_contain_text("/no/such/file")


def close(process: "subprocess.Popen[str]") -> str:
    """Press ctrl-c, and again because it takes a moment; return what was still said."""
    assert process.stdout
    process.send_signal(signal.SIGINT)
    said = ""
    while not said.endswith("Closing …\n"):
        said += process.stdout.readline() or pytest.fail(f"ended without closing: {said}")
    process.send_signal(signal.SIGINT)
    return said + process.communicate(timeout=30)[0]


def opened(argv: list[str], environment: dict[str, str]) -> tuple["subprocess.Popen[str]", str]:
    """Start the course and return it with the address that it tells."""
    process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout
    return process, next(line.strip() for line in process.stdout if "http" in line)


def test_ctrl_c_ends_it_and_a_second_one_is_not_started(lab: dict[str, str]) -> None:
    taken = socket.create_server(("localhost", 0))
    port = taken.getsockname()[1]
    quiet = {name: value for name, value in lab.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")}
    process, address = opened([*labkit.LAB[:2], "--port", str(port)], quiet)
    taken.close()
    assert address.startswith("http://localhost:") and f":{port}/" not in address
    again = subprocess.run([*labkit.LAB, "--port", str(port)], env=lab, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (0, "")
    assert f"open already:\n\n    {address}\n" in again.stdout
    said = close(process)
    assert said.endswith("The course is closed.\n")
    assert "Traceback" not in said
    assert process.returncode == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("localhost", int(address.split(":")[2].split("/")[0])))


def test_why_it_does_not_start_is_told(lab: dict[str, str]) -> None:
    done = subprocess.run(
        start("--ServerApp.root_dir=/nonexistent"), env=lab, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("JupyterLab does not start:") and "/nonexistent" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_option_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert _options(["--port", "9", "--ServerApp.token=x"]).more == ["--ServerApp.token=x"]
    with pytest.raises(SystemExit):
        _options(["--prot", "9000"])
    assert "--prot is no option" in capsys.readouterr().err
