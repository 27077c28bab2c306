"""What tests of containers do by way of the engine itself: run, start, execute, make an image, wait."""

import time
from collections.abc import Callable
from pathlib import Path

from minidocker import engine
from minidocker.container.options import ExecOptions, RunOptions
from minidocker.container.records import Container
from minidocker.engine import Engine


def output(home: Engine, image: str, *command: str, **asked: object) -> str:
    """Run a command in a new container and return what it wrote."""
    values = {"network": "none", "remove": True, **asked}
    _, attachment = engine.run(home, image, RunOptions(command=command, **values))  # type: ignore[arg-type]
    assert attachment
    return b"".join(data for _, data in attachment.frames()).decode()


def detached(home: Engine, *command: str, **asked: object) -> Container:
    """Run a container in the background, `sleep 1000` where no command is given, and return it."""
    values = {"network": "none", "detach": True, **asked}
    options = RunOptions(command=command or ("sleep", "1000"), **values)  # type: ignore[arg-type]
    return home.containers.load(engine.run(home, "busybox", options)[0].id)


def execute(home: Engine, container: Container, *command: str, **asked: object) -> str:
    """Run one more program in a container and return what it wrote."""
    attachment = engine.execute(home, container, ExecOptions(command, **asked))  # type: ignore[arg-type]
    assert attachment
    return b"".join(data for _, data in attachment.frames()).decode()


def image_with(home: Engine, change: Callable[[Path], object], *changes: str) -> str:
    """Make an image of busybox in which `change` was done to the root, and return its name."""
    container = engine.create(home, "busybox", RunOptions(command=("true",)))
    change(Path(home.containers.path(container.id, "upper")))
    engine.commit(home, container, "hostile:1", changes=changes)
    engine.remove(home, container)
    return "hostile:1"


def wait_until(true: Callable[[], bool], seconds: float = 5) -> None:
    """Wait until it is true, or fail."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
