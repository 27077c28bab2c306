"""Open the course in JupyterLab: what `make lab` does when everything is set up.

Root works as root; an ordinary user inside the user namespace in which their minidocker works, so that notebooks,
which have threads, reach the same containers. Options that are not known here are JupyterLab's.

JupyterLab runs as a child in a session of its own: what it logs goes to a file, so that one address is left to read,
and ctrl-c, which it would ask about, ends it. Its settings for the course are in labconfig/.
"""

import argparse
import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any, NoReturn

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
COURSE = os.path.realpath(os.environ.get("MINIDOCKER_COURSE") or PROJECT)
PROGRAMS = os.path.dirname(sys.executable)
FIRST = "notebooks/00_overview.ipynb"
SECONDS = 60  # the most that JupyterLab may take to start


def command(options: argparse.Namespace, port: int) -> list[str]:
    """Return the words that start JupyterLab."""
    address = [f"--ServerApp.ip={options.ip}", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    browser = [] if _has_display() and not options.no_browser else ["--no-browser"]
    lab = [f"{PROGRAMS}/jupyter-lab", "--allow-root", f"--ServerApp.root_dir={COURSE}", *address, *browser]
    lab += [*options.more, FIRST]
    return lab if os.geteuid() == 0 else [f"{PROGRAMS}/minidocker", "unshare", *lab]


def environment() -> dict[str, str]:
    """Return the environment for JupyterLab and its kernels."""
    paths = [f"{PROJECT}/scripts", *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])]
    return {
        "JUPYTER_TOKEN": secrets.token_hex(16),
        **os.environ,
        "JUPYTER_CONFIG_PATH": os.pathsep.join(paths),
        "PATH": f"{PROGRAMS}:{os.environ.get('PATH', os.defpath)}",
    }


def running(port: int = 0) -> str:
    """Return the address of this user's JupyterLab that shows the course, at that port or any; "" for none."""
    from jupyter_server.serverapp import list_running_servers

    for server in list_running_servers():
        if server["root_dir"] == COURSE and port in (0, server["port"]):
            return address(server)
    return ""


def address(server: dict[str, Any]) -> str:
    """Return what to open in a browser, from what a server tells of itself."""
    everywhere = ("", "0.0.0.0", "::")  # noqa: S104 (compared with, not listened at)
    host = "localhost" if server["hostname"] in everywhere else server["hostname"]
    token = f"?token={server['token']}" if server["token"] else ""
    secure = "s" if server["secure"] else ""
    return f"http{secure}://{host}:{server['port']}{server['base_url']}lab/tree/{FIRST}{token}"


def free_port(ip: str, wanted: int) -> int:
    """Return the first port from `wanted` on at which nobody listens."""
    for port in range(wanted, wanted + 100):
        try:
            socket.create_server((ip, port)).close()
        except OSError as error:
            reason = error
        else:
            return port
    raise SystemExit(f"no port from {wanted} on is free at {ip} ({reason}): name another one with --port")


def start(words: list[str], port: int, log: str) -> "subprocess.Popen[bytes]":
    """Start JupyterLab, and return it when it answers."""
    with open(log, "wb") as file:
        lab = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=COURSE,
            env=environment(),
            start_new_session=True,
        )
    deadline = time.monotonic() + SECONDS
    try:
        while not running(port):
            if lab.poll() is not None or time.monotonic() > deadline:
                with open(log, errors="replace") as said:
                    raise SystemExit(f"JupyterLab does not start:\n{''.join(said.readlines()[-20:])}")
            time.sleep(0.1)
    except BaseException:
        if lab.poll() is None:
            end(lab)
        raise
    return lab


def end(lab: "subprocess.Popen[bytes]") -> None:
    """End JupyterLab and its kernels, whatever is pressed meanwhile. Containers go on, as they do after any command."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # the terminal may be gone
        print("\nClosing …", flush=True)
    lab.terminate()
    try:
        lab.wait(10)
    except subprocess.TimeoutExpired:
        lab.kill()
        lab.wait()


def _has_display() -> bool:
    """Say whether a browser can open a window; one that draws in this terminal would be in the way."""
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Open the course in JupyterLab.", epilog="More options: JupyterLab's.")
    parser.add_argument("--ip", default="localhost", help="where to listen; 0.0.0.0 is for all who reach this machine")
    parser.add_argument("--port", type=int, default=8888, help="where to listen; the next one where it is taken")
    parser.add_argument("--no-browser", action="store_true", help="only tell the address")
    options, more = parser.parse_known_args(words)
    for word in more:
        if not re.fullmatch(r"--\w+\.\w+=.*", word):  # JupyterLab would pass over it without a word
            parser.error(f"{word} is no option; JupyterLab's are written in full: --ServerApp.name=value")
    options.more = more
    return options


def main(words: list[str]) -> int:
    """Keep JupyterLab until it ends or ctrl-c is pressed."""
    options = _options(words)
    if there := running():
        print(f"The course is open already:\n\n    {there}\n\nTo end it, press ctrl-c where it was started.")
        if words:
            print(f"What you asked for does not count until then: {' '.join(words)}")
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    with tempfile.TemporaryDirectory(prefix="minidocker-lab-") as folder:
        log = f"{folder}/log"
        lab = None
        try:
            port = free_port(options.ip, options.port)
            lab = start(command(options, port), port, log)
            print(f"The course is open. Go to this address in a browser:\n\n    {running(port)}\n")
            print(f"Press ctrl-c to end it. (What JupyterLab logs: {log})", flush=True)
            code = lab.wait()
            print("JupyterLab has ended.")
            return code
        except KeyboardInterrupt:
            if lab:
                end(lab)
            print("The course is closed.")
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
