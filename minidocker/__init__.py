"""minidocker: a container engine made to be read.

    import minidocker
    client = minidocker.from_env()
    client.containers.run("busybox", "echo hello")

`minidocker.client` is this API, in the shape of docker's own Python library; `minidocker.engine` tells the stories.
"""

TYPE_CHECKING = False  # see `minidocker.explain`

if TYPE_CHECKING:
    from minidocker.client import Client

__version__ = "0.1.0"


def from_env(root: str = "", run: str = "") -> "Client":
    """Return a client on this machine's engine: on MINIDOCKER_ROOT and MINIDOCKER_RUN, or the usual folders."""
    from minidocker import client

    return client.from_env(root, run)
