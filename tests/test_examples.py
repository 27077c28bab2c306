"""The examples, used as a reader uses them: the ssh server is logged in to, the guest book is signed and read."""

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

import pytest

from conftest import Minidocker
from peers import free_port

EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples")
BUILD = 300

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]


def until(condition: Callable[[], str], seconds: float = 20) -> str:
    """Return the first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.1)
    return value


def fetch(url: str, form: dict[str, str] | None = None) -> str:
    """Return a page, "" where nobody answers yet."""
    data = urllib.parse.urlencode(form).encode() if form else None
    try:
        with urllib.request.urlopen(url, data, timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, ConnectionError):
        return ""


def log_in(port: str, command: str) -> str:
    """Run a command through a real ssh log-in by password."""
    options = [*("-o", "StrictHostKeyChecking=no"), *("-o", "UserKnownHostsFile=/dev/null"), *("-o", "LogLevel=ERROR")]
    ssh = ["sshpass", "-p", "screencast", "ssh", *options, "-p", port, "root@127.0.0.1", command]
    return subprocess.run(ssh, capture_output=True, text=True, timeout=30, check=False).stdout


def test_ssh_server(minidocker: Minidocker, debian_image: str) -> None:
    built = minidocker.ok("build", "-t", "eg_sshd", f"{EXAMPLES}/sshd", timeout=BUILD)
    assert "Step 11/11 : CMD" in built
    container = minidocker.ok("run", "-d", "-P", "--name", "test_sshd", "eg_sshd")
    port = minidocker.ok("port", "test_sshd", "22").split()[0].rpartition(":")[2]
    assert f"0.0.0.0:{port}->22/tcp" in minidocker.ok("ps")
    said = until(lambda: log_in(port, "hostname; id -u; tail -n 1 /etc/profile; cat /etc/issue"))
    assert said.splitlines()[:3] == [container[:12], "0", "export VISIBLE=now"]
    assert "Debian GNU/Linux 12" in said


def test_web_application(minidocker: Minidocker, debian_image: str, tmp_path: os.PathLike[str]) -> None:
    context, data = f"{tmp_path}/web", f"{tmp_path}/data"
    shutil.copytree(f"{EXAMPLES}/web", context)
    os.mkdir(data)
    os.chmod(data, 0o777)
    minidocker.ok("build", "-t", "guestbook:1.0", context, timeout=BUILD)
    with open(f"{context}/README.md", "w") as file:
        file.write("ignored")
    assert minidocker.ok("build", "-t", "guestbook:1.0", context).count("Using cache") == 14
    with open(f"{context}/templates/index.html", "a") as file:
        file.write("<!-- second edition -->\n")
    rebuilt = minidocker.ok("build", "--build-arg", "VERSION=2.0", "-t", "guestbook:2.0", context)
    assert rebuilt.count("Using cache") == 4
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    run = ["run", "-d", "-p", f"{port}:80", "-v", f"{data}:/data", "-m", "128m", "--name", "web"]

    minidocker.ok(*run, "guestbook:1.0")
    until(lambda: fetch(f"{url}health"))
    assert "Hello there" in fetch(url, {"name": "Ada", "words": "Hello there"})
    assert "--accent" in fetch(f"{url}static/style.css")
    assert "signed by Ada" in minidocker("logs", "web").stderr
    minidocker.ok("rm", "-f", "web")

    minidocker.ok(*run, "guestbook:2.0")
    page = until(lambda: fetch(url))
    assert "version 2.0" in page and "second edition" in page and "Hello there" in page
    minidocker.ok("rm", "-f", "web")

    minidocker.ok(*run, "guestbook:1.0")
    page = until(lambda: fetch(url))
    assert "version 1.0" in page and "second edition" not in page and "Hello there" in page
