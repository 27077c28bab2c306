"""The course in real JupyterLab: started as `make lab` starts it, used in a real browser, as a learner does."""

import concurrent.futures
import contextlib
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Locator, Page, expect, sync_playwright

from minidocker.linux import syscalls

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LAB = [sys.executable, f"{PROJECT}/scripts/lab.py", "--no-browser", "--LabApp.expose_app_in_browser=True"]
BROWSER = "/usr/bin/chromium"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
SOON, LATER = 20_000, 100_000  # milliseconds
# What every code cell of the notebook in front has come to; null while one of them waits or runs.
OUTCOME = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const cells = panel.content.widgets.filter(cell => cell.model.type === 'code').map(cell => cell.model);
    const errors = cells.flatMap(cell => cell.outputs.toJSON()
        .filter(output => output.output_type === 'error').map(error => `${cell.id}: ${error.ename}: ${error.evalue}`));
    const over = cells.every(cell => cell.executionCount && cell.executionState === 'idle');
    return over || errors.length ? {cells: cells.length, errors} : null;
}"""
READY = """path => {
    const panel = window.jupyterapp?.shell.currentWidget;
    return panel?.context?.path === path && panel.sessionContext?.session?.kernel?.status === 'idle';
}"""


def new_home(folder: str) -> dict[str, str]:
    """Copy what learners work in, so that nothing is written to the project.

    Return an environment in which the course is that copy, and Jupyter begins as on a machine that never had it.
    """
    for name in ("notebooks", "exercises", "solutions"):
        shutil.copytree(f"{PROJECT}/{name}", f"{folder}/course/{name}")
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    own = {name: f"{folder}/{name.lower()}" for name in (*names, "JUPYTERLAB_SETTINGS_DIR", "IPYTHONDIR")}
    return {**own, "MINIDOCKER_COURSE": f"{folder}/course", "MINIDOCKER_COURSE_STATE": f"{folder}/state/course.json"}


def free_port() -> int:
    """Return a port at which nobody listens; the course takes the next one where somebody else is faster."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(argv: list[str], environment: dict[str, str] | None = None) -> Iterator[str]:
    """Keep a `make lab` for the block; give the address that it tells."""
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout
    try:
        told = []
        for line in process.stdout:
            told.append(line)
            if line.strip().startswith("http"):
                break
        assert told and told[-1].strip().startswith("http"), f"no address is told: {''.join(told)}"
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        yield told[-1].strip()
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def browser(address: str, dark: bool = False) -> Iterator[Page]:
    """Give a page of a browser that nobody has used before, and that reaches the address and nothing else."""
    with (
        tempfile.TemporaryDirectory(prefix="mdb", ignore_cleanup_errors=True) as folder,
        network_to(urlsplit(address).port or 80) as namespace,
        sync_playwright() as play,
    ):
        with open(f"{folder}/browser", "w") as file:
            file.write(f'#!/bin/sh\nexec nsenter --net={namespace} {BROWSER} "$@"\n')
        os.chmod(f"{folder}/browser", 0o755)
        context = play.chromium.launch_persistent_context(
            f"{folder}/profile",
            executable_path=f"{folder}/browser",
            headless=True,
            args=FLAGS,
            viewport={"width": 1400, "height": 1000},
            color_scheme="dark" if dark else "light",
        )
        context.set_default_timeout(SOON)
        expect.set_options(timeout=SOON)
        try:
            yield context.pages[0]
        finally:
            context.close()


@contextlib.contextmanager
def network_to(port: int) -> Iterator[str]:
    """Give a network namespace, as a path, whose port is the host's, and which is otherwise empty.

    Chromium gives up its requests whenever a link comes or goes (ERR_NETWORK_CHANGED), as they do all the time where
    containers are tested.
    """
    words = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"]
    keeper = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert keeper.stdout
    assert keeper.stdout.readline() == b"ready\n", "no network namespace can be made"
    namespace = f"/proc/{keeper.pid}/ns/net"
    with concurrent.futures.ThreadPoolExecutor(1) as elsewhere:
        listener = elsewhere.submit(_listen, namespace, port).result()
    handler = type("Handler", (Relayed,), {"port": port})
    relay = Relay(("127.0.0.1", port), handler, bind_and_activate=False)
    relay.socket.close()
    relay.socket = listener
    threading.Thread(target=relay.serve_forever, daemon=True).start()
    try:
        yield namespace
    finally:
        relay.shutdown()
        relay.server_close()
        keeper.kill()
        keeper.wait()


def _listen(namespace: str, port: int) -> socket.socket:
    """Move this thread, which ends soon, to a network namespace, and listen there."""
    file = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(file, syscalls.CLONE_NEWNET)
    os.close(file)
    return socket.create_server(("127.0.0.1", port))


class Relay(socketserver.ThreadingTCPServer):
    """Listens in one network namespace, and connects in another one."""

    daemon_threads, block_on_close = True, False


class Relayed(socketserver.BaseRequestHandler):
    """One connection, carried over to a port."""

    port = 0

    def handle(self) -> None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as there:
            threading.Thread(target=self.carry, args=(there, self.request), daemon=True).start()
            self.carry(self.request, there)

    @staticmethod
    def carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


class Learner:
    """A person before JupyterLab. `notebook` is what they have opened last."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        page.goto(address)
        self.wait_for("notebooks/00_overview.ipynb")

    def wait_for(self, path: str) -> None:
        """Wait until a notebook is in front, and its kernel answers."""
        self.page.wait_for_function(READY, arg=path, timeout=LATER)

    def open(self, path: str) -> None:
        """Open a notebook by the file browser's own way: File, Open from Path."""
        self.page.get_by_role("menuitem", name="File", exact=True).click()
        self.page.get_by_text("Open from Path…", exact=True).click()
        self.page.locator(".jp-Dialog input").fill(path)
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.wait_for(path)

    def run_all(self) -> dict[str, Any]:
        """Choose Run, Run All Cells; return how many there were and the errors."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_text("Run All Cells", exact=True).click()
        outcome: dict[str, Any] = self.page.wait_for_function(OUTCOME, timeout=LATER).json_value()
        return outcome

    def cell(self, holds: str) -> Locator:
        """Return the code cell of the notebook in front that holds a text."""
        cells = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell")
        found = cells.filter(has=self.page.locator(".jp-InputArea-editor", has_text=holds)).first
        found.scroll_into_view_if_needed()
        return found

    def run(self, holds: str) -> Locator:
        """Run the cell that holds a text, and return it."""
        cell = self.cell(holds)
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")
        return cell

    def write(self, holds: str, text: str) -> None:
        """Write a text into the cell in the place of what it holds, and run it."""
        self.cell(holds).locator(".cm-content").click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.insert_text(text)
        self.page.keyboard.press("Control+Enter")
