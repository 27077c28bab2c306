"""The image being built, as one instruction leaves it to the next: its configuration and the ARGs in force."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from minidocker.image.oci import Platform, host_platform

Json = dict[str, Any]

DEFAULT_SHELL = ["/bin/sh", "-c"]
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Known without an ARG; then they are kept out of the history and of the cache's keys.
PREDEFINED = frozenset(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)


def platform_arguments(target: str) -> dict[str, str]:
    """Return the arguments that say what is built for what: TARGETPLATFORM, BUILDARCH and so on.

    `target` is a platform such as `linux/arm64/v8`, or empty for this machine's. Raises InvalidArgument.
    """
    build = host_platform()
    found: dict[str, str] = {}
    for prefix, platform in (("BUILD", build), ("TARGET", Platform.parse(target) if target else build)):
        found[f"{prefix}PLATFORM"] = "/".join(filter(None, platform))
        found |= {f"{prefix}OS": platform.os, f"{prefix}ARCH": platform.architecture}
        found[f"{prefix}VARIANT"] = platform.variant
    return found


class Arguments:
    """Which build arguments are visible where.

    `given` are those of `--build-arg`, `outside` those declared before the first FROM or known about the platform.
    A stage sees only what it declares by ARG, or what the stage it starts from has `declared`; a given value wins over
    the declared one.
    """

    def __init__(
        self, given: Mapping[str, str | None], outside: Mapping[str, str], declared: Mapping[str, str | None] = {}
    ) -> None:
        self.given = given
        self.outside = outside
        self.declared = dict(declared)
        self.consumed: set[str] = set()

    def declare(self, name: str, default: str | None) -> None:
        """Carry out one `ARG name[=default]`."""
        self.consumed.add(name)
        self.declared[name] = self.outside.get(name) if default is None else default

    def values(self) -> dict[str, str]:
        """Return the arguments that have a value, by name."""
        found: dict[str, str] = {}
        for name in sorted({*self.declared, *(PREDEFINED & self.given.keys())}):
            given = self.given.get(name)
            value = given if given is not None else self.declared.get(name)
            if value is not None:
                found[name] = value
        return found


class Draft:
    """A configuration that the instructions of one stage change in turn."""

    def __init__(self, config: Json, author: str, arguments: Arguments) -> None:
        self.config = deepcopy(config)
        self.author = author
        self.arguments = arguments
        self.command_set = False
        if "PATH" not in self.environment():
            self.config["Env"] = [DEFAULT_PATH, *(self.config.get("Env") or [])]

    @property
    def shell(self) -> list[str]:
        """Give the words that SHELL put before a command in shell form."""
        return list(self.config.get("Shell") or DEFAULT_SHELL)

    @property
    def workdir(self) -> str:
        """Name the directory that relative paths start from."""
        return str(self.config.get("WorkingDir") or "/")

    def environment(self) -> dict[str, str]:
        """Return what ENV set, by name."""
        pairs = (entry.partition("=") for entry in self.config.get("Env") or [])
        return {name: value for name, _, value in pairs}

    def set_environment(self, name: str, value: str) -> None:
        """Set one variable, in the place where it was or at the end."""
        environment = self.environment() | {name: value}
        self.config["Env"] = [f"{key}={text}" for key, text in environment.items()]

    def variables(self) -> dict[str, str]:
        """Return what `$name` stands for: ENV wins over ARG."""
        return self.arguments.values() | self.environment()

    def run_arguments(self) -> dict[str, str]:
        """Return the ARGs that a RUN gets as environment variables: those that no ENV hides."""
        environment = self.environment()
        return {name: value for name, value in self.arguments.values().items() if name not in environment}

    def shown_arguments(self) -> list[str]:
        """Return those of them that count: not the proxies that nobody declared."""
        declared = self.arguments.declared
        return [f"{name}={value}" for name, value in self.run_arguments().items() if name in declared]
