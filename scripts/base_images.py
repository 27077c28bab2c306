"""Make the base images, busybox:latest and debian:bookworm, and put them into the embedded registry.

`base_images.py REGISTRY`, run by `.venv`'s python as root. Both are made of this machine's own Debian packages, with
minidocker's own import: no other registry is needed.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import BinaryIO, cast

from minidocker.image import archive, reference
from minidocker.image.store import ImageStore
from minidocker.progress import silent
from minidocker.registry.embedded import Embedded
from minidocker.registry.transfer import send

SUITE = "bookworm"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
GROUP = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwheel:x:10:root\nusers:x:100:\nnogroup:x:65534:\n"

# What a package's scripts must not do in a container, and what apt need not keep there.
POLICY = "#!/bin/sh\n# No service is started when its package is installed: a container runs one command.\nexit 101\n"
APT = """\
// Images are read far more often than changed: keep no package files, no translations, and the lists compressed.
APT::Keep-Downloaded-Packages "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
"""


def main(registry: str) -> None:
    """Make both images; what an interrupted run left is used or replaced."""
    work = f"{registry}-making"
    os.makedirs(work, exist_ok=True)
    make("busybox:latest", registry, work, busybox_tree, ["sh"])
    make(f"debian:{SUITE}", registry, work, debian_tree, ["bash"])
    shutil.rmtree(work)


def make(name: str, registry: str, work: str, make_tree: Callable[[str], str], command: list[str]) -> None:
    """Make one image of a root file system and put it into the registry."""
    started = time.monotonic()
    print(f"  images    making {name} …", flush=True)
    tree = make_tree(work)
    store = ImageStore(f"{work}/root")
    config = {"Cmd": command, "Env": [f"PATH={PATH}"]}
    message = f"Made of {SUITE}'s own packages"
    argv = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", tree, "-c", "."]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as tar:
        ref = reference.parse(name)
        image = archive.import_rootfs(store, cast(BinaryIO, tar.stdout), ref, config, message)
    if tar.returncode:
        sys.exit(f"{' '.join(argv)}: exit code {tar.returncode}")
    send(store, image, ref, silent, Embedded(registry))
    print(f"  images    {name} made  ({time.monotonic() - started:.0f} s)", flush=True)


def busybox_tree(work: str) -> str:
    """Lay out a root around Debian's static busybox: one file, and a link to it for each command that it knows."""
    tree = f"{work}/busybox"
    shutil.rmtree(tree, ignore_errors=True)
    for folder in ("bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "usr/bin", "usr/sbin", "var/tmp"):
        os.makedirs(f"{tree}/{folder}")
    for folder, mode in (("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777)):
        os.chmod(f"{tree}/{folder}", mode)
    shutil.copy2("/bin/busybox", f"{tree}/bin/busybox")
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            os.symlink("busybox", f"{tree}/bin/{applet}")
    os.symlink("../../bin/env", f"{tree}/usr/bin/env")
    for file, text in (("passwd", PASSWD), ("group", GROUP), ("shadow", "root:*:19000:0:99999:7:::\n")):
        _write(f"{tree}/etc/{file}", text, 0o640 if file == "shadow" else 0o644)
    return tree


def debian_tree(work: str) -> str:
    """Bootstrap Debian's smallest variant, with the sources of this machine's apt and none of its caches."""
    tree = f"{work}/debian"
    sources = apt_sources()
    mirror = sources[0].split()[1]
    os.makedirs(f"{work}/packages", exist_ok=True)
    _unmount_below(tree)
    shutil.rmtree(tree, ignore_errors=True)
    certificates = ["--include=ca-certificates"] if mirror.startswith("https") else []
    run = subprocess.run(
        ["debootstrap", "--variant=minbase", *certificates, f"--cache-dir={work}/packages", SUITE, tree, mirror],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, **proxies(), "LC_ALL": "C"},
        check=False,
    )
    if run.returncode:
        sys.exit(f"debootstrap: exit code {run.returncode}\n{run.stdout[-3000:]}{run.stderr[-3000:]}")
    _unmount_below(tree)
    for folder in ("var/cache/apt", "var/lib/apt/lists", "var/log", "tmp", "run"):
        _empty(f"{tree}/{folder}")
    for folder in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "run/lock"):
        os.makedirs(f"{tree}/{folder}")
    for file in ("etc/resolv.conf", "etc/hostname", "etc/machine-id"):
        _write(f"{tree}/{file}", "")
    _write(f"{tree}/etc/apt/sources.list", "".join(f"{source}\n" for source in sources))
    _write(f"{tree}/etc/apt/apt.conf.d/80container", APT + "".join(f"{line}\n" for line in apt_settings()))
    _write(
        f"{tree}/etc/dpkg/dpkg.cfg.d/80container",
        "# A build that is cut short is thrown away whole.\nforce-unsafe-io\n",
    )
    _write(f"{tree}/usr/sbin/policy-rc.d", POLICY, 0o755)
    return tree


def apt_sources() -> list[str]:
    """Return this machine's own sources for the suite, the main one first; MINIDOCKER_MIRROR overrides them."""
    if mirror := os.environ.get("MINIDOCKER_MIRROR"):
        return [f"deb {mirror} {SUITE} main"]
    query = ["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]
    rows = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    if not rows:  # apt names only what it has fetched, and an image of Debian comes with nothing fetched
        subprocess.run(["apt-get", "update", "-qq"], stdout=subprocess.DEVNULL, check=True)
        rows = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    targets = [row.split() for row in rows]
    sources = [
        f"deb {uri} {release} main"
        for release, component, uri in sorted(targets)
        if component == "main" and release in (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    ]
    if not sources or f" {SUITE} " not in sources[0]:
        sys.exit(f"apt's sources name no mirror of {SUITE}: say MINIDOCKER_MIRROR=URL of a Debian mirror")
    return sources


def apt_settings() -> list[str]:
    """Return the settings without which apt would not reach this machine's mirror from inside either."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout.splitlines()
    names = ("Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-Valid-Until", "Acquire::Check-Date")
    return [line for line in dump if line.startswith(names)]


def proxies() -> dict[str, str]:
    """Return apt's proxies as the variables that debootstrap's wget understands."""
    found = {}
    for line in apt_settings():
        name, value = line.rstrip(";").split(" ", 1)
        if name in ("Acquire::http::Proxy", "Acquire::https::Proxy"):
            found[f"{name.split('::')[1]}_proxy"] = value.strip('"')
    return found


def _unmount_below(tree: str) -> None:
    """Undo the mounts of a bootstrap that was killed: what is below them is this machine's own /proc and /sys."""
    with open("/proc/self/mountinfo") as mounts:
        targets = [line.split()[4] for line in mounts]
    for target in reversed([target for target in targets if target.startswith(f"{tree}/")]):
        subprocess.run(["umount", target], check=True)


def _write(path: str, text: str, mode: int = 0o644) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


def _empty(folder: str) -> None:
    for name in os.listdir(folder):
        path = f"{folder}/{name}"
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


if __name__ == "__main__":
    main(sys.argv[1])
