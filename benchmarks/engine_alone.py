"""Print how many seconds the engine needs, called from Python, to create a container, start it, wait for it, remove it.

In a process of its own, because an engine forks, and what measures may have threads; the first is not counted.
"""

import time

from minidocker import engine
from minidocker.container.options import RunOptions


def main() -> None:
    """Measure the second container."""
    home = engine.open_engine()
    options = RunOptions(command=("true",), network="none")
    for _ in range(2):
        started = time.perf_counter()
        container = engine.create(home, "busybox", options)
        engine.start(home, container)
        engine.wait(home, container)
        engine.remove(home, container)
        seconds = time.perf_counter() - started
    print(seconds)


if __name__ == "__main__":
    main()
