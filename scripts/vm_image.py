"""What the virtual machine of `make test-vm` is made of: Debian's kernel, a small Debian root, and this project.

Each part is a file in the cache, named for a digest of what it was made from, so that it is made once. Needs root, for
the owners of the files in the disks; nothing is mounted.
"""

import fcntl
import glob
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Callable, Iterable
from typing import NamedTuple

from base_images import SUITE, apt_sources, proxies
from prepare import PROJECT, REGISTRY, quietly, say

CACHE = os.environ.get("MINIDOCKER_VM_CACHE", "/var/cache/minidocker/vm")
GUEST = f"{PROJECT}/tests/vm"
KERNEL = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net")  # what the first program needs; the root has the others

PACKAGES = (
    ("systemd", "systemd-sysv", "libpam-systemd", "dbus", "dbus-user-session", "kmod", "procps", "busybox-static")
    + ("python3", "nftables", "iproute2", "ca-certificates")  # what minidocker needs
    + ("uidmap", "slirp4netns", "passt")  # and without root
)
PYTHON = ("pytest", "pytest-timeout")


class Machine(NamedTuple):
    """The files that make a machine: the kernel, its first program, and the disks in the order of their names."""

    kernel: str
    initramfs: str
    disks: tuple[str, ...]


def machine(mode: str, command: str) -> Machine:
    """Make what is missing of a machine that runs the shell's `command`; two at once come one after the other."""
    os.makedirs(CACHE, exist_ok=True)
    with open(f"{CACHE}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _machine(mode, command)


def _machine(mode: str, command: str) -> Machine:
    kernel = made("kernel", (KERNEL,), make_kernel)
    version = os.path.basename(glob.glob(f"{kernel}/lib/modules/*")[0])
    recipe = (_text(__file__), kernel, *_texts(f"{GUEST}/root", f"{GUEST}/init"))
    root = made("root", recipe, lambda path: make_root(path, kernel, version))
    images = made("images", (_text(f"{REGISTRY}/index.json"),), lambda path: make_disk(path, REGISTRY))
    python = made("python", requirements(), lambda path: install(path, requirements()))
    wheel = made("wheel", _texts(f"{PROJECT}/minidocker", f"{PROJECT}/pyproject.toml"), make_wheel)
    project = f"{CACHE}/project.{mode}"  # the tests change too often to keep it
    make_project(project, python, f"{wheel}/site", command)
    disks = (f"{root}/disk", f"{project}/disk", f"{images}/disk")
    return Machine(f"{kernel}/boot/vmlinuz-{version}", f"{root}/initramfs", disks)


def made(name: str, recipe: Iterable[str], make: Callable[[str], None]) -> str:
    """Return the cache's folder of that name and recipe; have it made, and drop older ones, where it is missing."""
    digest = hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]
    path = f"{CACHE}/{name}.{digest}"
    if not os.path.isdir(path):
        say(name, "making")
        shutil.rmtree(f"{path}.new", ignore_errors=True)
        os.makedirs(f"{path}.new")
        make(f"{path}.new")
        for old in glob.glob(f"{CACHE}/{name}.????????????????"):
            shutil.rmtree(old)
        os.rename(f"{path}.new", path)
    return path


def requirements() -> list[str]:
    """Return what the engine needs of PyPI, by its own word, and what its tests need."""
    with open(f"{PROJECT}/pyproject.toml", "rb") as file:
        return [*tomllib.load(file)["project"]["dependencies"], *PYTHON]


def make_kernel(path: str) -> None:
    """Unpack Debian's kernel for clouds; it is not installed here."""
    quietly(["apt-get", "update", "-qq"])
    depends = ["apt-cache", "depends", "--important", KERNEL]
    listed = subprocess.run(depends, capture_output=True, text=True, check=True).stdout
    package = next(word for word in listed.split() if word.startswith("linux-image-") and word != KERNEL)
    subprocess.run(["apt-get", "download", "-qq", package], cwd=path, stderr=subprocess.DEVNULL, check=True)
    quietly(["dpkg-deb", "-x", *glob.glob(f"{path}/*.deb"), path])
    os.unlink(glob.glob(f"{path}/*.deb")[0])


def make_root(path: str, kernel: str, version: str) -> None:
    """Make the root disk: Debian's smallest variant, the kernel's modules and our own few files."""
    tree, packages = f"{path}/tree", f"{CACHE}/packages"
    os.makedirs(packages, exist_ok=True)
    mirror = apt_sources()[0].split()[1]
    options = ["--variant=minbase", f"--include={','.join(PACKAGES)}", f"--cache-dir={packages}"]
    quietly(["debootstrap", *options, SUITE, tree, mirror], {**os.environ, **proxies(), "LC_ALL": "C"})
    shutil.copytree(f"{kernel}/lib/modules/{version}", f"{tree}/usr/lib/modules/{version}")
    quietly(["chroot", tree, "depmod", version])
    quietly(["cp", "-rT", "--preserve=mode", f"{GUEST}/root", tree])
    quietly(["chroot", tree, "sh", "/etc/minidocker-vm/finish"])
    shutil.rmtree(f"{tree}/var/cache/apt")
    with open(f"{path}/initramfs", "wb") as file:
        file.write(initramfs(tree, version))
    make_disk(path, tree, "3G")
    shutil.rmtree(tree)


def install(path: str, what: list[str]) -> None:
    """Unpack wheels for the guest's Python, whichever Python runs this."""
    choice = ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--no-compile"]
    choice += [f"--platform=manylinux{tag}_x86_64" for tag in ("2014", "_2_17", "_2_28", "_2_34")]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--root-user-action=ignore"]
    quietly([*pip, *choice, f"--target={path}", *what])
    quietly([sys.executable, "-m", "compileall", "-q", path])


def make_wheel(path: str) -> None:
    """Build this project's wheel and unpack it where the guest imports it from."""
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps"]
    quietly([*pip, f"--wheel-dir={path}", PROJECT])
    with zipfile.ZipFile(glob.glob(f"{path}/*.whl")[0]) as wheel:
        wheel.extractall(f"{path}/site")
    if sysconfig.get_python_version() == "3.11":  # the guest's, too: spare it the compiling
        quietly([sys.executable, "-m", "compileall", "-q", f"{path}/site"])


def make_project(path: str, python: str, site: str, command: str) -> None:
    """Make the disk with the engine and what it needs of PyPI, its tests and their helpers, and what is to be run."""
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(f"{path}/tree")
    shutil.copytree(python, f"{path}/tree/python")
    shutil.copytree(site, f"{path}/tree/site")
    for folder in ("tests", "scripts"):
        shutil.copytree(f"{PROJECT}/{folder}", f"{path}/tree/{folder}", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(f"{PROJECT}/pyproject.toml", f"{path}/tree")
    with open(f"{path}/tree/asked", "w") as file:
        file.write(f"command={shlex.quote(command)}\n")
    make_disk(path, f"{path}/tree", "256M")


def make_disk(path: str, tree: str, size: str = "512M") -> None:
    """Write an ext4 file system with what is in `tree`; what is empty takes no space."""
    disk = f"{path}/disk"
    with open(disk, "wb"):
        pass
    quietly(["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", "-d", tree, disk, size])


def initramfs(tree: str, version: str) -> bytes:
    """Return the archive from which the kernel takes its first program: busybox, the drivers and `init`.

    See: the kernel's driver-api/early-userspace/buffer-format.rst.
    """
    drivers = _with_needed(f"{tree}/usr/lib/modules/{version}")
    archive = b"".join(_member(name, b"", 0o040755) for name in ("bin", "dev", "proc", "root"))
    archive += _member("bin/busybox", _bytes(f"{tree}/bin/busybox"), 0o100755)
    archive += _member("init", _bytes(f"{GUEST}/init"), 0o100755)
    for number, driver in enumerate(drivers):
        archive += _member(f"{number:02}.ko", _bytes(driver), 0o100644)
    return archive + _member("TRAILER!!!", b"", 0)


def _member(name: str, data: bytes, mode: int) -> bytes:
    """Return one member of a cpio archive in the `newc` format: thirteen fields of eight digits, name, data."""
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
    return _padded(head) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _with_needed(folder: str) -> list[str]:
    """Return the files of the drivers and of what they need, that first. See: modules.dep(5)."""
    found: list[str] = []
    with open(f"{folder}/modules.dep") as file:
        needs = dict(line.rstrip("\n").split(":") for line in file)
    for driver in MODULES:
        name = next(name for name in needs if name.endswith(f"/{driver}.ko"))
        found += [f"{folder}/{other}" for other in [*reversed(needs[name].split()), name]]
    return list(dict.fromkeys(found))


def _texts(*paths: str) -> list[str]:
    """Return the names and the contents of all files below the paths."""
    files = [path for path in paths if os.path.isfile(path)]
    for path in paths:
        files += [os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names]
    return [f"{file}\0{_text(file)}" for file in sorted(files) if not file.endswith(".pyc")]


def _text(path: str) -> str:
    return _bytes(path).decode()


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
