"""The file by which a program of ours is executed: a read-only mount where that may be made, else a sealed copy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minidocker.linux import interpreter


def refuse(path: str) -> int:
    raise PermissionError(1, "an ordinary user may not")


def test_a_copy_in_memory_is_whole_and_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "_read_only_mount", refuse)
    program = interpreter.sealed("/bin/sh")
    way = f"/proc/self/fd/{program}"
    assert Path(way).read_bytes() == Path("/bin/sh").read_bytes()
    for flags in (os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        with pytest.raises(PermissionError):
            os.write(os.open(way, flags), b"x")
    with pytest.raises(PermissionError):
        os.truncate(way, 0)
    os.close(program)


@pytest.mark.parametrize("way", ["as it is allowed here", "memory"])
def test_a_program_runs_by_it_and_keeps_nothing_open(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "memory":
        monkeypatch.setattr(interpreter, "_read_only_mount", refuse)
    program = interpreter.sealed(sys.executable)
    assert program > 2
    assert not os.get_inheritable(program)
    script = "import os, sys; print(sys.executable, sorted(map(int, os.listdir('/proc/self/fd')))[-1])"
    reading, writing = os.pipe()
    pid = os.posix_spawn(
        f"/proc/self/fd/{program}",
        [sys.executable, "-I", "-S", "-c", script],
        {},
        file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_CLOSE, 0), (os.POSIX_SPAWN_CLOSE, 2)],
    )
    os.close(writing)
    assert os.waitpid(pid, 0)[1] == 0
    said = os.read(reading, 4096).decode().split()
    os.close(reading)
    os.close(program)
    assert said[0] == sys.executable


def test_another_failure_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        interpreter.sealed(str(tmp_path / "missing"))


@pytest.mark.root
def test_a_command_without_streams_starts_containers(busybox_image: str, minidocker: object, tmp_path: Path) -> None:
    argv = " ".join(minidocker.argv)  # type: ignore[attr-defined]
    command = f"{argv} run --rm --network none -v {tmp_path}:/host busybox touch /host/made 0<&- 1>&- 2>&-"
    done = subprocess.run(["sh", "-c", command], timeout=60, check=False)
    assert done.returncode == 0
    assert (tmp_path / "made").exists()
