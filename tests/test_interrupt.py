"""Where ctrl-c may break in: in a process of its own, because it is about that process's signals."""

import subprocess
import sys
import weakref

PROGRAM = """
import signal, time
from minidocker.cli import interrupt

def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)
    time.sleep(0.05)  # it tries again all the while
    done.append("went on")

done, file = [], "{file}"
press_ctrl_c.__code__ = press_ctrl_c.__code__.replace(co_filename=file)
interrupt.listen()
try:
    press_ctrl_c()
    time.sleep(10)
except KeyboardInterrupt:
    done.append("interrupted")
interrupt.ignore()
press_ctrl_c()
print(*done, sep=", ")
"""


def outcome(file: str) -> str:
    argv = [sys.executable, "-c", PROGRAM.format(file=file)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def test_anywhere_and_when_all_is_done_nowhere() -> None:
    assert outcome("program.py") == "interrupted, went on"


def test_not_in_the_midst_of_an_import() -> None:
    """It would leave the lock of all imports held, and a thread that imports, too, would wait for ever."""
    assert outcome("<frozen importlib._bootstrap>") == "went on, interrupted, went on"


def test_not_where_nobody_would_hear_of_it() -> None:
    """What is called when an object goes has no caller: Python prints its exception, and goes on."""
    assert outcome(weakref.__file__) == "went on, interrupted, went on"
