"""Several transfers at once, in the order they are asked for; the first that fails ends all.

The threads are daemons: an interrupted command does not wait for a registry that has stalled.
"""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from minidocker.errors import MinidockerError
from minidocker.progress import Progress, Report

PATIENCE = 1.0

Task = Callable[[], None]


class Stopped(MinidockerError):
    """A transfer that was given up because another failed, or the user wants no more."""


class SideBySide:
    """Tasks by name, at most `limit` of them at a time; use as a context manager, which stops what still runs."""

    def __init__(self, limit: int) -> None:
        from queue import SimpleQueue

        self._limit = limit
        self._queue: SimpleQueue[tuple[str, Task] | None] = SimpleQueue()
        self._ended: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._stop = threading.Event()

    def start(self, name: str, task: Task, ended: threading.Event | None = None) -> None:
        """Let `task` run as soon as it is its turn; `ended` is set when it has, or another has failed."""
        self._ended[name] = ended or threading.Event()
        self._queue.put((name, task))
        if len(self._threads) < self._limit:
            thread = threading.Thread(target=self._work, daemon=True, name=f"transfer-{len(self._threads)}")
            self._threads.append(thread)
            thread.start()

    def wait(self, name: str) -> None:
        """Wait for the end of a task; raise what the first that failed has raised, whichever it was."""
        self._ended[name].wait()
        if self._failure is not None:
            raise self._failure

    def check(self) -> None:
        """Raise Stopped in a task that need not go on; it calls this now and then."""
        if self._stop.is_set():
            raise Stopped("given up, since another transfer failed")

    def _work(self) -> None:
        while item := self._queue.get():
            name, task = item
            try:
                self.check()
                task()
            except BaseException as error:  # noqa: BLE001 (it is raised again by `wait`)
                self._fail(error)
            self._ended[name].set()

    def _fail(self, error: BaseException) -> None:
        """Keep the first failure and wake whoever waits."""
        if self._failure is None and not isinstance(error, Stopped):
            self._failure = error
        self._stop.set()
        for event in list(self._ended.values()):
            event.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(PATIENCE)


def one_at_a_time(report: Report) -> Report:
    """Return a report that threads may call at once."""
    lock = threading.Lock()

    def report_alone(news: Progress) -> None:
        with lock:
            report(news)

    return report_alone
