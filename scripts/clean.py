"""Leave nothing of ours in the kernel: no mount, process, control group, link or rule. What `make clean` does.

Containers are stopped, not removed, and images stay: both are only files then. What the demo keeps on disk goes.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys

from leaks import Leaks, cgroup_folders, read
from minidocker.container import cgroups, network

DEFAULT = ("/var/lib/minidocker", "/run/minidocker")
DEMO = ("/var/lib/minidocker-demo", "/run/minidocker-demo")
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
    network.remove_all(run)
    leaks = Leaks(root, run)
    leaks.clean()
    shutil.rmtree(run, ignore_errors=True)
    return leaks.found()


def stop_servers() -> None:
    """End the registries that were started with this project's command."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        words = read(f"/proc/{name}/cmdline").split("\0")
        ours = words[0] == sys.executable and os.path.basename("".join(words[1:2])) == "minidocker"
        if ours and "registry" in words and "serve" in words:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(name), signal.SIGTERM)


def remove_empty_cgroups() -> None:
    """Remove the control groups above the containers', where no other root uses them."""
    for folder in cgroup_folders():
        if os.path.basename(folder) == cgroups.PARENT:
            with contextlib.suppress(OSError):  # another root's containers are in it
                os.rmdir(folder)


def main() -> int:
    """Clean up; return 1 and tell where something could not be removed."""
    own = (os.environ.get("MINIDOCKER_ROOT", DEFAULT[0]), os.environ.get("MINIDOCKER_RUN", DEFAULT[1]))
    left: list[str] = []
    for root, run in {DEMO, DEFAULT, own}:
        left += clean(root, run)
    shutil.rmtree(DEMO[0], ignore_errors=True)
    stop_servers()
    remove_empty_cgroups()
    for what in left:
        print(f"could not remove {what}", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
