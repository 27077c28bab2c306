"""What the tests of builds share: a store with a `busybox` in it, where RUN is a simple chroot on an overlay."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from minidocker.build.builder import BuildOptions, RunStep, build
from minidocker.image import reference
from minidocker.image.layers import write_layer
from minidocker.image.oci import CONFIG, MANIFEST, Descriptor, ImageConfig, Manifest, digest_of
from minidocker.image.store import Image, ImageStore

APPLETS = "sh ls cat mkdir echo false true touch stat find chown chmod ln rm env id pwd sort tr sleep printf".split()


class Chroot:
    """How one RUN ended."""

    def __init__(self, base: str, exit_code: int) -> None:
        self.base = base
        self.upper = f"{base}/upper"
        self.exit_code = exit_code

    def discard(self) -> None:
        shutil.rmtree(self.base, ignore_errors=True)


class Bench:
    """A store with a `busybox` in it, and a build command."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.store = ImageStore(f"{folder}/root")
        self.context = f"{folder}/context"
        self.runs: list[RunStep] = []
        self.pulls: list[tuple[str, str, bool]] = []
        self.id = ""
        os.makedirs(self.context)
        self.base = self.add_base()

    def add_base(self) -> Image:
        tree = f"{self.folder}/busybox"
        make_busybox(tree)
        layer = write_layer(self.store.layout, tree)
        self.store.adopt(tree, layer.diff_id, layer.size)
        raw = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}
        data = ImageConfig({**raw, "config": {}}).to_bytes()
        self.store.layout.add_blob(data)
        manifest = Manifest(MANIFEST, Descriptor(CONFIG, digest_of(data), len(data)), (layer.blob,))
        return self.store.add(manifest.to_bytes(), MANIFEST, [reference.parse("busybox")])

    def write(self, **files: str) -> None:
        for name, text in files.items():
            self.file(name.replace("__", "/").replace("_", "."), text)

    def file(self, name: str, text: str, mode: int = 0o644) -> None:
        path = f"{self.context}/{name}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)

    def run(self, step: RunStep) -> Chroot:
        """Run a command with the layers as overlay, as a container without any isolation would."""
        self.runs.append(step)
        base = f"{self.folder}/run{len(self.runs)}"
        for name in ("upper", "work", "merged"):
            os.makedirs(f"{base}/{name}")
            os.chmod(f"{base}/{name}", 0o755)
        distinct = dict.fromkeys(reversed(step.layers))  # overlayfs refuses a folder that is there twice
        lowers = ":".join(map(self.store.layer_path, distinct)) or f"{base}/work"
        mount = f"mount -t overlay o -o lowerdir={lowers},upperdir={base}/upper,workdir={base}/work {base}/merged"
        binds = ""
        for source, target in step.mounts:
            binds += f" && mkdir -p {base}/merged/dev/pipes && touch {base}/merged{target}"
            binds += f" && mount --bind {source} {base}/merged{target}"
        enter = 'cd "$1"; shift; exec "$@"'
        script = f"{mount}{binds} && exec chroot {base}/merged /bin/sh -c '{enter}' x \"$@\""
        argv = ["/usr/bin/unshare", "-m", "/bin/sh", "-c", script, "x", step.workdir, *step.args]
        env = dict(one.split("=", 1) for one in step.env)
        done = subprocess.run(argv, env=env, capture_output=True, check=False)
        step.output(done.stdout + done.stderr)
        shutil.rmtree(f"{base}/upper/dev", ignore_errors=True)
        return Chroot(base, done.returncode)

    def resolve(self, name: str, platform: str, pull: bool) -> Image:
        self.pulls.append((name, platform, pull))
        return self.store.get(name)

    def build(self, text: str, context: str | None = None, **options: Any) -> str:
        """Build and return what was printed."""
        out: list[str] = []
        chosen = BuildOptions(text, f"{self.context}/Dockerfile", **options)
        try:
            self.id = build(
                self.store, self.context if context is None else context, chosen, out.append, self.run, self.resolve
            )
        finally:
            self.printed = "".join(out)
            assert leftovers(self.store.root) == []
        return self.printed

    @property
    def config(self) -> ImageConfig:
        return self.store.config(self.store.get(self.id))

    def see(self, command: str) -> str:
        """Run a command in the image that was built last and return what it prints."""
        out: list[bytes] = []
        layers = self.config.diff_ids
        self.run(
            RunStep(
                "",
                layers,
                ("/bin/sh", "-c", command),
                ("PATH=/bin:/usr/bin:/usr/sbin:/sbin",),
                "",
                "/",
                "none",
                (),
                out.append,
            )
        ).discard()
        return b"".join(out).decode()


def leftovers(root: str) -> list[str]:
    """Return what a build must not leave: its own folders, and layers that were not finished."""
    working = f"{root}/build/tmp"
    layers = [name for name in os.listdir(f"{root}/layers") if "." in name and not name.endswith(".size")]
    return layers + (os.listdir(working) if os.path.isdir(working) else [])


def make_busybox(tree: str) -> None:
    os.makedirs(f"{tree}/bin")
    shutil.copy("/bin/busybox", f"{tree}/bin/busybox")
    for applet in APPLETS:
        os.symlink("busybox", f"{tree}/bin/{applet}")
    for name in ("etc", "tmp", "dev", "proc", "sys"):
        os.mkdir(f"{tree}/{name}")
    os.chmod(f"{tree}/tmp", 0o1777)
    with open(f"{tree}/etc/passwd", "w") as file:
        file.write("root:x:0:0:root:/root:/bin/sh\nbob:x:1234:1235::/:/bin/sh\n")
    with open(f"{tree}/etc/group", "w") as file:
        file.write("root:x:0:\nbob:x:1235:\nstaff:x:50:\n")


@pytest.fixture
def bench(tmp_path: Any) -> Iterator[Bench]:
    if not os.path.exists("/bin/busybox"):
        pytest.skip("needs busybox-static")
    yield Bench(str(tmp_path))


ID = "[0-9a-f]{12}"


def masked(text: str) -> str:
    return re.sub(rf"\b{ID}\b", "ID", text)
