"""Ordinary users to try minidocker with: made for one test, with subordinate ids or without, and gone after it.

Such a user sees the machine as it is, with two things put right in a mount namespace of the user's own: the interpreter
and the project can be reached wherever they lie, and anybody may open /dev/net/tun, as udev has it everywhere.
"""

import contextlib
import os
import pwd
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from terminal import Terminal

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_HOLD = """
set -e
for path in "$@"; do
    closed=$path; top=
    while [ "$closed" != / ]; do case $(stat -c %A "$closed") in *x|*t) ;; *) top=$closed;; esac; closed=${closed%/*}
        [ -n "$closed" ] || closed=/; done
    [ -n "$top" ] || continue
    mkdir -p "$HELD/tree"; mount --bind "$path" "$HELD/tree"; mount -t tmpfs -o mode=755 none "$top"
    mkdir -p "$path"; mount --move "$HELD/tree" "$path"
done
if [ -c /dev/net/tun ]; then mount --bind "$HELD/tun" /dev/net/tun; fi
echo ready
exec sleep infinity
"""


class Ordinary:
    """A user of this machine, and the command `minidocker` as this user types it."""

    def __init__(self, name: str, base: str, keeper: int) -> None:
        self.name = name
        self.base = base
        self.keeper = keeper
        self.account = pwd.getpwnam(name)
        self.runtime = f"{base}/runtime"
        self.env = {"PATH": os.environ["PATH"], "HOME": self.account.pw_dir, "USER": name, "LANG": "C.UTF-8"}
        self.env |= {"XDG_RUNTIME_DIR": self.runtime, "PYTHONDONTWRITEBYTECODE": "1"}
        self.minidocker = [os.path.join(os.path.dirname(sys.executable), "minidocker")]

    @property
    def root(self) -> str:
        """Where the user's images and containers are."""
        return f"{self.account.pw_dir}/.local/share/minidocker"

    @property
    def run(self) -> str:
        """Where the user's run-time files are."""
        return f"{self.runtime}/minidocker"

    def argv(self, command: list[str], env: dict[str, str] | None = None) -> list[str]:
        """Return the words by which root has the user run a command."""
        become = ["setpriv", f"--reuid={self.account.pw_uid}", f"--regid={self.account.pw_gid}", "--init-groups"]
        variables = [f"{name}={value}" for name, value in {**self.env, **(env or {})}.items()]
        enter = ["nsenter", f"--mount=/proc/{self.keeper}/ns/mnt", "--"]
        return [*enter, *become, "env", "-i", "-C", self.account.pw_dir, *variables, *command]

    def command(
        self, *command: str, input: str = "", timeout: float = 60, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run any command as the user, to its end."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:  # a pipe would wait for what stays
            argv = self.argv(list(command), env)
            done = subprocess.run(argv, input=input.encode(), stdout=out, stderr=err, timeout=timeout, check=False)
            out.seek(0)
            err.seek(0)
            texts = [file.read().decode(errors="surrogateescape") for file in (out, err)]
        return subprocess.CompletedProcess(list(command), done.returncode, *texts)

    def __call__(
        self, *args: str, input: str = "", timeout: float = 60, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `minidocker args…` to its end; look at `returncode`, `stdout` and `stderr`."""
        return self.command(*self.minidocker, *args, input=input, timeout=timeout, env=env)

    def ok(self, *args: str, input: str = "", timeout: float = 60, env: dict[str, str] | None = None) -> str:
        """Run `minidocker args…`, require that it succeeds and return what it printed, without the last newline."""
        done = self(*args, input=input, timeout=timeout, env=env)
        assert done.returncode == 0, f"minidocker {' '.join(args)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.rstrip("\n")

    def start(self, *args: str) -> "subprocess.Popen[bytes]":
        """Start `minidocker args…` and do not wait for it."""
        null = subprocess.DEVNULL
        return subprocess.Popen(self.argv([*self.minidocker, *args]), stdin=null, stdout=null, stderr=null)

    def pty(self, *args: str) -> Terminal:
        """Start `minidocker args…` on a terminal of its own; use as a context manager."""
        return Terminal(self.argv([*self.minidocker, *args], {"TERM": "xterm"}))

    def processes(self) -> dict[int, str]:
        """Return the processes that are the user's, or of the user's subordinate ids, with their command lines."""
        found = {}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
                facts = dict(line.rstrip().split(":", 1) for line in status if ":" in line)
                uid = int(facts["Uid"].split()[0])
                if facts["State"].split()[0] == "Z":
                    continue  # over, and only not waited for
                if uid == self.account.pw_uid or (self._first and self._first <= uid < self._first + 65536):
                    with open(f"/proc/{pid}/cmdline") as file:
                        found[pid] = file.read().replace("\0", " ").strip()
        return found

    @property
    def _first(self) -> int:
        with open("/etc/subuid") as file:
            return next((int(line.split(":")[1]) for line in file if line.startswith(f"{self.name}:")), 0)

    def end_all(self) -> None:
        """Kill whatever of the user's runs."""
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


@contextlib.contextmanager
def ordinary_user(subordinate: bool, storage: str = "/tmp") -> Iterator[Ordinary]:
    """Make a user, with subordinate ids or without; afterwards end what the user runs, and remove user and files."""
    base = tempfile.mkdtemp(prefix="mdu", dir=storage)
    os.chmod(base, 0o755)
    name = f"md{os.path.basename(base)[3:].lower().replace('_', 'x')}"
    keeper = None
    try:
        _run("useradd", "--no-log-init", "--home-dir", f"{base}/home", "--create-home", "--shell", "/bin/sh", name)
        _share_out_ids(name, subordinate)
        account = pwd.getpwnam(name)
        for folder in ("runtime", "held"):
            os.mkdir(f"{base}/{folder}", 0o700)
        os.chown(f"{base}/runtime", account.pw_uid, account.pw_gid)
        os.mknod(f"{base}/held/tun", 0o20666, os.makedev(10, 200))
        os.chmod(f"{base}/held/tun", 0o666)
        keeper = _keeper(f"{base}/held", sys.base_prefix, PROJECT)
        user = Ordinary(name, base, keeper.pid)
        try:
            yield user
        finally:
            user.end_all()
    finally:
        if keeper:
            keeper.kill()
            keeper.wait()
        subprocess.run(["userdel", "--force", name], check=False, capture_output=True)
        shutil.rmtree(base, ignore_errors=True)


def _keeper(held: str, *paths: str) -> "subprocess.Popen[bytes]":
    """Start the process that keeps the mount namespace in which the user can reach `paths`."""
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _HOLD, "sh", *paths]
    keeper = subprocess.Popen(argv, stdout=subprocess.PIPE, env={**os.environ, "HELD": held})
    assert keeper.stdout
    assert keeper.stdout.readline() == b"ready\n", "the user's mount namespace could not be made"
    return keeper


def _share_out_ids(name: str, subordinate: bool) -> None:
    """Take away what subordinate ids useradd gave; give 65536 that nobody else has, or none.

    Not the next free ones: those are what root's containers and graders use meanwhile, and the user's end would be
    theirs.
    """
    first_id = 65536 * random.randrange(16, 30_000)  # noqa: S311, it is no secret
    for kind, option in (("subuid", "uids"), ("subgid", "gids")):
        with open(f"/etc/{kind}") as file:
            lines = [line.strip().split(":") for line in file]
        for owner, first, count in lines:
            if owner == name:
                _run("usermod", f"--del-sub{option}", f"{first}-{int(first) + int(count) - 1}", name)
        if subordinate:
            _run("usermod", f"--add-sub{option}", f"{first_id}-{first_id + 65535}", name)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
