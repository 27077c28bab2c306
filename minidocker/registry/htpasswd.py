"""The registry server's users: a file of `name:bcrypt-hash` lines, as `htpasswd -B` writes it.

See: htpasswd(1); distribution, docs/configuration.md, htpasswd.
"""

import os
import threading
from hashlib import sha256

from minidocker.errors import InvalidArgument

# What an unknown user's password is compared with, so that the answer takes as long as for a known one.
NOBODY = b"$2b$10$abcdefghijklmnopqrstuuwQnCLdRL9HbZpNCSRJGe3y2VTTGRqLG"


class Passwords:
    """The users in the file at `path`, which is read again whenever it has changed. Safe to share among threads."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] = (0, 0, 0)
        self._users: dict[str, bytes] = {}
        self._confirmed: set[bytes] = set()  # hashes of names and passwords that were right: bcrypt is slow on purpose
        self._lock = threading.Lock()
        self._refresh()

    def allow(self, username: str, password: str) -> bool:
        """Say whether the file has this user with this password."""
        import bcrypt

        with self._lock:
            self._refresh()
            seen = sha256(f"{username}\0{password}".encode()).digest()
            if seen in self._confirmed:
                return True
            hashed = self._users.get(username)
        try:
            right = bcrypt.checkpw(password.encode()[:72], hashed or NOBODY)
        except ValueError:
            return False
        if not (right and hashed):
            return False
        with self._lock:
            if self._users.get(username) == hashed:
                self._confirmed.add(seen)
        return True

    def _refresh(self) -> None:
        """Read the file if it has changed. Raises InvalidArgument for hashes other than bcrypt's."""
        found = os.stat(self.path)
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp == self._stamp:
            return
        users = {}
        with open(self.path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip() or line.startswith("#"):
                    continue
                name, _, hashed = line.strip().partition(":")
                if not hashed.startswith("$2"):
                    raise InvalidArgument(f"{self.path}, line {number}: not a bcrypt hash; make it with htpasswd -B")
                users[name] = hashed.encode()
        self._users, self._stamp, self._confirmed = users, stamp, set()
