"""A process 1 that does what process 1 must: `run --init`.

The kernel gives every orphan of a pid namespace to its process 1, which has to wait for it; and it delivers to
process 1 only the signals that it has asked for. A program that was not written to be process 1 does neither.

See: pid_namespaces(7), "The namespace init process"; wait(2).
"""

import contextlib
import os
import signal
from typing import NoReturn

_NOT_FORWARDED = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU}


def run_beneath(terminal: bool) -> None:
    """Fork: the child returns, to become the program; the parent stays, as its init, and never returns.

    With a `terminal` the child becomes the leader of the foreground job.
    """
    forwarded = {number for number in signal.valid_signals() if number < signal.SIGRTMIN} - _NOT_FORWARDED
    signal.pthread_sigmask(signal.SIG_BLOCK, forwarded | {signal.SIGCHLD})
    child = os.fork()
    if child:
        _serve(child, forwarded)
    os.setpgid(0, 0)
    if terminal:
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        os.tcsetpgrp(0, os.getpgrp())


def _serve(child: int, forwarded: set[signal.Signals]) -> NoReturn:
    """Hand signals on to `child` and reap whoever ends, until `child` does; then exit as it did."""
    _close_all()
    while True:
        number = signal.sigwait(forwarded | {signal.SIGCHLD})
        if number == signal.SIGCHLD:
            status = reap(child)
            if status is not None:
                os._exit(status)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)


def reap(child: int) -> int | None:
    """Wait for every process that has ended; return the exit status of `child` if it was among them, as a shell would.

    One SIGCHLD may stand for many: signals do not queue.
    """
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            found = code if code >= 0 else 128 - code


def _close_all() -> None:
    """Keep no descriptor: the streams are the program's, and their readers wait for the last writer to close."""
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
