"""The demo itself: it ends well, every check of it holds, and nothing is left of it."""

import fcntl
import os
import subprocess
import sys

import pytest

from conftest import Roots
from leaks import Leaks

SCRIPT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "scripts", "demo.py")


@pytest.mark.root
@pytest.mark.timeout(500)
def test_the_whole_tutorial(roots: Roots, embedded: str) -> None:
    env = {**os.environ, "MINIDOCKER_DEMO_ROOT": roots.root, "MINIDOCKER_DEMO_RUN": roots.run}
    done = subprocess.run([sys.executable, SCRIPT], env=env, capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert done.stdout.count("✓") > 50
    assert "\x1b" not in done.stdout, "colour where nobody looks"
    assert not os.path.exists(roots.root)
    assert not Leaks(roots.root, roots.run).found()


@pytest.mark.root
def test_two_at_once_do_not_share_a_stage(roots: Roots) -> None:
    env = {**os.environ, "MINIDOCKER_DEMO_ROOT": roots.root, "MINIDOCKER_DEMO_RUN": roots.run}
    with open(f"{roots.run}.lock", "w") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = subprocess.run([sys.executable, SCRIPT], env=env, capture_output=True, text=True, check=False)
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.startswith(f"another demo is using {roots.root}: wait")
    assert os.path.isdir(roots.root), "the first one's"
