"""The engine with every function that an exercise asks for replaced by the course's solution: it does all it did."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import Minidocker, Roots, add_image
from minidocker.course import use
from peers import free_port

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOLUTIONS = f"{PROJECT}/solutions"
DOCKERFILE = 'FROM busybox\nENV NAME=world\nCOPY . /\nRUN echo ${NAME} >> /hello\nCMD ["cat", "/hello"]\n'
# What nothing in the tour asks for: an index with platforms, a bearer token, an ordinary user's single id, …
NOT_ON_THE_WAY = "choose_platform token_dance verify_blob refuse_hostile map_ids"


@pytest.fixture
def theirs(
    roots: Roots, embedded: str, minidocker: Minidocker, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Minidocker]:
    """Return a command that runs on the solutions, with busybox pulled by them."""
    monkeypatch.setenv("MINIDOCKER_COURSE", PROJECT)
    monkeypatch.setenv("MINIDOCKER_COURSE_STATE", f"{tmp_path}/course.json")
    monkeypatch.setenv("DOCKER_CONFIG", f"{tmp_path}/docker")
    minidocker.argv += ["--with", SOLUTIONS]
    add_image(roots, embedded, minidocker, "busybox:latest")
    yield minidocker


@pytest.mark.root
def test_the_whole_engine_runs_on_the_solutions(theirs: Minidocker, tmp_path: Any) -> None:
    build_and_run(theirs, tmp_path)
    live(theirs)
    push_and_pull(theirs, tmp_path)
    parts = use.parts()
    assert all(part.mine for part in parts)
    assert [part.exercise for part in parts if not part.called and part.exercise not in NOT_ON_THE_WAY.split()] == []


def build_and_run(theirs: Minidocker, tmp_path: Any) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "hello").write_text("hello ")
    (context / ".dockerignore").write_text("*.md\n")
    (context / "secret").write_text("not to be sent")
    (context / ".dockerignore").write_text("secret\n")
    assert "Successfully tagged it:latest" in theirs.ok("build", "-t", "it", str(context))
    assert theirs.ok("build", "-t", "it", str(context)).count("Using cache") == 4
    assert theirs.ok("run", "--rm", "it") == "hello world"
    assert theirs("run", "--rm", "it", "ls", "/secret").returncode == 1
    assert theirs.ok("run", "--rm", "--init", "-t", "it", "tty").endswith("/dev/pts/0")


def live(theirs: Minidocker) -> None:
    theirs.ok("run", "-d", "--name", "web", "-m", "64m", "-p", f"127.0.0.1:{free_port()}:80", "it", "sleep", "600")
    assert theirs.ok("exec", "web", "cat", "/proc/1/comm") == "sleep"
    theirs.ok("exec", "-t", "web", "sh", "-c", "echo new > /new; rm /hello")
    assert sorted(theirs.ok("diff", "web").splitlines()) == ["A /new", "D /hello"]
    theirs.ok("commit", "web", "it:2")
    assert theirs.ok("run", "--rm", "it:2", "cat", "/new") == "new"
    theirs.ok("rm", "-f", "web")


def push_and_pull(theirs: Minidocker, tmp_path: Any) -> None:
    import bcrypt

    name, passwords = f"127.0.0.1:{free_port()}", tmp_path / "passwords"
    passwords.write_bytes(b"me:" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)) + b"\n")
    words = ("registry", "serve", "--addr", name, "--root", f"{tmp_path}/registry", "--htpasswd", str(passwords))
    server = theirs.start(*words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout and server.stdout.readline().startswith(b"Serving")
    try:
        theirs.ok("login", "-u", "me", "--password-stdin", name, input="secret\n")
        theirs.ok("tag", "it:2", f"{name}/it")
        theirs.ok("push", f"{name}/it")
        theirs.ok("rmi", f"{name}/it", "it:2")
        assert theirs.ok("run", "--rm", f"{name}/it", "cat", "/new") == "new"
        assert "Image is up to date" in theirs.ok("pull", "--all-tags", f"{name}/it")
        theirs.ok("logout", name)
    finally:
        server.terminate()
        server.wait(10)
        server.stdout.close()


def test_the_solutions_are_used_one_by_one_and_taken_back(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDOCKER_COURSE", PROJECT)
    monkeypatch.setenv("MINIDOCKER_COURSE_STATE", f"{tmp_path}/course.json")
    code = (
        "import sys\nfrom minidocker.course.use import use\nfrom minidocker.standins import find\n"
        f"with use({SOLUTIONS!r}) as used:\n    names = [mine.name for mine in used.mine]\n"
        "    assert all(hasattr(find(name)[2], '__wrapped__') for name in names), names\n"
        "assert not any(hasattr(find(name)[2], '__wrapped__') for name in names)\nprint(len(names))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert int(done.stdout) >= 20
