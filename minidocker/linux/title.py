"""What `ps` shows of this process."""

import ctypes

_ARG_END = 46  # field 49 of proc_pid_stat(5), counted from the one behind the program's name


def set_title(title: bytes) -> None:
    """Write over the last argument of this process's command line, which has to be as long.

    A process that was forked has its parent's. The kernel shows what lies in the process's own memory, between two
    addresses that it also tells (as 0 to whom it does not trust).
    """
    with open("/proc/self/stat", "rb") as file:
        end = int(file.read().rpartition(b")")[2].split()[_ARG_END])
    if end:
        ctypes.memmove(end - 1 - len(title), title, len(title))
