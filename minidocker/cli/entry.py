"""The program `minidocker`, from its first to its last moment.

What starts a container begins with that: the server of shims starts while this process imports the rest, which takes
both of them about as long.
"""

import os
import sys

STARTING = ("run", "exec", "start")


def entry() -> None:
    """Run as the process's own program, and end it.

    Ctrl-c before this is answered by Python itself, which may show a traceback; after this it changes nothing any more.
    """
    _open_missing_streams()
    if sys.argv[1:2] and sys.argv[1] in STARTING and os.geteuid() == 0:
        from minidocker.container import shims

        try:
            shims.prepare()
        except OSError:  # it will be tried again, and said why it cannot be
            pass
    from minidocker.cli import interrupt
    from minidocker.cli.main import INTERRUPTED, main

    try:
        interrupt.listen()
        code = main(sys.argv[1:])
        _flush()
        interrupt.ignore()
    except KeyboardInterrupt:  # beside `main`, or a second one while it undoes something
        interrupt.ignore()
        code = INTERRUPTED
        _flush()
    os._exit(code)  # all is written and closed; to take every object apart, one by one, takes 5 ms more


def _flush() -> None:
    """Write out what was printed, while ctrl-c and a reader that has gone can still be heard."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that what is left goes nowhere


def _open_missing_streams() -> None:
    """Have an input, an output and a place for errors even where the caller has closed them, as cron jobs are started.

    Else the next files that are opened would be taken for them.
    """
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, fd)
            if opened > 2:
                os.close(opened)
            setattr(sys, name, open(fd, "r" if fd == 0 else "w", closefd=False))  # noqa: SIM115, it stays
