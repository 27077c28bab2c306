"""The options of `run` and `create`: what they are, and the `RunOptions` that a command line means."""

import os
from collections.abc import Callable, Iterable
from typing import Any

from minidocker.cli.arguments import Call, Option, decimal, labels, whole_number
from minidocker.container import grants, options, ports
from minidocker.container.options import RunOptions
from minidocker.container.spec import Mount, Port
from minidocker.errors import InvalidArgument

NETWORKS = ("bridge", "none", "host")
_IOPS = "parse_operations"


def _lazily(name: str) -> Callable[[str], Any]:
    """Return what checks a value with `minidocker.container.options.<name>`."""
    return lambda text: getattr(options, name)(text)


def environment_variable(text: str) -> str:
    """Check `NAME=value` or `NAME`."""
    if not text.partition("=")[0]:
        raise InvalidArgument(f"invalid environment variable: {text}")
    return text


def extra_host(text: str) -> str:
    """Check `name:address`."""
    import socket

    name, _, address = text.partition(":")
    if not name or not address:
        raise InvalidArgument(f'bad format for add-host: "{text}"')
    try:
        if address != "host-gateway":
            socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address.strip("[]"))
    except OSError:
        raise InvalidArgument(f'invalid IP address in add-host: "{address}"') from None
    return text


def _stream_name(text: str) -> str:
    if text.lower() not in ("stdin", "stdout", "stderr"):
        raise InvalidArgument("valid streams are STDIN, STDOUT and STDERR")
    return text.lower()


def _pull_policy(text: str) -> str:
    if text not in ("always", "missing", "never"):
        raise InvalidArgument('must be one of "always", "missing" or "never"')
    return text


def _granted(reader: str) -> Callable[[str], Any]:
    """Return one of the readers in `minidocker.container.grants`."""
    return lambda text: getattr(grants, reader)(text)


def _userns(text: str) -> str:
    if text not in ("", "host", "remap"):
        raise InvalidArgument("invalid USER mode: it is remap or host")
    return text


def _network(text: str) -> str:
    if text not in (*NETWORKS, "default"):
        raise InvalidArgument(f"network {text} not found: there are {', '.join(NETWORKS)}")
    return text.replace("default", "bridge")


OPTIONS = (
    Option("add-host", "list", "Add a custom host-to-IP mapping (host:ip)", read=extra_host),
    Option("attach", "list", "Attach to STDIN, STDOUT or STDERR", "a", read=_stream_name),
    Option("blkio-weight", "uint16", "Block IO (relative weight), between 10 and 1000", "", 0, _lazily("parse_weight")),
    Option("cap-add", "list", "Add Linux capabilities"),
    Option("cap-drop", "list", "Drop Linux capabilities"),
    Option("cidfile", "string", "Write the container ID to the file", default=""),
    Option("cpus", "decimal", "Number of CPUs", default=0.0, read=decimal),
    Option("device", "list", "Add a host device to the container", read=_granted("parse_device")),
    Option("device-read-bps", "list", "Limit read rate (bytes per second) from a device", read=_lazily("parse_rate")),
    Option("device-read-iops", "list", "Limit read rate (IO per second) from a device", read=_lazily(_IOPS)),
    Option("device-write-bps", "list", "Limit write rate (bytes per second) to a device", read=_lazily("parse_rate")),
    Option("device-write-iops", "list", "Limit write rate (IO per second) to a device", read=_lazily(_IOPS)),
    Option("entrypoint", "string", "Overwrite the default ENTRYPOINT of the image"),
    Option("env", "list", "Set environment variables", "e", read=environment_variable),
    Option("env-file", "list", "Read in a file of environment variables"),
    Option("expose", "list", "Expose a port or a range of ports"),
    Option("hostname", "string", "Container host name", "h", ""),
    Option("init", "bool", "Run an init inside the container that forwards signals and reaps processes"),
    Option("interactive", "bool", "Keep STDIN open even if not attached", "i"),
    Option("label", "list", "Set meta data on a container", "l"),
    Option("label-file", "list", "Read in a line delimited file of labels"),
    Option("memory", "bytes", "Memory limit", "m", 0, _lazily("parse_memory")),
    Option("mount", "list", "Attach a filesystem mount to the container (type=bind|volume|tmpfs,source=,target=)"),
    Option("name", "string", "Assign a name to the container", default=""),
    Option("network", "string", "Connect a container to a network (bridge|none|host)", default="", read=_network),
    Option("net", "string", "The same as --network", default="", read=_network),
    Option("pids-limit", "int", "Tune container pids limit (set -1 for unlimited)", default=0, read=whole_number),
    Option("platform", "string", "Choose the image for this platform (os/architecture[/variant])", default=""),
    Option("privileged", "bool", "Give extended privileges to this container"),
    Option("publish", "list", "Publish a container's port(s) to the host", "p"),
    Option("publish-all", "bool", "Publish all exposed ports to random ports", "P"),
    Option("pull", "string", 'Pull image before running ("always"|"missing"|"never")', "", "missing", _pull_policy),
    Option("read-only", "bool", "Mount the container's root filesystem as read only"),
    Option("rm", "bool", "Automatically remove the container when it exits"),
    Option("security-opt", "list", "Security Options (no-new-privileges, seccomp=FILE, seccomp=unconfined)"),
    Option("stop-signal", "string", "Signal to stop a container (default that of the image, or SIGTERM)", default=""),
    Option("sysctl", "list", "Sysctl options", read=_granted("parse_sysctl")),
    Option("tmpfs", "list", "Mount a tmpfs directory"),
    Option("tty", "bool", "Allocate a pseudo-TTY", "t"),
    Option(
        "userns", "string", "User namespace to use (remap|host; default $MINIDOCKER_USERNS)", default="", read=_userns
    ),
    Option("user", "string", "Username or UID (format: <name|uid>[:<group|gid>])", "u", ""),
    Option("ulimit", "list", "Ulimit options", read=_granted("parse_ulimit")),
    Option("volume", "list", "Bind mount a volume", "v"),
    Option("workdir", "string", "Working directory inside the container", "w", ""),
)


def run_options(call: Call, detach: bool) -> RunOptions:
    """Return what a command line of `run` or `create` asks for.

    Raises: InvalidArgument, OSError for a file that cannot be read.
    """
    entrypoint: str | None = call["entrypoint"]
    if call["stop-signal"]:
        options.parse_signal(call["stop-signal"])
    return RunOptions(
        command=tuple(call.words[1:]),
        name=call["name"],
        entrypoint=None if entrypoint is None else ((entrypoint,) if entrypoint else ()),
        env=environment(call["env"], call["env-file"]),
        workdir=call["workdir"],
        user=call["user"],
        hostname=call["hostname"],
        labels=tuple(labels([*_lines(call["label-file"]), *call["label"]]).items()),
        terminal=call["tty"],
        interactive=call["interactive"],
        detach=detach,
        remove=call["rm"],
        read_only=call["read-only"],
        mounts=_mounts(call),
        ports=_published(call["publish"]),
        publish_all=call["publish-all"],
        expose=tuple(port for text in call["expose"] for port in ports.parse_exposed(text)),
        network=call["network"] or call["net"] or "bridge",
        extra_hosts=tuple(call["add-host"]),
        memory=call["memory"],
        cpus=call["cpus"],
        pids_limit=max(call["pids-limit"], 0),
        blkio_weight=call["blkio-weight"],
        device_read_bps=tuple(call["device-read-bps"]),
        device_read_iops=tuple(call["device-read-iops"]),
        device_write_bps=tuple(call["device-write-bps"]),
        device_write_iops=tuple(call["device-write-iops"]),
        privileged=call["privileged"],
        cap_add=tuple(call["cap-add"]),
        cap_drop=tuple(call["cap-drop"]),
        userns=call["userns"],
        devices=tuple(call["device"]),
        ulimits=tuple(call["ulimit"]),
        sysctls=tuple(dict(call["sysctl"]).items()),
        security_opt=tuple(_security(text) for text in call["security-opt"]),
        init=call["init"],
        stop_signal=call["stop-signal"],
        platform=call["platform"],
    )


def environment(given: Iterable[str], files: Iterable[str]) -> tuple[str, ...]:
    """Return `NAME=value` for what `-e` and `--env-file` say; a bare NAME takes its value from our own environment."""
    found = []
    for text in [*_lines(files), *given]:
        name, equals, _ = text.partition("=")
        if any(character.isspace() for character in name) or not name:
            raise InvalidArgument(f"poorly formatted environment: variable '{name}' contains whitespaces")
        if equals:
            found.append(text)
        elif name in os.environ:
            found.append(f"{name}={os.environ[name]}")
    return tuple(found)


def _lines(files: Iterable[str]) -> list[str]:
    """Return the lines of the files that say something: not empty, not a comment."""
    found = []
    for path in files:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = (line.rstrip("\r\n").lstrip() for line in file)
            found += [line for line in lines if line and not line.startswith("#")]
    return found


def _published(texts: Iterable[str]) -> tuple[Port, ...]:
    return tuple(port for text in texts for port in ports.parse(text))


def _mounts(call: Call) -> tuple[Mount, ...]:
    found = [options.parse_volume(text) for text in call["volume"]]
    found += [options.parse_tmpfs(text) for text in call["tmpfs"]]
    found += [parse_mount(text) for text in call["mount"]]
    targets = [mount.target.rstrip("/") for mount in found]
    for target in targets:
        if targets.count(target) > 1:
            raise InvalidArgument(f"Duplicate mount point: {target}")
    return tuple(found)


def parse_mount(text: str) -> Mount:
    """Read one `--mount`: `type=bind,source=/host,target=/in,readonly`.

    Raises: InvalidArgument, in docker's words.
    """
    fields = {"type": "volume", "source": "", "target": ""}
    names = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}
    for field in text.split(","):
        name, _, value = field.partition("=")
        fields[names.get(name.lower(), name.lower())] = value
    unknown = fields.keys() - {"type", "source", "target", "readonly", "tmpfs-size", "tmpfs-mode"}
    if unknown:
        raise InvalidArgument(f"unexpected key '{min(unknown)}' in '{text}'")
    if not fields["target"]:
        raise InvalidArgument(f"target is required in '{text}'")
    mode = ":ro" if fields.get("readonly", "false") in ("", "true", "1") else ""
    if fields["type"] == "tmpfs":
        settings = {"size": fields.get("tmpfs-size"), "mode": fields.get("tmpfs-mode")}
        return options.parse_tmpfs(
            f"{fields['target']}:{','.join(f'{name}={value}' for name, value in settings.items() if value)}"
        )
    if fields["type"] == "bind":
        if not os.path.exists(fields["source"]):
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {fields["source"]}'
            )
        return options.parse_volume(f"{fields['source']}:{fields['target']}{mode}")
    if fields["type"] != "volume":
        raise InvalidArgument(f'mount type unknown: "{fields["type"]}"')
    return options.parse_volume(f"{fields['source']}:{fields['target']}{mode}".lstrip(":"))


def _security(text: str) -> str:
    """Return one `--security-opt` with the content of the file that `seccomp=FILE` names in the place of its name.

    Raises: InvalidArgument, in docker's words.
    """
    name, separator, path = text.partition("=") if "=" in text else text.partition(":")
    if name != "seccomp" or not separator or path == "unconfined":
        return text
    try:
        with open(path, encoding="utf-8") as file:
            return f"seccomp={file.read()}"
    except OSError as error:
        reason = (error.strerror or "failed").lower()
        raise InvalidArgument(f"opening seccomp profile ({path}) failed: open {path}: {reason}") from None
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"reading seccomp profile ({path}) failed: it is not text: {error.reason}") from None
