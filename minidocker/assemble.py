"""From an image and what the user asked for to a `Spec`: who says what, and who has the last word.

See: OCI image-spec, conversion.md; docker run's reference, "Overriding image defaults".
"""

import os
import stat
from typing import Any

from minidocker.container import cgroups, ports
from minidocker.container.lifecycle import merge_env
from minidocker.container.options import RunOptions, parse_security
from minidocker.container.spec import SECCOMP_DEFAULT, SECCOMP_UNCONFINED, Limits, Mount, Spec, Throttle
from minidocker.errors import InvalidArgument
from minidocker.image.oci import ImageConfig
from minidocker.linux import userns
from minidocker.linux.capabilities import choose

Json = dict[str, Any]

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NETWORKS = ("bridge", "none", "host")


def specify(container_id: str, image: ImageConfig, options: RunOptions, root: str) -> Spec:
    """Return what the container is to be: the image's configuration, changed by the options.

    Volumes get a folder of their own below `root`, which is not made yet. Pure but for the names of those without one.

    Raises: InvalidArgument, in docker's words.
    """
    config = image.config
    processors = os.cpu_count() or 1
    if options.cpus and not 0.01 <= options.cpus <= processors:
        raise InvalidArgument(
            f"range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available"
        )
    if options.network not in NETWORKS:
        raise InvalidArgument(f"network {options.network} not found: it is one of {', '.join(NETWORKS)}")
    if options.network == "host" and (options.ports or options.publish_all):
        options = options._replace(ports=(), publish_all=False)  # its ports are the host's already
    capabilities = kept_capabilities(options)
    security = parse_security(options.security_opt)
    exposed = exposed_ports(config, options)
    published = (*options.ports, *(ports.publish_all(exposed) if options.publish_all else ()))
    return Spec(
        args=arguments(config, options),
        env=environment(container_id, config, options),
        workdir=os.path.join("/", options.workdir or config.get("WorkingDir") or "/"),
        user=options.user or config.get("User") or "",
        hostname=options.hostname or container_id[:12],
        layers=tuple(image.diff_ids),
        mounts=mounts(config, options, root),
        read_only=options.read_only,
        terminal=options.terminal,
        open_stdin=options.interactive,
        stdin_once=options.interactive and not options.detach,
        network=options.network,
        ports=tuple(dict.fromkeys(published)),
        exposed=exposed,
        extra_hosts=options.extra_hosts,
        limits=limits(options),
        capabilities=capabilities,
        privileged=options.privileged,
        no_new_privileges=security.no_new_privileges,
        seccomp=seccomp(security.seccomp, capabilities, options.privileged),
        userns=user_namespace(options),
        devices=options.devices,
        ulimits=options.ulimits,
        sysctls=sysctls(options),
        init=options.init,
        stop_signal=options.stop_signal or config.get("StopSignal") or "SIGTERM",
        remove=options.remove,
        labels=tuple({**(config.get("Labels") or {}), **dict(options.labels)}.items()),
    )


def sysctls(options: RunOptions) -> tuple[tuple[str, str], ...]:
    """Return the settings of the kernel. Raises: InvalidArgument for those of a network that is the host's."""
    for name, _ in options.sysctls:
        if options.network == "host" and name.startswith("net."):
            raise InvalidArgument(f"sysctl '{name}' not allowed in host network namespace")
    return options.sysctls


def limits(options: RunOptions) -> Limits:
    """Return the limits, with the numbers that the kernel knows the disks by.

    Raises: InvalidArgument for a device that is not there.
    """
    asked = {
        "read_bps": options.device_read_bps,
        "write_bps": options.device_write_bps,
        "read_iops": options.device_read_iops,
        "write_iops": options.device_write_iops,
    }
    throttles = [Throttle(path, _number(path), what, rate) for what, pairs in asked.items() for path, rate in pairs]
    return Limits(options.memory, options.cpus, options.pids_limit, options.blkio_weight, tuple(throttles))


def _number(path: str) -> str:
    """Return the `major:minor` of a disk."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InvalidArgument(f"stat {path}: no such file or directory: this machine has no such disk") from None
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidArgument(f"{path} is not a disk: only what a block device reads and writes can be limited")
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def arguments(config: Json, options: RunOptions) -> tuple[str, ...]:
    """Return the program and its arguments: an entrypoint, followed by a command.

    A command given by the user replaces the image's; an entrypoint given by the user also drops the image's command.

    Raises: InvalidArgument when neither says what to run.
    """
    if options.entrypoint is not None:
        words = (*options.entrypoint, *options.command)
    else:
        words = (*(config.get("Entrypoint") or ()), *(options.command or config.get("Cmd") or ()))
    if not words:
        raise InvalidArgument("No command specified: the image has none, so say what to run after its name")
    return words


def environment(container_id: str, config: Json, options: RunOptions) -> tuple[str, ...]:
    """Return the variables: docker's own, then the image's, then the user's."""
    own = [DEFAULT_PATH, f"HOSTNAME={options.hostname or container_id[:12]}"]
    if options.terminal:
        own.append("TERM=xterm")
    return merge_env(merge_env(tuple(own), tuple(config.get("Env") or ())), options.env)


def user_namespace(options: RunOptions) -> str:
    """Return `remap` where the container is to have a user namespace of its own, else "".

    Root's choice only: an ordinary user's containers are all in one already. Without `--userns`, MINIDOCKER_USERNS
    says what is usual here.

    Raises: InvalidArgument, in docker's words, for what needs the host's own root.
    """
    if userns.is_mapped():
        if options.userns == "remap":
            raise InvalidArgument(
                "--userns remap is for root: an ordinary user's containers have a user namespace already"
            )
        return ""
    if (options.userns or os.environ.get("MINIDOCKER_USERNS", "")) != "remap":
        return ""
    host = "you must run the container in the host namespace (--userns host)"
    if options.privileged:
        raise InvalidArgument(f"privileged mode is incompatible with user namespaces: {host}")
    if options.network == "host":
        raise InvalidArgument(f"cannot share the host's network namespace when user namespaces are enabled: {host}")
    return "remap"


def exposed_ports(config: Json, options: RunOptions) -> tuple[str, ...]:
    """Return the ports that the image or the user names, published or not: `22/tcp`."""
    named = list(config.get("ExposedPorts") or ())
    for text in options.expose:
        named += ports.parse_exposed(text)
    named += [f"{port.container_port}/{port.protocol}" for port in options.ports]
    return tuple(dict.fromkeys(named))


def kept_capabilities(options: RunOptions) -> tuple[str, ...]:
    """Return a container's capabilities.

    Where the kernel does not keep device nodes from being opened, it may not make any; and then it may not open those
    of its image either, see `minidocker.container.rootfs.without_devices`.
    """
    kept = choose(options.cap_add, options.cap_drop, options.privileged)
    asked = "MKNOD" in {name.upper().removeprefix("CAP_") for name in options.cap_add}
    if options.privileged or asked or cgroups.devices_are_limited(cgroups.mounted()):
        return kept
    return tuple(name for name in kept if name != "MKNOD")


def seccomp(asked: str, capabilities: tuple[str, ...], privileged: bool) -> str:
    """Return the profile of the calls that the container may make: the user's, or docker's default.

    A privileged container has none, unless the user asks for one.

    Raises: InvalidArgument for a profile that could not be used.
    """
    if asked in ("", SECCOMP_UNCONFINED):
        return asked or (SECCOMP_UNCONFINED if privileged else SECCOMP_DEFAULT)
    from minidocker.container import seccomp_profile, seccomp_program

    seccomp_profile.resolve(asked, capabilities, seccomp_program.this_host())
    return asked


def mounts(config: Json, options: RunOptions, root: str) -> tuple[Mount, ...]:
    """Return the mounts: the user's, and a volume without a name for each other place that the image wants kept.

    Raises: InvalidArgument for a place that is mounted twice.
    """
    asked = list(options.mounts)
    places = [os.path.normpath(mount.target) for mount in asked]
    for place in places:
        if places.count(place) > 1:
            raise InvalidArgument(f"Duplicate mount point: {place}")
    wanted = [target for target in config.get("Volumes") or () if os.path.normpath(target) not in places]
    asked += [Mount("volume", "", target) for target in wanted]
    return tuple(_with_source(mount, root) for mount in asked)


def _with_source(mount: Mount, root: str) -> Mount:
    """Say where a volume lies."""
    if mount.kind != "volume":
        return mount
    return mount._replace(source=f"{root}/volumes/{mount.name or os.urandom(32).hex()}/_data")
