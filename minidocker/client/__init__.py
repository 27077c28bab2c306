"""The engine for programs, in the shape of docker's own Python library: what is learned here carries over.

    client = minidocker.from_env()
    client.containers.run("busybox", "echo hello")            # b"hello\\n"
    web = client.containers.run("web", detach=True, ports={"80/tcp": 8080})
    web.logs(), web.exec_run("ps"), web.stop()

Objects are handles: they hold an id and look the rest up when it is asked for. Safe to use from threads.

See: docker-py's reference, Client, Images, Containers.
"""

import os

from minidocker import __version__, errors
from minidocker import engine as stories
from minidocker.client.containers import Container, ContainerCollection, ExecResult
from minidocker.client.images import Image, ImageCollection
from minidocker.engine import Engine

__all__ = ["Client", "Container", "ExecResult", "Image", "errors", "from_env"]


def from_env(root: str = "", run: str = "") -> "Client":
    """Return a client on this machine's engine: on MINIDOCKER_ROOT and MINIDOCKER_RUN, or the usual folders.

    An ordinary user's process enters the user namespace of the user's containers, and is root there from then on. One
    that has threads cannot: raises StartError, which says how it is started inside.
    """
    if os.geteuid() != 0:
        import warnings

        from minidocker.container import rootless

        root, run = rootless.folders(root, run)
        rootless.enter(run, warnings.warn)
    return Client(stories.open_engine(root, run))


class Client:
    """One engine. `images` and `containers` are the collections of what it has."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.images = ImageCollection(engine)
        self.containers = ContainerCollection(engine)

    def ping(self) -> bool:
        """Say that the engine is there: it always is, there is no server that could be down."""
        return True

    def login(self, username: str, password: str, registry: str = "docker.io") -> dict[str, str]:
        """Let a registry confirm name and password, and keep them for `pull` and `push`. Raises: RegistryError."""
        from minidocker.registry import client

        client.login(registry, username, password)
        return {"Status": "Login Succeeded"}

    def version(self) -> dict[str, str]:
        """Return the version of this package and of the kernel."""
        return {"Version": __version__, "KernelVersion": os.uname().release, "Os": "linux", "Arch": os.uname().machine}

    def close(self) -> None:
        """Do nothing: no connection is kept."""
