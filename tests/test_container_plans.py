"""What a container is to be, worked out without doing it: options, specs, plans, identities. Needs no root."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from minidocker import assemble
from minidocker.container import cgroups, etc, logs, names, options, records, rootfs, security, stream
from minidocker.container.lifecycle import merge_env
from minidocker.container.options import RunOptions
from minidocker.container.records import Containers, State
from minidocker.container.spec import Limits, Mount, Port, Spec, Throttle
from minidocker.errors import (
    AmbiguousPrefix,
    Conflict,
    ContainerNotFound,
    InvalidArgument,
    MinidockerError,
    StartError,
)
from minidocker.image.oci import ImageConfig
from minidocker.linux import capabilities, syscalls

FULL = Spec(
    args=("sh", "-c", "true"),
    env=("A=b",),
    layers=("sha256:" + "a" * 64,),
    mounts=(Mount("bind", "/host", "/in", True), Mount("tmpfs", "tmpfs", "/t", options="size=1m")),
    ports=(Port(80, "tcp", "127.0.0.1", 8080),),
    limits=Limits(1 << 20, 0.5, 10, 300, (Throttle("/dev/sda", "8:0", "read_bps", 1 << 20),)),
    labels=(("a", "b"),),
)


def test_a_spec_survives_its_file() -> None:
    assert Spec.from_json(json.loads(json.dumps(FULL.to_json()))) == FULL


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("4k", 4096), ("512m", 512 << 20), ("1.5g", 3 << 29), ("1GB", 1 << 30), ("2KiB", 2048)],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert options.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1m", "1x", "1mm"])
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid size"):
        options.parse_size(text)


def test_memory_below_what_a_process_needs() -> None:
    with pytest.raises(InvalidArgument, match="minimum memory limit allowed is 6MB"):
        options.parse_memory("1m")


def test_rates_of_disks() -> None:
    assert options.parse_rate("/dev/sda:1mb") == ("/dev/sda", 1 << 20)
    assert options.parse_operations("/dev/sda:100") == ("/dev/sda", 100)
    assert [options.parse_weight(text) for text in ("0", "10", "1000")] == [0, 10, 1000]


@pytest.mark.parametrize(
    ("read", "text", "complaint"),
    [
        (options.parse_rate, "/dev/sda", "bad format: /dev/sda"),
        (options.parse_rate, "sda:1mb", "bad format for device path: sda:1mb"),
        (options.parse_rate, "/dev/sda:fast", r"invalid rate for device: /dev/sda:fast\. The correct format is"),
        (options.parse_rate, "/dev/sda:-1", "invalid rate for device"),
        (options.parse_operations, "/dev/sda:1mb", r"invalid rate for device: /dev/sda:1mb\. The correct format is"),
        (options.parse_operations, "/dev/sda:", "invalid rate for device"),
        (options.parse_weight, "9", "Range of blkio weight is from 10 to 1000"),
        (options.parse_weight, "1001", "Range of blkio weight is from 10 to 1000"),
        (options.parse_weight, "x", "Range of blkio weight is from 10 to 1000"),
    ],
)
def test_a_rate_that_is_none(read: Callable[[str], object], text: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        read(text)


def test_only_a_disk_can_be_limited() -> None:
    with pytest.raises(InvalidArgument, match="stat /dev/nope: no such file or directory"):
        assemble.limits(RunOptions(device_read_bps=(("/dev/nope", 1),)))
    with pytest.raises(InvalidArgument, match="/dev/null is not a disk"):
        assemble.limits(RunOptions(device_write_iops=(("/dev/null", 1),)))


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/a:/b", Mount("bind", "/a", "/b")),
        ("/a:/b:ro", Mount("bind", "/a", "/b", True)),
        ("data:/b", Mount("volume", "", "/b", name="data")),
        ("/b", Mount("volume", "", "/b")),
    ],
)
def test_volumes(text: str, mount: Mount) -> None:
    assert options.parse_volume(text) == mount


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("/a:b", "mount path must be absolute"),
        ("/a:/", "destination can't be '/'"),
        ("/a:/b:rx", "invalid mode: rx"),
        ("a/b:/c", "invalid characters for a local volume name"),
        ("::", "invalid volume specification"),
        ("/a:/b:ro:x", "invalid volume specification"),
    ],
)
def test_a_volume_that_is_none(text: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        options.parse_volume(text)


def test_signals_by_name_and_number() -> None:
    assert options.parse_signal("RTMIN+3") == options.parse_signal("sigrtmin+3") == options.parse_signal("37") == 37
    assert (
        options.parse_signal("KILL") == options.parse_signal("sigkill") == options.parse_signal("9") == signal.SIGKILL
    )
    for wrong in ("FOO", "0", "99", ""):
        with pytest.raises(InvalidArgument, match="invalid signal"):
            options.parse_signal(wrong)


def test_the_default_capabilities_are_dockers_fourteen() -> None:
    assert len(capabilities.DEFAULT) == 14
    assert capabilities.bits(capabilities.choose((), ())) == 0xA80425FB


def test_capabilities_are_added_and_dropped() -> None:
    assert capabilities.choose((), ("ALL",)) == ()
    assert capabilities.choose(("CAP_NET_ADMIN",), ("all",)) == ("NET_ADMIN",)
    assert "CHOWN" not in capabilities.choose((), ("chown",))
    assert set(capabilities.choose(("ALL",), ("SYS_ADMIN",))) == set(capabilities.NAMES) - {"SYS_ADMIN"}
    assert capabilities.choose((), (), privileged=True) == capabilities.NAMES
    with pytest.raises(InvalidArgument, match='invalid capability: "FLY"'):
        capabilities.choose(("FLY",), ())


V1 = {name: f"/sys/fs/cgroup/{name}" for name in cgroups.CONTROLLERS}


def test_limits_under_version_1() -> None:
    plan = cgroups.plan("abc", Limits(64 << 20, 0.5, 20), V1)
    written = {write.path.removeprefix("/sys/fs/cgroup/"): write.value for write in plan.writes}
    assert plan.version == 1
    assert written["memory/minidocker/abc/memory.limit_in_bytes"] == str(64 << 20)
    assert written["cpu/minidocker/abc/cpu.cfs_quota_us"] == "50000"
    assert written["cpu/minidocker/abc/cpu.cfs_period_us"] == "100000"
    assert written["pids/minidocker/abc/pids.max"] == "20"
    assert plan.writes[-len(cgroups.DEVICE_RULES) - 1].value == "a"  # all is denied first, then some allowed


def test_disks_under_version_1() -> None:
    throttles = (Throttle("/dev/sda", "8:0", "read_bps", 1 << 20), Throttle("/dev/sda", "8:0", "write_iops", 50))
    plan = cgroups.plan("abc", Limits(io_weight=300, throttles=throttles), V1, any_device=True)
    folder = "/sys/fs/cgroup/blkio/minidocker/abc"
    assert plan.writes == (
        cgroups.Write(f"{folder}/blkio.bfq.weight", "300", optional=True),
        cgroups.Write(f"{folder}/blkio.throttle.read_bps_device", f"8:0 {1 << 20}"),
        cgroups.Write(f"{folder}/blkio.throttle.write_iops_device", "8:0 50"),
    )


V2 = {"unified": "/sys/fs/cgroup", "controllers": "cpuset cpu io memory pids"}


def test_limits_under_version_2() -> None:
    plan = cgroups.plan("abc", Limits(64 << 20, 0.5, 20), V2)
    folder = "/sys/fs/cgroup/minidocker/abc"
    assert (plan.version, plan.folders) == (2, (folder,))
    assert [write for write in plan.writes if not write.optional] == [
        cgroups.Write(f"{folder}/memory.max", str(64 << 20)),
        cgroups.Write(f"{folder}/cpu.max", "50000 100000"),
        cgroups.Write(f"{folder}/pids.max", "20"),
    ]
    assert plan.devices == cgroups.DEVICE_RULES


def test_each_folder_above_hands_the_controllers_down_first() -> None:
    writes = cgroups.plan("abc", Limits(64 << 20), V2).writes
    assert writes[:2] == (
        cgroups.Write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids +io", optional=True),
        cgroups.Write("/sys/fs/cgroup/minidocker/cgroup.subtree_control", "+cpu +memory +pids +io", optional=True),
    )
    few = cgroups.plan("abc", Limits(), {**V2, "controllers": "memory pids"}).writes
    assert [write.value for write in few] == ["+memory +pids"] * 2


def test_a_folder_that_systemd_gave_is_divided() -> None:
    plan = cgroups.plan("abc", Limits(pids=9), {**V2, "delegated": "/sys/fs/cgroup/minidocker.slice/x.scope"})
    scope = "/sys/fs/cgroup/minidocker.slice/x.scope"
    assert plan.folders == (f"{scope}/container",)
    assert plan.writes[-1] == cgroups.Write(f"{scope}/container/pids.max", "9")
    assert {write.path for write in plan.writes[:-1]} == {f"{scope}/cgroup.subtree_control"}


def test_disks_under_version_2() -> None:
    throttles = (Throttle("/dev/sda", "8:0", "read_bps", 1 << 20), Throttle("/dev/sda", "8:0", "write_iops", 50))
    plan = cgroups.plan("abc", Limits(io_weight=10, throttles=throttles), V2)
    folder = "/sys/fs/cgroup/minidocker/abc"
    assert plan.writes[2:] == (
        cgroups.Write(f"{folder}/io.bfq.weight", "10", optional=True),
        cgroups.Write(f"{folder}/io.weight", "default 1", optional=True),
        cgroups.Write(f"{folder}/io.max", f"8:0 rbps={1 << 20}"),
        cgroups.Write(f"{folder}/io.max", "8:0 wiops=50"),
    )
    heaviest = cgroups.plan("abc", Limits(io_weight=1000), V2).writes
    assert cgroups.Write(f"{folder}/io.weight", "default 10000", optional=True) in heaviest


@pytest.mark.parametrize(("places", "limited"), [(V1, True), (V2, True), ({"pids": "/p"}, False), ({}, False)])
def test_devices_are_limited_where_the_kernel_is_asked(places: dict[str, str], limited: bool) -> None:
    assert cgroups.devices_are_limited(places) == limited


def test_a_limit_without_its_controller_is_no_container(tmp_path: Path) -> None:
    """As in an ordinary user's cgroups, to which not every controller is handed down."""
    plan = cgroups.plan("abc", Limits(pids=9), {"unified": str(tmp_path), "controllers": "cpu memory"}, any_device=True)
    with pytest.raises(StartError, match=r"cannot limit the container: there is no .*/minidocker/abc/pids\.max"):
        cgroups.create(plan)
    cgroups.create(plan._replace(writes=plan.writes[:-1]))  # what is only optional may be missing


def test_a_limit_that_cannot_be_set_is_no_container() -> None:
    with pytest.raises(StartError, match="cannot limit memory"):
        cgroups.plan("abc", Limits(memory=1 << 30), {"pids": "/sys/fs/cgroup/pids"})
    with pytest.raises(StartError, match="no cgroups that this user may write to"):
        cgroups.plan("abc", Limits(pids=5), {})


def test_a_privileged_container_may_use_any_device() -> None:
    assert not cgroups.plan("abc", Limits(), V1, any_device=True).writes


def test_the_overlay_has_the_topmost_layer_first_and_ours_above() -> None:
    text = rootfs.overlay_options(("low", "high"), "/c")
    assert text.startswith("lowerdir=/c/init:high:low,upperdir=/c/upper,workdir=/c/work,")
    assert rootfs.overlay_options(("low",), "/c", read_only=True) == "lowerdir=/c/upper:/c/init:low"


def test_mounts_come_in_an_order_in_which_none_hides_another() -> None:
    mounts = (
        *(Mount("tmpfs", "tmpfs", "/a/b/c"), Mount("bind", "/h", "/a"), Mount("tmpfs", "tmpfs", "/a/b")),
        *(Mount("volume", "/v", "/etc"), Mount("bind", "/h", "/etc/hosts")),
    )
    targets = [attach.target for attach in rootfs.plan(FULL._replace(mounts=mounts), "/c")]
    etc = ["/etc/resolv.conf", "/etc/hostname", "/etc/hosts"]
    assert targets[rootfs.KERNEL_MOUNTS :] == ["/a", "/etc", *etc, "/a/b", "/etc/hosts", "/a/b/c"]
    assert targets.index("/dev") < targets.index("/dev/pts")


def test_sys_is_writable_for_the_privileged_only() -> None:
    def flags(privileged: bool) -> int:
        attaches = rootfs.plan(FULL._replace(privileged=privileged), "/c")
        return next(attach.flags for attach in attaches if attach.target == "/sys")

    assert flags(privileged=False) & syscalls.MS_RDONLY
    assert not flags(privileged=True) & syscalls.MS_RDONLY


def test_tmpfs_options_are_split_into_flags_and_data() -> None:
    (attach,) = rootfs.user_mount(Mount("tmpfs", "tmpfs", "/t", options="size=1m,exec,mode=700"))
    assert (attach.data, attach.flags) == ("size=1m,mode=700", syscalls.MS_NOSUID | syscalls.MS_NODEV)


@pytest.fixture
def people(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\nbroken\n::\n")
    (tmp_path / "group").write_text("root:x:0:\nusers:x:100:\nwheel:x:10:bob,ann\nnumberless:x::\n")
    return str(tmp_path / "passwd"), str(tmp_path / "group")


@pytest.mark.parametrize(
    ("user", "identity"),
    [
        ("", security.Identity(0, 0, (), "/root")),
        ("ann", security.Identity(1000, 100, (10,), "/home/ann")),
        ("1000", security.Identity(1000, 100, (10,), "/home/ann")),
        ("ann:wheel", security.Identity(1000, 10, (), "/home/ann")),
        ("4242", security.Identity(4242, 0, (), "/")),
        ("4242:77", security.Identity(4242, 77, (), "/")),
    ],
)
def test_users_are_looked_up_in_the_image(people: tuple[str, str], user: str, identity: security.Identity) -> None:
    assert security.identify(user, *people) == identity


def test_a_user_or_group_that_is_not_there(people: tuple[str, str]) -> None:
    with pytest.raises(StartError, match="unable to find user eve: no matching entries in passwd file"):
        security.identify("eve", *people)
    with pytest.raises(StartError, match="unable to find group eve: no matching entries in group file"):
        security.identify("ann:eve", *people)


def test_an_image_without_users(tmp_path: Path) -> None:
    nothing = str(tmp_path / "none")
    assert security.identify("", nothing, nothing) == security.Identity(0, 0, (), "/")
    assert security.identify("7:8", nothing, nothing) == security.Identity(7, 8, (), "/")


def test_a_program_is_found_as_a_shell_finds_it(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "tool").write_text("")  # not executable
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "tool").touch(0o755)
    path = {"PATH": f"{tmp_path}/one:{tmp_path}/two"}
    assert security.program(("tool",), path) == f"{tmp_path}/two/tool"
    assert security.program((f"{tmp_path}/two/tool",), {}) == f"{tmp_path}/two/tool"


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("nosuch", 127, "executable file not found in \\$PATH"),
        ("/no/such", 127, "stat /no/such: no such file or directory"),
        ("/etc", 126, "is a directory"),
        ("/etc/passwd", 126, "permission denied"),
    ],
)
def test_a_program_that_cannot_be_run(name: str, code: int, words: str) -> None:
    with pytest.raises(StartError, match=words) as caught:
        security.program((name,), {"PATH": "/usr/bin"})
    assert caught.value.exit_code == code


def config(**fields: object) -> ImageConfig:
    return ImageConfig({"config": fields, "rootfs": {"type": "layers", "diff_ids": []}})


@pytest.mark.parametrize(
    ("fields", "asked", "args"),
    [
        ({"Cmd": ["sh"]}, RunOptions(), ("sh",)),
        ({"Cmd": ["sh"]}, RunOptions(command=("ls",)), ("ls",)),
        ({"Entrypoint": ["e"], "Cmd": ["c"]}, RunOptions(), ("e", "c")),
        ({"Entrypoint": ["e"], "Cmd": ["c"]}, RunOptions(command=("x",)), ("e", "x")),
        ({"Entrypoint": ["e"], "Cmd": ["c"]}, RunOptions(entrypoint=("n",)), ("n",)),
        ({"Entrypoint": ["e"]}, RunOptions(entrypoint=(), command=("x",)), ("x",)),
    ],
)
def test_entrypoint_and_command(fields: dict[str, object], asked: RunOptions, args: tuple[str, ...]) -> None:
    assert assemble.arguments(fields, asked) == args


def test_nothing_to_run() -> None:
    with pytest.raises(InvalidArgument, match="No command specified"):
        assemble.arguments({}, RunOptions())


def test_the_user_has_the_last_word_on_variables() -> None:
    found = assemble.environment("c" * 64, {"Env": ["PATH=/x", "A=image", "B=image"]}, RunOptions(env=("A=user",)))
    assert found == ("PATH=/x", f"HOSTNAME={'c' * 12}", "A=user", "B=image")


def test_variables_keep_what_follows_the_first_equals_sign() -> None:
    assert merge_env(("A=1=2",), ("B==",)) == ("A=1=2", "B==")


def test_a_place_mounted_twice(tmp_path: Path) -> None:
    twice = (Mount("tmpfs", "tmpfs", "/a"), Mount("tmpfs", "tmpfs", "/a/"))
    with pytest.raises(InvalidArgument, match="Duplicate mount point: /a"):
        assemble.mounts({}, RunOptions(mounts=twice), str(tmp_path))


def test_the_images_volumes_get_folders_unless_the_user_mounts_there(tmp_path: Path) -> None:
    asked = RunOptions(mounts=(Mount("tmpfs", "tmpfs", "/cache"),))
    made = assemble.mounts({"Volumes": {"/data": {}, "/cache/": {}}}, asked, str(tmp_path))
    assert [(mount.kind, mount.target) for mount in made] == [("tmpfs", "/cache"), ("volume", "/data")]
    assert made[1].source.startswith(f"{tmp_path}/volumes/")
    assert list(tmp_path.iterdir()) == []  # nothing is made before the container has its name


def test_an_unknown_network() -> None:
    with pytest.raises(InvalidArgument, match="network moon not found"):
        assemble.specify("c" * 64, config(Cmd=["sh"]), RunOptions(network="moon"), "/nowhere")


def test_hosts_file() -> None:
    text = etc.hosts("172.18.0.2", "box", ("db:10.0.0.1", "host:host-gateway"), "172.18.0.1")
    assert text.startswith("127.0.0.1\tlocalhost\n")
    assert text.endswith("10.0.0.1\tdb\n172.18.0.1\thost\n172.18.0.2\tbox\n")


def test_name_servers_on_the_hosts_loopback_mean_nothing_in_a_container() -> None:
    text = etc.resolv_conf("search lan\nnameserver 127.0.0.53\nnameserver 10.0.0.1\noptions ndots:2\n")
    assert text == "search lan\nnameserver 10.0.0.1\noptions ndots:2\n"
    assert "nameserver 8.8.8.8\n" in etc.resolv_conf("nameserver ::1\n")


def test_frames_arrive_whole_however_they_are_cut() -> None:
    data = stream.pack(stream.STDOUT, b"hello") + stream.pack(stream.EXIT) + stream.pack(stream.STDERR, b"x" * 1000)
    frames = stream.Frames()
    arrived = [frame for byte in data for frame in frames.feed(bytes([byte]))]
    assert arrived == [(stream.STDOUT, b"hello"), (stream.EXIT, b""), (stream.STDERR, b"x" * 1000)]
    assert data[:8] == b"\x01\0\0\0\0\0\0\x05"  # docker's header: kind, three zeros, length


def test_a_frame_larger_than_any_of_ours() -> None:
    with pytest.raises(ValueError, match="a frame of"):
        list(stream.Frames().feed(b"\x01\0\0\0\xff\xff\xff\xff"))


def test_made_up_names_are_names() -> None:
    for attempt in (0, 1):
        names.check(names.random_name(attempt))


@pytest.fixture
def containers(tmp_path: Path) -> Containers:
    return Containers(str(tmp_path), str(tmp_path / "run"))


def test_a_container_is_found_by_name_id_and_prefix(containers: Containers) -> None:
    one = containers.create("web", "image", "sha256:0", FULL, "aa" + "0" * 62)
    containers.create("", "image", "sha256:0", FULL, "ab" + "0" * 62)
    for name in ("web", "/web", one.id, "aa", "aa0"):
        assert containers.get(name) == one
    with pytest.raises(AmbiguousPrefix, match="Multiple IDs found with provided prefix: a"):
        containers.get("a")
    for name in ("nosuch", "", "we"):
        with pytest.raises(ContainerNotFound, match="No such container"):
            containers.get(name)


def test_a_name_belongs_to_one(containers: Containers) -> None:
    one = containers.create("web", "image", "sha256:0", FULL)
    other = containers.create("", "image", "sha256:0", FULL)
    with pytest.raises(Conflict, match=f'The container name "/web" is already in use by container "{one.id}"'):
        containers.create("web", "image", "sha256:0", FULL)
    with pytest.raises(Conflict, match="already in use"):
        containers.rename(other, "web")
    containers.rename(one, "old")
    containers.rename(other, "web")
    assert containers.get("web").id == other.id


def test_a_name_whose_container_is_gone_or_has_another_is_free(containers: Containers) -> None:
    one = containers.create("old", "image", "sha256:0", FULL)
    os.symlink("f" * 64, f"{containers.names.links}/killed")
    os.symlink(one.id, f"{containers.names.links}/renamed")
    for name in ("killed", "renamed"):
        with pytest.raises(ContainerNotFound, match=f"No such container: {name}"):
            containers.get(name)
        assert containers.get(containers.create(name, "image", "sha256:0", FULL).id).name == name
    assert containers.get("old") == one
    containers.forget(one.id)
    assert sorted(os.listdir(containers.names.links)) == ["killed", "renamed"]


def test_a_record_of_which_the_machines_end_left_nothing_is_none(containers: Containers) -> None:
    container = containers.create("web", "image", "sha256:0", FULL)
    os.truncate(containers.path(container.id, "record.json"), 0)
    for name in ("web", container.id):
        with pytest.raises(ContainerNotFound, match="No such container"):
            containers.get(name)
    assert containers.list() == []
    assert containers.damaged([]) == []
    assert containers.create("web", "image", "sha256:0", FULL).name == "web"
    os.symlink("f" * 64, f"{containers.names.links}/killed")
    containers.delete_unfinished()
    assert container.id not in containers.ids()
    assert os.listdir(containers.names.links) == ["web"]


def test_a_name_is_taken_while_its_container_is_made(containers: Containers) -> None:
    with containers.making("web", "image", "sha256:0", FULL):
        with pytest.raises(Conflict, match="already in use"):
            containers.create("web", "image", "sha256:0", FULL)
        with pytest.raises(ContainerNotFound, match="No such container: web"):
            containers.get("web")
    assert containers.get("web").name == "web"


@pytest.mark.parametrize("name", ["a", "-x", "a b", "a/b", "ä" * 5, "../etc", "a" * 256])
def test_a_name_that_cannot_be(containers: Containers, name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid container name"):
        containers.create(name, "image", "sha256:0", FULL)


def test_a_record_cut_in_half_hides_no_other(containers: Containers) -> None:
    good = containers.create("good", "image", "sha256:0", FULL)
    bad = containers.create("bad", "image", "sha256:0", FULL)
    record = Path(containers.path(bad.id, "record.json"))
    record.write_text(record.read_text()[:40])
    assert [container.id for container in containers.list()] == [good.id]
    with pytest.raises(ContainerNotFound, match=f"damaged record .* 'minidocker rm -f {bad.short_id}'"):
        containers.load(bad.id)


def test_a_state_cut_in_half_is_an_ended_container(containers: Containers) -> None:
    made = containers.create("web", "image", "sha256:0", FULL)
    Path(containers.path(made.id, "state.json")).write_text('{"status": "runn')
    state = containers.load(made.id).state
    assert (state.status, state.exit_code, state.error) == ("exited", 137, "its state file is damaged")


def test_running_is_not_believed(containers: Containers) -> None:
    made = containers.create("web", "image", "sha256:0", FULL)
    own = State("running", 1, 1, shim=1, shim_start=records.start_time(1), boot=records.boot_id())
    containers.write_state(made.id, own)
    assert containers.load(made.id).running
    for lie in ({"shim_start": 123456789}, {"shim": 2**22 + 1}, {"boot": "another"}):
        containers.write_state(made.id, own._replace(**lie))
        state = containers.load(made.id).state
        assert (state.status, state.exit_code, state.error) == ("exited", 137, "its shim was killed")


def write_log(path: Path, lines: int) -> str:
    entries = [
        {"log": f"line {n}\n", "stream": "stdout", "time": f"2024-01-01T00:00:{n % 60:02d}Z"} for n in range(lines)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return str(path)


@pytest.mark.parametrize("tail", [0, 1, 2, 5000, 10**6])
def test_the_end_of_a_log(tmp_path: Path, tail: int) -> None:
    path = write_log(tmp_path / "log", 5000)  # several blocks
    found = [line.data for line in logs.read(path, lambda: False, tail=tail)]
    assert found == [f"line {n}\n".encode() for n in range(5000)][5000 - min(tail, 5000) :]


def test_a_log_that_was_cut_off(tmp_path: Path) -> None:
    path = write_log(tmp_path / "log", 3)
    with open(path, "a") as file:
        file.write('{"log": "half')
    assert len(list(logs.read(path, lambda: False))) == 3
    assert list(logs.read(str(tmp_path / "none"), lambda: False)) == []


def test_a_followed_log_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write_log(path, 1)
    turns = iter([True, True, False])

    def running() -> bool:
        with path.open("a") as file:
            file.write(json.dumps({"log": "more\n", "stream": "stderr", "time": "t"}) + "\n")
        return next(turns)

    assert [line.data for line in logs.read(str(path), running, follow=True)] == [b"line 0\n", *[b"more\n"] * 3]


def test_an_error_of_the_kernel_says_what_was_asked() -> None:
    with pytest.raises(OSError, match=r"mount\(src=a, dst=/nowhere, type=none, flags=MS_BIND\|MS_REC\): E") as caught:
        syscalls.mount("a", "/nowhere", flags=syscalls.MS_BIND | syscalls.MS_REC)
    assert caught.value.errno
    assert not isinstance(caught.value, MinidockerError)
