"""The credentials file, docker's own: what `login` keeps and `logout` forgets, shared with docker and podman.

`$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`: `{"auths": {HOST: {"auth": base64(name:password)}}}`.
Keys that mean nothing to us are kept. The file is for its owner's eyes only.

See: docker login, "Privileged user requirement" and "Credentials store".
"""

import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minidocker.errors import InvalidArgument, RegistryError
from minidocker.registry.auth import Credentials

HUB = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"

Config = dict[str, Any]


def path() -> str:
    """Return where the credentials file is, or would be."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    return f"{folder}/config.json"


def key(host: str) -> str:
    """Return the name under which docker's tools keep the credentials of `host`; docker.io has a historical one."""
    return HUB_KEY if host in (HUB, "index.docker.io", "registry-1.docker.io") else host


def load(host: str) -> Credentials | None:
    """Return what is kept for `host`, or None. Raises RegistryError where it is garbled, or a helper keeps it."""
    config = _read()
    entry = _entry(config, host)
    helper = (config.get("credHelpers") or {}).get(key(host)) or config.get("credsStore")
    if not entry or not (entry.get("auth") or entry.get("identitytoken")):
        if entry is not None and helper:
            raise RegistryError(
                f"the credentials of {host} are kept by docker-credential-{helper}, which minidocker does not ask; "
                f"log in with DOCKER_CONFIG set to another folder"
            )
        return None
    try:
        username, _, password = b64decode(entry.get("auth", ""), validate=True).decode().partition(":")
    except ValueError as error:
        raise RegistryError(f"{path()}: the entry of {host} is garbled; log in again") from error
    return Credentials(username, password.rstrip("\0"), entry.get("identitytoken", ""))


def store(host: str, credentials: Credentials) -> None:
    """Keep `credentials` for `host`, in place of what was kept before."""
    text = f"{credentials.username}:{credentials.password}".encode()
    with _changing() as config:
        config.setdefault("auths", {})[key(host)] = {"auth": b64encode(text).decode()}


def erase(host: str) -> bool:
    """Forget what is kept for `host`; say whether there was anything."""
    if _entry(_read(), host) is None:
        return False
    with _changing() as config:
        for name in [name for name in config["auths"] if _host(name) == _host(key(host))]:
            del config["auths"][name]
    return True


def _entry(config: Config, host: str) -> Config | None:
    """Find `host` among the entries, also where an old tool wrote it as a URL."""
    auths = config.get("auths") or {}
    exact = auths.get(key(host))
    return (
        exact if exact is not None else next((auths[name] for name in auths if _host(name) == _host(key(host))), None)
    )


def _host(name: str) -> str:
    return name.partition("://")[2].partition("/")[0] if "://" in name else name.partition("/")[0]


def _read() -> Config:
    """Return the file's content; nothing where there is no file. Raises InvalidArgument where it is not JSON."""
    import json

    try:
        with open(path(), "rb") as file:
            config = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise InvalidArgument(f"{path()}: not JSON ({error}); mend it or move it away, then log in again") from error
    if not isinstance(config, dict) or not isinstance(config.get("auths") or {}, dict):
        raise InvalidArgument(f"{path()}: not a docker configuration; mend it or move it away, then log in again")
    return config


@contextmanager
def _changing() -> Iterator[Config]:
    """Yield the file's content to change; it is replaced as a whole, and readable by its owner alone (mode 0600)."""
    import fcntl
    import json

    target = os.path.realpath(path())  # a link stays a link
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    folder = os.open(os.path.dirname(target), os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        config = _read()
        yield config
        temporary = f"{target}.{os.getpid()}.tmp"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "w") as file:
            json.dump(config, file, indent="\t")
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, target)
    finally:
        os.close(folder)
