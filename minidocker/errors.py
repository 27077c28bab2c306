"""Every way minidocker itself can fail, as one small tree.

The operating system's failures stay `OSError`. Everything else that a caller may want to tell apart is here.
Messages are lower case, say what was asked, what is wrong and what to do next. Only `minidocker.cli` turns them
into exit codes.
"""


class MinidockerError(Exception):
    """The root of the tree: something the user can understand and mostly mend."""


class InvalidArgument(MinidockerError):
    """An option or argument has a value that cannot be meant."""


class InvalidReference(MinidockerError):
    """An image name that is not of the form `[domain/]path[:tag][@digest]`."""


class ImageNotFound(MinidockerError):
    """No image of that name or id in the store."""


class AmbiguousPrefix(MinidockerError):
    """An abbreviated id that more than one image or container begins with."""


class InvalidManifest(MinidockerError):
    """A manifest, index or image configuration that is not what the specification says it must be."""


class DigestMismatch(MinidockerError):
    """Bytes that are not the bytes their digest or size promised."""


class UnsafeLayer(MinidockerError):
    """A layer that is broken, or that would write outside its own folder."""


class Conflict(MinidockerError):
    """What was asked for cannot be done while something else is as it is: a name taken, an image in use."""


class DockerfileError(MinidockerError):
    """A Dockerfile that cannot be understood.

    `line` is the number of the line at fault, counted from 1; 0 when no single line is.
    """

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class BuildError(MinidockerError):
    """A build step that failed. `exit_code` is that of the RUN command, 1 where there was none."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RegistryError(MinidockerError):
    """A registry that could not be reached or that refused. `status` is the HTTP status, 0 where there was none."""

    def __init__(self, message: str, url: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.url = url
        self.status = status


class ContainerNotFound(MinidockerError):
    """No container of that name or id."""


class ContainerStateError(MinidockerError):
    """The container is running and must not be, or the other way round."""


class StartError(MinidockerError):
    """The container could not be started. `exit_code` is docker's: 127 not found, 126 not executable, 125 the rest."""

    def __init__(self, message: str, exit_code: int = 125) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class NetworkError(MinidockerError):
    """The container's network could not be set up: a port in use, no address left, no nftables."""


class ContainerError(MinidockerError):
    """A program that ended with another exit code than 0, where it was run for what it writes."""

    def __init__(self, container: str, exit_status: int, command: str, image: str, stderr: bytes) -> None:
        super().__init__(
            f"command '{command}' in image '{image}' returned non-zero exit status {exit_status}: "
            f"{stderr.decode(errors='replace')}"
        )
        self.container = container
        self.exit_status = exit_status
        self.command = command
        self.image = image
        self.stderr = stderr
