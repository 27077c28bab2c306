"""Docker's `inspect` documents of containers and images, made from what minidocker keeps. Nothing is changed.

What docker has a field for and minidocker has nothing to say about is left out, unless programs are known to look at
it.
"""

import os
from typing import TYPE_CHECKING, Any

from minidocker.container.records import Container
from minidocker.container.spec import SECCOMP_DEFAULT, SECCOMP_UNCONFINED, Mount, Port, Spec
from minidocker.errors import ImageNotFound, InvalidManifest
from minidocker.linux import capabilities

if TYPE_CHECKING:
    from minidocker.engine import Engine
    from minidocker.image.catalog import Image

Json = dict[str, Any]

NEVER = "0001-01-01T00:00:00Z"
DRIVER = "overlay2"
_PREFIX_LENGTH = 16


def container_json(engine: "Engine", container: Container) -> Json:
    """Return docker's document of a container.

    See: docker's Engine API, "Inspect a container".
    """
    spec, folder = container.spec, engine.containers.path(container.id)
    return {
        "Id": container.id,
        "Created": container.created,
        "Path": spec.args[0] if spec.args else "",
        "Args": list(spec.args[1:]),
        "State": _state(container),
        "Image": container.image_id,
        "ResolvConfPath": f"{folder}/resolv.conf",
        "HostnamePath": f"{folder}/hostname",
        "HostsPath": f"{folder}/hosts",
        "LogPath": f"{folder}/log.json",
        "Name": f"/{container.name}",
        "RestartCount": 0,
        "Driver": DRIVER,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": _host_config(container),
        "GraphDriver": {"Data": _graph(engine, container), "Name": DRIVER},
        "Mounts": [_mount(mount) for mount in spec.mounts if mount.kind != "tmpfs"],
        "Config": _config(engine, container),
        "NetworkSettings": _network(container),
    }


def _state(container: Container) -> Json:
    state = container.state
    return {
        "Status": state.status,
        "Running": container.running,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": state.oom_killed,
        "Dead": False,
        "Pid": state.pid if container.running else 0,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": state.started or NEVER,
        "FinishedAt": state.finished or NEVER,
    }


def _host_config(container: Container) -> Json:
    spec = container.spec
    volumes = [mount for mount in spec.mounts if mount.kind == "bind" or mount.name]
    tmpfs = {mount.target: mount.options for mount in spec.mounts if mount.kind == "tmpfs"}
    usual = spec.capabilities if spec.privileged else sorted(capabilities.DEFAULT)
    bindings: Json = {}
    for port in spec.ports:
        where = {"HostIp": _asked_address(port), "HostPort": str(port.host_port or "")}
        bindings.setdefault(f"{port.container_port}/{port.protocol}", []).append(where)
    return {
        "Binds": [_bind(mount) for mount in volumes] or None,
        "ContainerIDFile": "",
        "LogConfig": {"Type": "json-file", "Config": {}},
        "NetworkMode": "default" if spec.network == "bridge" else spec.network,
        "PortBindings": bindings,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": spec.remove,
        "VolumeDriver": "",
        "VolumesFrom": None,
        "CapAdd": [name for name in spec.capabilities if name not in usual] or None,
        "CapDrop": [name for name in usual if name not in spec.capabilities] or None,
        "CgroupnsMode": "private",
        "Dns": [],
        "DnsOptions": [],
        "DnsSearch": [],
        "ExtraHosts": list(spec.extra_hosts) or None,
        "GroupAdd": None,
        "IpcMode": "private",
        "PidMode": "",
        "Privileged": spec.privileged,
        "PublishAllPorts": False,
        "ReadonlyRootfs": spec.read_only,
        "SecurityOpt": _security_opt(spec) or None,
        **({"Tmpfs": tmpfs} if tmpfs else {}),
        "UTSMode": "",
        "UsernsMode": spec.userns,
        "ShmSize": 64 * 1024 * 1024,
        "Runtime": "minidocker",
        "Init": spec.init,
        "Memory": spec.limits.memory,
        "MemorySwap": spec.limits.memory * 2,
        "NanoCpus": round(spec.limits.cpus * 1e9),
        "PidsLimit": spec.limits.pids or None,
        "Devices": [
            {"PathOnHost": device.source, "PathInContainer": device.target, "CgroupPermissions": device.permissions}
            for device in spec.devices
        ],
        "Ulimits": [{"Name": limit.name, "Hard": limit.hard, "Soft": limit.soft} for limit in spec.ulimits] or None,
        **({"Sysctls": dict(spec.sysctls)} if spec.sysctls else {}),
        "BlkioWeight": spec.limits.io_weight,
        "BlkioDeviceReadBps": _throttles(spec, "read_bps"),
        "BlkioDeviceWriteBps": _throttles(spec, "write_bps"),
        "BlkioDeviceReadIOps": _throttles(spec, "read_iops"),
        "BlkioDeviceWriteIOps": _throttles(spec, "write_iops"),
    }


def _security_opt(spec: Spec) -> list[str]:
    """Return what was asked for, a profile with its text, and what docker adds for a privileged container."""
    usual = SECCOMP_UNCONFINED if spec.privileged else SECCOMP_DEFAULT
    found = ["no-new-privileges"] if spec.no_new_privileges else []
    found += [f"seccomp={spec.seccomp}"] if spec.seccomp != usual else []
    return [*found, "label=disable"] if spec.privileged else found


def _throttles(spec: Spec, what: str) -> list[Json] | None:
    return [{"Path": limit.device, "Rate": limit.rate} for limit in spec.limits.throttles if limit.what == what] or None


def _asked_address(port: Port) -> str:
    return "" if port.host_ip == Port(0).host_ip else port.host_ip


def _bind(mount: Mount) -> str:
    return f"{mount.name or mount.source}:{mount.target}{':ro' if mount.read_only else ''}"


def _graph(engine: "Engine", container: Container) -> Json:
    """Return where the parts of the container's root lie, the topmost layer first."""
    folder = engine.containers.path(container.id)
    layers = [engine.images.layer_path(diff_id) for diff_id in reversed(container.spec.layers)]
    return {
        "LowerDir": ":".join([f"{folder}/init", *layers]),
        "MergedDir": f"{folder}/merged",
        "UpperDir": f"{folder}/upper",
        "WorkDir": f"{folder}/work",
    }


def _mount(mount: Mount) -> Json:
    place = {"Source": mount.source, "Destination": mount.target}
    access = {"Mode": "ro" if mount.read_only else "", "RW": not mount.read_only}
    if mount.kind == "bind":
        return {"Type": "bind", **place, **access, "Propagation": "rprivate"}
    # A volume that nobody named is known by its folder: VOLUMES/<name>/_data.
    name = mount.name or os.path.basename(os.path.dirname(mount.source))
    return {"Type": "volume", "Name": name, **place, "Driver": "local", **access, "Propagation": ""}


def _config(engine: "Engine", container: Container) -> Json:
    spec = container.spec
    entrypoint, command = _entrypoint_and_command(engine, container)
    own = (f"HOSTNAME={spec.hostname}", "TERM=xterm")  # what every container has, nobody's choice
    return {
        "Hostname": spec.hostname,
        "Domainname": "",
        "User": spec.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        **({"ExposedPorts": {port: {} for port in spec.exposed}} if spec.exposed else {}),
        "Tty": spec.terminal,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": spec.stdin_once,
        "Env": [variable for variable in spec.env if variable not in own],
        "Cmd": command,
        "Image": container.image,
        "Volumes": {mount.target: {} for mount in spec.mounts if mount.kind == "volume" and not mount.name} or None,
        "WorkingDir": "" if spec.workdir == "/" else spec.workdir,
        "Entrypoint": entrypoint,
        "OnBuild": None,
        "Labels": dict(spec.labels),
        **({"StopSignal": spec.stop_signal} if spec.stop_signal != "SIGTERM" else {}),
    }


def _entrypoint_and_command(engine: "Engine", container: Container) -> tuple[list[str] | None, list[str] | None]:
    """Tell the program's arguments apart again: the image's entrypoint, where they begin with it, and the rest."""
    args = list(container.spec.args)
    if not container.image_id:  # of a build `FROM scratch`
        return None, args
    try:
        config = engine.images.config(engine.images.get(container.image_id)).config
    except (ImageNotFound, InvalidManifest, FileNotFoundError):
        return None, args
    entrypoint = list(config.get("Entrypoint") or [])
    if entrypoint and args[: len(entrypoint)] == entrypoint:
        return entrypoint, args[len(entrypoint) :] or None
    return None, args


def _network(container: Container) -> Json:
    spec, state = container.spec, container.state
    running = container.running
    ports: Json = dict.fromkeys(spec.exposed) if running else {}
    for port in state.ports if running else ():
        key = f"{port.container_port}/{port.protocol}"
        where = {"HostIp": port.host_ip, "HostPort": str(port.host_port)}
        ports[key] = [*(ports.get(key) or []), where]
    connected = running and bool(state.address)
    address: Json = {
        "Gateway": state.gateway if connected else "",
        "IPAddress": state.address.partition("/")[0] if connected else "",
        "IPPrefixLen": int(state.address.partition("/")[2] or _PREFIX_LENGTH) if connected else 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "MacAddress": state.mac if connected else "",
    }
    one: Json = {"IPAMConfig": None, "Links": None, "Aliases": None, **address, "DriverOpts": None}
    key = f"/proc/{state.pid}/ns/net" if running else ""
    return {"Bridge": "", "SandboxKey": key, "Ports": ports, **address, "Networks": {spec.network: one}}


def image_json(engine: "Engine", image: "Image") -> Json:
    """Return docker's document of an image.

    See: docker's Engine API, "Inspect an image".
    """
    config = engine.images.config(image)
    last = config.history[-1] if config.history else {}
    top = engine.images.layer_path(config.diff_ids[-1]) if config.diff_ids else ""
    return {
        "Id": image.id,
        "RepoTags": [_familiar(name) for name in image.tags],
        "RepoDigests": [_familiar(name) for name in image.digests],
        "Parent": image.parent,
        "Comment": str(last.get("comment") or ""),
        "Created": config.created,
        "DockerVersion": str(config.raw.get("docker_version") or ""),
        "Author": config.author,
        "Config": {**_EMPTY_CONFIG, **config.config},
        "Architecture": config.architecture,
        **({"Variant": config.raw["variant"]} if config.raw.get("variant") else {}),
        "Os": config.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {"Data": {"UpperDir": top}, "Name": DRIVER},
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
    }


_EMPTY_CONFIG: Json = {
    "User": "",
    "Env": None,
    "Cmd": None,
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}


def _familiar(name: str) -> str:
    """Return a canonical image name as people type it."""
    from minidocker.image import reference

    return reference.parse(name, default_tag="").familiar
