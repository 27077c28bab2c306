"""Run the unit tests on several versions of Python, each in a `.venv-VERSION` of its own: `versions.py 3.11 3.12`."""

import glob
import hashlib
import os
import shutil
import subprocess
import sys

from prepare import PROJECT, SetUpError, quietly


def find(version: str) -> str:
    """Return an interpreter of that version: this one, one of pyenv's, or one on the path that really starts."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    candidates = [sys.executable, *glob.glob(f"{pyenv}/versions/{version}.*/bin/python")]
    candidates += [path for path in [shutil.which(f"python{version}"), f"/usr/bin/python{version}"] if path]
    for python in candidates:
        ask = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        try:
            if subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() == version:
                return python
        except OSError:
            continue
    sys.exit(
        f"no Python {version} here: install it (pyenv install {version}, uv python install {version}) and try again"
    )


def make_venv(python: str, version: str) -> str:
    """Make `.venv-VERSION` with minidocker and the tests' packages, unless it is there for this pyproject.toml."""
    venv = f"{PROJECT}/.venv-{version}"
    with open(f"{PROJECT}/pyproject.toml", "rb") as file:
        wanted = f"dev {hashlib.sha256(file.read()).hexdigest()}"
    stamp = f"{venv}/minidocker-stamp"
    if not os.path.exists(stamp) or open(stamp).read() != wanted:
        shutil.rmtree(venv, ignore_errors=True)
        quietly([python, "-m", "venv", venv])
        pip = [f"{venv}/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        quietly([*pip, "-e", f"{PROJECT}[dev]"])  # the course is tested, too
        with open(stamp, "w") as file:
            file.write(wanted)
    return venv


def main(versions: list[str]) -> None:
    """Run the unit tests on each version; exit with the first failure's code after all have run."""
    codes = []
    for version in versions:
        venv = make_venv(find(version), version)
        print(f"--- unit tests on Python {version}", flush=True)
        command = [f"{venv}/bin/python", "-m", "pytest", "-q", "-n", "2", "-m", "not root and not peers"]
        codes.append(subprocess.run(command, cwd=PROJECT, check=False).returncode)
    sys.exit(max(codes, default=0))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SetUpError as problem:
        sys.exit(str(problem))
