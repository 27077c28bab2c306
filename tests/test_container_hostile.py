"""What an image or a process in a container may try to do to the host, and what people ask for that is unusual."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Minidocker
from containerkit import image_with, output
from minidocker import assemble, engine
from minidocker.container import rootfs
from minidocker.container.options import ExecOptions, RunOptions
from minidocker.container.records import Container
from minidocker.container.spec import Mount
from minidocker.engine import Engine
from minidocker.errors import Conflict, StartError
from minidocker.linux import capabilities

pytestmark = pytest.mark.root


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_the_kernels_files_are_mounted_upon_no_link(home: Engine, name: str) -> None:
    image = image_with(home, lambda root: (root / name).symlink_to("/data"))
    with pytest.raises(StartError, match=f"cannot mount /{name}: it is a symbolic link"):
        output(home, image, "true")


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("/proc", "inside /proc"),
        ("/proc/sys", "inside /proc"),
        ("/link/fs", "inside /proc"),
        ("/top", "the root"),
    ],
)
def test_what_an_image_may_not_mount_upon(home: Engine, target: str, why: str) -> None:
    def links(root: Path) -> None:
        (root / "link").symlink_to("/proc")
        (root / "top").symlink_to("/")

    image = image_with(home, links, f"VOLUME {target}")
    with pytest.raises(StartError, match=f"cannot be mounted because it is {why}"):
        output(home, image, "true")


def test_the_bounding_set_is_the_kernels_word() -> None:
    with open("/proc/self/status") as status:
        said = next(line.split()[1] for line in status if line.startswith("CapBnd"))
    assert capabilities.available() == int(said, 16)


def test_a_volume_is_filled_by_the_image_not_by_the_kernel(home: Engine) -> None:
    volume = Mount("volume", "", "/sys", name="sys")
    output(home, "busybox", "true", mounts=(volume,))
    assert os.listdir(f"{home.root}/volumes/sys/_data") == []


def test_two_containers_fill_one_volume(minidocker: Minidocker, home: Engine) -> None:
    command = ("run", "--rm", "--network", "none", "-v", "data:/bin2", "filled", "true")

    def many_files(root: Path) -> None:
        (root / "bin2").mkdir()
        for number in range(3000):
            (root / f"bin2/{number}").touch()

    image_with(home, many_files)
    engine.run(home, "hostile:1", RunOptions(command=("true",), network="none"))
    minidocker.ok("tag", "hostile:1", "filled")
    processes = [minidocker.start(*command, stderr=subprocess.PIPE) for _ in range(4)]
    assert [process.communicate()[1] for process in processes] == [b""] * 4


def test_the_hosts_dev_can_be_mounted(home: Engine) -> None:
    before = sorted(os.listdir("/dev"))
    mounts = (Mount("bind", "/dev", "/dev"),)
    assert output(home, "busybox", "sh", "-c", "echo fine > /dev/null && ls /dev", mounts=mounts, privileged=True)
    assert "/dev/" in output(home, "busybox", "tty", mounts=mounts, privileged=True, terminal=True)
    assert sorted(os.listdir("/dev")) == before


def test_what_replaces_dev_null_is_not_opened_for_exec(home: Engine) -> None:
    """Its root may do so, and an exec opens it with more rights than its root has: /proc/kmsg is the host's log."""
    options = RunOptions(command=("sleep", "100"), network="none", detach=True)
    container = home.containers.load(engine.run(home, "busybox", options)[0].id)

    def execute(*command: str) -> None:
        attachment = engine.execute(home, container, ExecOptions(command))
        assert attachment
        assert list(attachment.frames()) == []
        assert attachment.exit_code == 0

    execute("sh", "-c", "rm /dev/null; ln -s /proc/kmsg /dev/null")
    with pytest.raises((StartError, OSError), match=r"ELOOP|symbolic links"):
        execute("true")
    engine.kill(home, container)


def test_a_working_directory_does_not_lead_out_by_an_open_descriptor(home: Engine, tmp_path: Path) -> None:
    """Of an image with many layers each is opened to be mounted; none of them may still be open then."""
    image = home.images.get("busybox")
    for number in range(65):
        made = engine.create(home, image.id, RunOptions(command=("true",)))
        Path(home.containers.path(made.id, "upper", f"layer{number}")).touch()
        image = engine.commit(home, made, "deep:1")
        engine.remove(home, made)
    for number in range(3, 80):
        up = "/".join([".."] * 12)
        with pytest.raises(StartError):
            output(home, "deep:1", "true", workdir=f"/proc/self/fd/{number}/{up}{tmp_path}/made")
        if number > 10 and not Path(f"/proc/self/fd/{number}").exists():
            break
    assert not (tmp_path / "made").exists()


def create_without_device_cgroup(
    home: Engine, monkeypatch: pytest.MonkeyPatch, image: str, **asked: object
) -> Container:
    monkeypatch.setattr("minidocker.container.cgroups.devices_are_limited", lambda places: False)
    return engine.create(home, image, RunOptions(network="none", **asked))  # type: ignore[arg-type]


def test_no_device_of_the_image_is_opened_where_no_cgroup_forbids_it(
    home: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_nodes(root: Path) -> None:
        os.mknod(root / "node", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        (root / "data").mkdir()
        os.mknod(root / "data/node", stat.S_IFCHR | 0o666, os.makedev(1, 5))

    image = image_with(home, make_nodes, "VOLUME /data")
    script = "head -c1 /node; head -c1 /data/node; mknod /x c 1 5; head -c 1 /dev/zero | wc -c"
    container = create_without_device_cgroup(home, monkeypatch, image, command=("sh", "-c", script))
    attachment = engine.start(home, container, attach=True)
    assert attachment
    said = b"".join(data for _, data in attachment.frames()).decode()
    assert said.count("Permission denied") == 2
    assert said.count("Operation not permitted") == 1
    assert "1" in said.splitlines()
    assert "MKNOD" not in assemble.kept_capabilities(RunOptions())


def test_links_on_the_way_to_dev_and_etc_are_followed_inside(home: Engine) -> None:
    def move(root: Path) -> None:
        (root / "usr/etc").mkdir(parents=True)
        (root / "usr/etc/passwd").write_text("root:x:0:0::/home/of/root:/bin/sh\n")
        (root / "etc").symlink_to("usr/etc")
        (root / "dev").symlink_to("/devices")

    image = image_with(home, move)
    script = "readlink /etc; readlink /dev; cat /etc/hostname; echo $HOME; echo fine > /dev/null; ls /devices/null"
    said = output(home, image, "sh", "-c", script, hostname="box")
    assert said == "usr/etc\n/devices\nbox\n/home/of/root\n/devices/null\n"


def test_an_image_with_nothing_but_a_program(home: Engine, minidocker: Minidocker, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM scratch\nCOPY busybox /busybox\nCMD ["/busybox", "ls", "/", "/etc"]\n')
    (tmp_path / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (tmp_path / "busybox").chmod(0o755)
    minidocker.ok("build", "-q", "-t", "bare", str(tmp_path))
    said = output(home, "bare")
    assert said.split() == ["/:", "busybox", "dev", "etc", "proc", "sys", "/etc:", "hostname", "hosts", "resolv.conf"]
    assert output(home, "bare", "/busybox", "id").startswith("uid=0 gid=0")


@pytest.mark.parametrize(("name", "kind"), [("etc/hosts", "directory"), ("proc", "file"), ("dev", "file")])
def test_a_file_where_a_directory_is_mounted_is_said_so(home: Engine, name: str, kind: str) -> None:
    def replace(root: Path) -> None:
        path = root / name
        path.parent.mkdir(exist_ok=True)
        if kind == "directory":
            path.mkdir()
        else:
            path.touch()

    image = image_with(home, replace)
    with pytest.raises(StartError, match=rf"cannot mount .* at /{name}|/{name}.*ENOTDIR"):
        output(home, image, "true")


def test_masks_cover_and_write_protection_holds(home: Engine) -> None:
    said = output(home, "busybox", "cat", "/proc/self/mountinfo").splitlines()
    options = {line.split()[4]: line.split()[5] for line in said}
    for path in rootfs.READ_ONLY_PATHS:
        if os.path.exists(path):
            assert options[path].startswith("ro"), path
    for path in rootfs.MASKED_PATHS:
        if os.path.exists(path):
            assert path in options, path


def test_a_create_that_fails_leaves_nothing(home: Engine) -> None:
    image_with(home, lambda root: (root / "x").touch(), "VOLUME /data")
    engine.create(home, "busybox", RunOptions(command=("true",), name="taken"))
    before = sorted(os.listdir(home.containers.folder))
    with pytest.raises(Conflict):
        engine.create(home, "hostile:1", RunOptions(command=("true",), name="taken"))
    assert sorted(os.listdir(home.containers.folder)) == before
    assert not os.path.exists(f"{home.root}/volumes")


def test_the_trial_of_overlayfs_is_not_disturbed_by_another(home: Engine, minidocker: Minidocker) -> None:
    for _ in range(3):
        os.unlink(f"{home.run}/storage") if os.path.exists(f"{home.run}/storage") else None
        processes = [minidocker.start("create", "busybox", "true", stdout=subprocess.DEVNULL) for _ in range(6)]
        assert [process.wait() for process in processes] == [0] * 6
        assert Path(f"{home.run}/storage").read_text() == "overlay"


def test_python_of_the_image_is_not_imported(home: Engine, tmp_path: Path) -> None:
    """A file where the host has this package, or Python's library, would run with the engine's power."""
    folders = [os.path.dirname(engine.__file__), os.path.dirname(os.__file__)]
    folders += [f"{folder}/{inner}" for folder, inner in zip(folders, ("container", "encodings"), strict=True)]
    evil = "import os\nos.write(2, b'evil')\nos.system('touch /evil')\n"
    container = engine.create(home, "busybox", RunOptions(command=("ls", "/"), network="none", user="\udcff"))
    for folder in folders:
        upper = Path(home.containers.path(container.id, "upper") + folder)
        upper.mkdir(parents=True, exist_ok=True)
        for name in (
            "pwd",
            "grp",
            "resource",
            "init",
            "grants",
            "idna",
            "latin_1",
            "traceback",
            "linecache",
            "warnings",
        ):
            (upper / f"{name}.py").write_text(evil)
    with pytest.raises(StartError, match="unable to find user"):
        engine.start(home, container)
    assert not os.path.exists(home.containers.path(container.id, "upper", "evil"))


def test_nothing_is_imported_once_the_container_is_entered() -> None:
    code = "from minidocker.container import namespaces; namespaces.forget_how_to_import(); import colorsys"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "No module named 'colorsys'" in done.stderr
