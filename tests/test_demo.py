"""The demo itself: it ends well, every check of it holds, and nothing is left of it."""

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
