"""Make a machine ready: `python3 scripts/prepare.py run|demo|lab|test|bench`; what `make` does does that first.

Three steps, each of which looks first whether it is done already: the Debian packages, `.venv` with minidocker in it,
and the base images in the embedded registry. An interrupted run goes on where it stopped. Standard library only,
because this runs before there is anything else.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.environ.get("MINIDOCKER_VENV", f"{PROJECT}/.venv")
REGISTRY = os.environ.get("MINIDOCKER_EMBEDDED", "/var/lib/minidocker/registry")
BASE_IMAGES = f"{PROJECT}/scripts/base_images.py"

RUN = ("nftables", "libseccomp2", "busybox-static", "debootstrap", "uidmap", "slirp4netns")
DEMO = ("openssh-client", "sshpass", "curl", "apache2-utils")
PEERS = ("docker.io", "podman", "runc", "skopeo", "docker-registry", "containernetworking-plugins")
TOOLS = ("iptables", "tmux", "openssl", "attr", "libcap2-bin", "strace", "zstd", "procps", "chromium")
LAB = DEMO + ("iproute2", "jq")
BENCH = ("iperf3", "wrk")
PACKAGES = {"run": RUN, "demo": RUN + DEMO, "lab": RUN + LAB, "test": RUN + LAB + PEERS + TOOLS}
PACKAGES["bench"] = PACKAGES["test"] + BENCH
EXTRAS = {"run": "", "demo": "", "lab": "[course]", "test": "[dev]", "bench": "[bench]"}  # each holds those before it


class SetUpError(Exception):
    """Something that the person at the keyboard has to mend; the message says how."""


def main(purpose: str) -> None:
    """Carry out the steps for `purpose`."""
    if sys.version_info < (3, 11):
        raise SetUpError(
            f"this is Python {sys.version.split()[0]}; minidocker needs 3.11 or later: make PYTHON=python3.11"
        )
    need_pip = () if _has("ensurepip") or os.path.exists(_stamp()) else ("python3-venv",)
    step("packages", lambda: install_packages((*PACKAGES[purpose], *need_pip)))
    step("python", lambda: make_venv(EXTRAS[purpose]))
    step("images", make_images)


def step(name: str, work: Callable[[], str]) -> None:
    """Do one step, and tell what came of it and how long it took where that is noticeable."""
    started = time.monotonic()
    outcome = work()
    seconds = time.monotonic() - started
    print(f"  {name:<9} {outcome}" + (f"  ({seconds:.0f} s)" if seconds > 2 else ""), flush=True)


def say(name: str, doing: str) -> None:
    """Tell what a step that takes a while is doing."""
    print(f"  {name:<9} {doing} …", flush=True)


def install_packages(wanted: Iterable[str]) -> str:
    """Install the missing Debian packages as root; raise with the command to type otherwise."""
    missing = missing_packages(wanted)
    if not missing:
        return "all there"
    command = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0:
        raise SetUpError(f"missing Debian packages; as root run: apt-get update && {command}")
    say("packages", f"installing {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    quietly(["apt-get", "update", "-qq"], environment)
    quietly(command.split(), environment)
    return f"installed {len(missing)}"


def missing_packages(wanted: Iterable[str]) -> list[str]:
    """Return those of the `wanted` packages that dpkg does not report as installed."""
    wanted = list(wanted)
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        raise SetUpError(f"this is not Debian; install by hand what these packages hold: {' '.join(wanted)}") from None
    installed = {line.split()[0] for line in listed.splitlines() if line.endswith(" installed")}
    return [package for package in wanted if package not in installed]


def make_venv(extra: str) -> str:
    """Make `.venv` with minidocker installed in it; the stamp, written last, says for which pyproject.toml."""
    python = f"{VENV}/bin/python"
    wanted = _wanted_stamp(extra)
    more = list(EXTRAS.values())[list(EXTRAS.values()).index(extra) :]
    if _read(_stamp()) not in map(_wanted_stamp, more) or not _works(python):
        if not _works(python):
            say("python", f"making {os.path.relpath(VENV)} with Python {sys.version.split()[0]}")
            shutil.rmtree(VENV, ignore_errors=True)
            quietly([sys.executable, "-m", "venv", VENV])
            # An older pip makes commands that import `re` before anything else: 5 ms later is everything of ours.
            quietly([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade", "pip"])
        say("python", f"installing minidocker{extra} and what it needs")
        quietly([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-e", f"{PROJECT}{extra}"])
        _write(_stamp(), wanted)
    # Where writing byte code is switched off, every command would otherwise compile the engine anew.
    subprocess.run([python, "-m", "compileall", "-q", f"{PROJECT}/minidocker"], stdout=subprocess.DEVNULL, check=False)
    return f"{os.path.relpath(VENV)}/bin/minidocker is ready"


def make_images() -> str:
    """Put the base images that are missing into the embedded registry."""
    recipe = hashlib.sha256(_read(BASE_IMAGES).encode()).hexdigest()[:16]
    made = f"{REGISTRY}/made-by"
    if not (os.path.exists(f"{REGISTRY}/index.json") and _read(made) == recipe):
        if os.geteuid() != 0:
            raise SetUpError("making the base images needs root: run `make setup` as root once")
        subprocess.run([f"{VENV}/bin/python", BASE_IMAGES, REGISTRY], check=True)
        _write(made, recipe)
    return f"busybox:latest and debian:bookworm are in {REGISTRY}"


def quietly(argv: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a command without a word; where it fails, show what it said and raise."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SetUpError(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def _stamp() -> str:
    return f"{VENV}/minidocker-stamp.json"


def _wanted_stamp(extra: str) -> str:
    project = hashlib.sha256(_read(f"{PROJECT}/pyproject.toml").encode()).hexdigest()[:16]
    return json.dumps({"project": project, "extra": extra})


def _works(python: str) -> bool:
    """Say whether `python` starts and is of the version that runs this."""
    version = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", version], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.stdout.split() == [str(number) for number in sys.version_info[:2]]


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _write(path: str, text: str) -> None:
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.new", path)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PACKAGES:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(PACKAGES)}")
    try:
        main(sys.argv[1])
    except SetUpError as problem:
        sys.exit(f"set-up stopped: {problem}")
    except subprocess.CalledProcessError as problem:
        sys.exit(problem.returncode)
    except KeyboardInterrupt:
        sys.exit("\nset-up interrupted; the next one goes on from here")
