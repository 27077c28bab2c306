"""Leave nothing of ours in the kernel: no mount, process, control group, link or rule. What `make clean` does.

Containers are stopped, not removed, and images stay: both are only files then. What the demo keeps on disk goes.
An ordinary user cleans up what is that user's; root also ends the holders of the users' namespaces.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys

from leaks import Leaks, cgroup_folders, read
from minidocker.container import cgroups, network, rootless

DEFAULT = ("/var/lib/minidocker", "/run/minidocker")
DEMO = ("/var/lib/minidocker-demo", "/run/minidocker-demo")
PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COMMAND = os.path.join(os.path.dirname(sys.executable), "minidocker")


def clean(root: str, run: str) -> list[str]:
    """Stop what runs, take the network down, and return what even force could not remove."""
    environment = {**os.environ, "MINIDOCKER_ROOT": root, "MINIDOCKER_RUN": run}
    if os.path.isdir(f"{root}/containers"):
        listed = subprocess.run([COMMAND, "ps", "-q"], env=environment, capture_output=True, text=True, check=False)
        if running := listed.stdout.split():
            print(f"stopping {len(running)} containers of {root}")
            subprocess.run(
                [COMMAND, "stop", "-t", "2", *running], env=environment, stdout=subprocess.DEVNULL, check=False
            )
    rootless.end(run)
    network.remove_all(run)
    leaks = Leaks(root, run)
    leaks.clean()
    shutil.rmtree(run, ignore_errors=True)
    return leaks.found()


def stop_what_stays() -> None:
    """End the registries and the holders that were started with this project's command."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        if stays(read(f"/proc/{name}/cmdline").split("\0")[:-1]):
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended, or is another user's
                os.kill(int(name), signal.SIGTERM)


def stays(words: list[str]) -> bool:
    """Say whether this is the command line of a program of ours that goes on by itself, a container or not."""
    is_command = words[:1] == [sys.executable] and os.path.basename("".join(words[1:2])) == "minidocker"
    is_registry = is_command and "registry" in words and "serve" in words
    return is_registry or words[-2:] == [PROJECT, "minidocker-holder"]


def remove_empty_cgroups() -> None:
    """Remove the control groups above the containers', where no other root uses them."""
    for folder in cgroup_folders():
        if os.path.basename(folder) == cgroups.PARENT:
            with contextlib.suppress(OSError):  # another root's containers are in it
                os.rmdir(folder)


def main() -> int:
    """Clean up; return 1 and tell where something could not be removed."""
    if os.geteuid() == 0:
        own = (os.environ.get("MINIDOCKER_ROOT", DEFAULT[0]), os.environ.get("MINIDOCKER_RUN", DEFAULT[1]))
        places = {DEMO, DEFAULT, own}
    else:
        places = {rootless.folders()}
    left: list[str] = []
    for root, run in places:
        left += clean(root, run)
    shutil.rmtree(DEMO[0], ignore_errors=True)
    stop_what_stays()
    remove_empty_cgroups()
    for what in left:
        print(f"could not remove {what}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
