"""Open the course in JupyterLab: what `make lab` does when everything is set up.

Root works as root; an ordinary user inside the user namespace in which their minidocker works, so that notebooks,
which have threads, reach the same containers. Further options are JupyterLab's: `scripts/lab.py --port 9000`.
"""

import os
import sys

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIRST = "notebooks/00_overview.ipynb"


def command(options: list[str]) -> list[str]:
    """Return the words that start JupyterLab."""
    programs = os.path.dirname(sys.executable)
    quiet = ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    lab = [f"{programs}/jupyter-lab", "--allow-root", f"--ServerApp.root_dir={PROJECT}", *quiet, *options, FIRST]
    return lab if os.geteuid() == 0 else [f"{programs}/minidocker", "unshare", *lab]


def main() -> None:
    """Become JupyterLab."""
    programs = os.path.dirname(sys.executable)
    os.chdir(PROJECT)
    os.environ["PATH"] = f"{programs}:{os.environ.get('PATH', os.defpath)}"
    print(f"The course opens at {FIRST}. Where no browser appears, open the address below; ctrl-c twice ends it.\n")
    sys.stdout.flush()
    words = command(sys.argv[1:])
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
