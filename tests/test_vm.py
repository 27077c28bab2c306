"""The virtual machine's parts: what is made once, the archive for the kernel, and what is read from the console."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vm
import vm_image
from prepare import PROJECT


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(vm_image, "CACHE", str(tmp_path))
    return tmp_path


def test_a_part_is_made_once_for_a_recipe(cache: Path) -> None:
    calls: list[str] = []

    def make(path: str) -> None:
        calls.append(path)
        Path(path, "disk").write_text(str(len(calls)))

    first = vm_image.made("root", ["a"], make)
    assert vm_image.made("root", ["a"], make) == first
    second = vm_image.made("root", ["b"], make)
    assert Path(second, "disk").read_text() == "2"
    assert os.listdir(cache) == [os.path.basename(second)]  # the older one is gone


def test_a_part_whose_making_was_interrupted_is_made_again(cache: Path) -> None:
    def fail(path: str) -> None:
        Path(path, "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vm_image.made("root", ["a"], fail)
    made = vm_image.made("root", ["a"], lambda path: os.mkdir(f"{path}/whole"))
    assert os.listdir(made) == ["whole"]


def test_the_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    modules = tmp_path / "usr/lib/modules/6.1"
    os.makedirs(modules / "kernel")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").write_bytes(b"busybox")
    for name in ("virtio", "ring", "virtio_pci", "virtio_blk", "virtio_net"):
        (modules / f"kernel/{name}.ko").write_bytes(name.encode())
    needs = {
        "virtio_pci": "kernel/ring.ko kernel/virtio.ko",
        "virtio_blk": "kernel/virtio.ko",
        "virtio_net": "kernel/virtio.ko",
        "ring": "",
        "virtio": "",
    }
    lines = [f"kernel/{name}.ko: {others}\n" for name, others in needs.items()]
    (modules / "modules.dep").write_text("".join(lines))
    archive = vm_image.initramfs(str(tmp_path), "6.1")
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["busybox", "cpio", "-i"], input=archive, cwd=out, check=True, capture_output=True)
    assert (out / "bin/busybox").read_bytes() == b"busybox"
    assert os.access(out / "init", os.X_OK)
    drivers = [(out / f"{number:02}.ko").read_text() for number in range(5)]
    assert drivers == ["virtio", "ring", "virtio_pci", "virtio_blk", "virtio_net"]  # what is needed comes first


def talk(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-u", "-c", program], stdout=subprocess.PIPE)


def test_the_console_is_read_line_by_line(tmp_path: Path) -> None:
    with talk(r"print('\x1b[2Jone\r\ncollecting 1\rtwo\r\nhalf', end='')") as guest:
        assert list(vm.console(guest, str(tmp_path / "log"), time.monotonic() + 20)) == ["one", "two"]
    assert (tmp_path / "log").read_bytes().endswith(b"half")


def test_a_machine_that_says_nothing_any_more(tmp_path: Path) -> None:
    with talk("import time; print('one'); time.sleep(60)") as guest:
        lines = vm.console(guest, str(tmp_path / "log"), time.monotonic() + 2)
        assert next(lines) == "one"
        with pytest.raises(TimeoutError):
            next(lines)
        guest.kill()


@pytest.mark.parametrize(
    ("said", "code", "summary"),
    [
        ("vm: ready\\n=== 3 passed in 4.20s ===\\nvm: ended with 0\\n", 0, "3 passed in 4.20s"),
        ("vm: ready\\n=== 1 failed, 2 passed in 4.20s ===\\nvm: ended with 1\\n", 1, "1 failed, 2 passed in 4.20s"),
        ("vm: ready\\nno such module\\nvm: ended with 127\\n", 127, "exit code 127"),
        ("vm: ready\\n=== 3 passed in 4.20s ===\\n", 125, "the machine ended before the tests did"),
        ("Kernel panic\\n", 125, "the machine ended before the tests did"),
    ],
)
def test_how_the_tests_ended(said: str, code: int, summary: str) -> None:
    with talk(f"print('{said}', end='')") as guest:
        outcome = vm.follow(guest, "plain")
    assert (outcome.code, outcome.summary) == (code, summary)


def test_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm, "qemu", lambda machine, mode: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(vm, "LIMIT", 1)
    with vm.boot(vm_image.Machine("", "", ()), "plain") as guest:
        assert vm.follow(guest, "plain").code == 124
    assert guest.poll() == -signal.SIGKILL


def test_the_tests_of_each_mode_are_there() -> None:
    named = {word for tests in vm.MODES.values() for word in tests.split()}
    assert {f"tests/vm/{name}" for name in os.listdir(vm_image.GUEST) if name.endswith(".py")} < named
    assert all(os.path.exists(f"{PROJECT}/{path}") for path in named)
