"""`unshare`: a program inside the user namespace in which an ordinary user is root, where all of minidocker works."""

import os

from minidocker.cli.arguments import Call, Command
from minidocker.errors import MinidockerError, StartError


def unshare(call: Call) -> int:
    """Become the program. Its minidocker uses the user's own folders, whoever it is inside."""
    from minidocker.container import rootless

    if not call.settings.run or not rootless.is_kept(call.settings.run):
        raise MinidockerError("unshare is for ordinary users: root's commands and programs need no user namespace")
    os.environ["MINIDOCKER_ROOT"], os.environ["MINIDOCKER_RUN"] = call.settings.root, call.settings.run
    rootless.stay_in_use()
    command = call.words or [os.environ.get("SHELL") or "/bin/sh"]
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise StartError(f'exec: "{command[0]}": executable file not found in $PATH', exit_code=127) from None
    except OSError as error:
        raise StartError(f'exec: "{command[0]}": {(error.strerror or "failed").lower()}', exit_code=126) from None


COMMANDS = {"unshare": Command(unshare, "[COMMAND [ARG...]]", at_most=None, stops=True)}
