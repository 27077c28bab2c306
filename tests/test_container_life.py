"""A container's life with the real kernel: birth, isolation, streams, limits, end, and what goes wrong on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Minidocker
from containerkit import detached, wait_until
from minidocker import engine
from minidocker.container import cgroups, records
from minidocker.container.options import ExecOptions, RunOptions
from minidocker.container.spec import Mount
from minidocker.engine import Engine
from minidocker.errors import Conflict, ContainerNotFound, ContainerStateError, MinidockerError, StartError

pytestmark = pytest.mark.root


@pytest.fixture
def sh(home: Engine) -> Callable[..., tuple[int | None, str]]:
    """Return a function that runs a shell script in a new container and returns its exit code and output."""

    def run(script: str, **asked: object) -> tuple[int | None, str]:
        options = RunOptions(command=("sh", "-c", script), remove=True, **{"network": "none", **asked})  # type: ignore[arg-type]
        _, attachment = engine.run(home, "busybox", options)
        assert attachment
        output = b"".join(data for _, data in attachment.frames())
        return attachment.exit_code, output.decode()

    return run


Sh = Callable[..., tuple[int | None, str]]


def test_every_namespace_is_its_own(home: Engine) -> None:
    container = detached(home, "sleep", "100")
    kinds = ("mnt", "pid", "uts", "ipc", "net", "cgroup")
    for kind in kinds:
        own = os.readlink(f"/proc/{container.state.pid}/ns/{kind}")
        assert own != os.readlink(f"/proc/self/ns/{kind}"), kind
        assert os.readlink(f"/proc/{container.state.shim}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}"), kind


def test_host_network_is_the_hosts(sh: Sh) -> None:
    code, out = sh("readlink /proc/self/ns/net; hostname", network="host")
    assert (code, out.split()) == (0, [os.readlink("/proc/self/ns/net"), os.uname().nodename])


def test_the_program_is_process_1_and_sees_no_other(sh: Sh) -> None:
    _, out = sh("echo $$; ls -d /proc/[0-9]*")
    assert out.split()[:2] == ["1", "/proc/1"]
    assert len(out.split()) <= 3


def test_nothing_of_the_host_reaches_the_container(sh: Sh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the host")
    leaked = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        _, out = sh("env; pwd; ls /proc/self/fd")
    finally:
        os.close(leaked)
    *variables, cwd, zero, one, two, listing = out.split("\n")[:-1]
    assert not [name for name in variables if name.split("=")[0] not in ("PATH", "HOSTNAME", "HOME", "PWD", "SHLVL")]
    assert (cwd, zero, one, two) == ("/", "0", "1", "2")
    assert listing == "3"  # ls's own


def test_the_old_root_is_gone(sh: Sh) -> None:
    _, out = sh("cut -d' ' -f5 /proc/self/mountinfo; ls /..")
    targets = out.split("\n")
    assert targets[0] == "/"
    assert not [target for target in targets if "containers" in target or target in ("/boot", "/home/..")]
    assert "work" not in targets


def test_the_hosts_mounts_stay_as_they_are(home: Engine) -> None:
    before = Path("/proc/self/mountinfo").read_text().splitlines()
    detached(home, "sleep", "100")
    added = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line not in before]
    assert not [line for line in added if home.root in line], "other engines may mount meanwhile, this one may not"


def test_proc_and_sys_are_protected(sh: Sh) -> None:
    script = """
    for path in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/mm/transparent_hugepage/enabled; do
        [ -e $path ] && { (echo x > $path) 2>/dev/null && echo "wrote $path"; }
    done
    for path in /proc/kcore /proc/keys /proc/timer_list; do [ -s $path ] && echo "read $path"; done
    ls /proc/acpi /sys/firmware /proc/scsi 2>/dev/null | grep -v : | grep .
    mount -t tmpfs none /tmp 2>/dev/null && echo mounted
    true
    """
    assert sh(script) == (0, "")


def test_a_device_node_of_the_hosts_disk_cannot_be_opened(sh: Sh) -> None:
    number = os.stat(os.path.realpath("/dev/vda") if os.path.exists("/dev/vda") else "/dev/loop0").st_rdev
    code, out = sh(f"mknod /d b {os.major(number)} {os.minor(number)} && head -c1 /d")
    assert code != 0
    assert "Operation not permitted" in out


def test_dev_has_dockers_nodes_only(sh: Sh) -> None:
    _, out = sh("ls /dev")
    names = {"fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout"}
    names |= {"tty", "urandom", "zero"} | ({"core"} if os.path.exists("/proc/kcore") else set())
    assert set(out.split()) == names


def test_capabilities_and_what_they_allow(sh: Sh) -> None:
    read = "grep Cap /proc/self/status | cut -f2 | tr '\\n' ' '"
    none, default = "0000000000000000", "00000000a80425fb"
    assert sh(read)[1].split() == [none, default, default, default, none]
    assert sh(read, user="nobody")[1].split() == [none, none, none, default, none]
    assert sh(read, cap_drop=("ALL",))[1].split() == [none] * 5
    assert sh("ip addr add 10.9.9.9/32 dev lo", cap_add=("NET_ADMIN",))[0] == 0
    assert sh("ip addr add 10.9.9.9/32 dev lo")[0] != 0
    assert sh("chown 1 /tmp", cap_drop=("CHOWN",))[0] != 0


def test_a_privileged_container(sh: Sh) -> None:
    code, out = sh(
        "mount -t tmpfs none /tmp && ls -d /dev/kmsg /dev/pts && echo 1 > /proc/sys/net/ipv4/ip_forward",
        privileged=True,
    )
    assert (code, out) == (0, "/dev/kmsg\n/dev/pts\n")


def test_a_read_only_root_with_a_place_to_write(sh: Sh, home: Engine) -> None:
    options = {"read_only": True, "mounts": (Mount("tmpfs", "tmpfs", "/t", options="size=64k"),)}
    script = "exec 2>&1; touch /x; touch /etc/x; touch /t/x && echo fine; df -k /t | tail -1 | awk '{print $2}'"
    code, out = sh(script, **options)
    assert out.count("Read-only file system") == 2
    assert (code, out.split()[-2:]) == (0, ["fine", "64"])


def test_the_files_in_etc(sh: Sh) -> None:
    _, out = sh("cat /etc/hosts /etc/hostname; hostname", hostname="box", extra_hosts=("db:10.1.2.3",))
    assert "127.0.0.1\tlocalhost\n" in out
    assert "10.1.2.3\tdb\n" in out
    assert out.endswith("box\nbox\n")


def test_users_groups_directory_and_variables(sh: Sh) -> None:
    _, out = sh("id -u; id -g; pwd; echo $A $HOME", user="nobody", workdir="/made/for/you", env=("A=b c",))
    assert out.split("\n")[:4] == ["65534", "65534", "/made/for/you", "b c /home"]


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$; sleep 9", 143)])
def test_exit_codes_pass_through(sh: Sh, script: str, code: int) -> None:
    # Process 1 is safe from signals it does not handle, even its own: it is a child that dies here.
    assert sh(f"sh -c '{script}'; exit $?")[0] == code


@pytest.mark.parametrize(("command", "code"), [("nosuch", 127), ("/etc", 126), ("/etc/passwd", 126)])
def test_a_program_that_cannot_run_is_no_container(home: Engine, command: str, code: int) -> None:
    with pytest.raises(StartError) as caught:
        engine.run(home, "busybox", RunOptions(command=(command,), name="broken", network="none"))
    assert caught.value.exit_code == code
    container = home.containers.get("broken")
    assert (container.state.status, container.state.exit_code) == ("created", code)
    assert not os.path.exists(home.containers.run_path(container.id))
    with pytest.raises(StartError):
        engine.run(home, "busybox", RunOptions(command=(command,), remove=True, network="none"))
    assert [other.name for other in home.containers.list()] == ["broken"]


def test_an_unknown_user_is_no_container(home: Engine) -> None:
    with pytest.raises(StartError, match="unable to find user eve"):
        engine.run(home, "busybox", RunOptions(command=("true",), user="eve", remove=True, network="none"))


@pytest.mark.parametrize(
    "step",
    [
        "be_born",
        "mount_layers",
        "pivot",
        "protect",
        "restrict",
        "drop",
        "confine",
        "limit_bounding_set",
        "enter_workdir",
    ],
)
def test_isolation_never_fails_open(home: Engine, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Break one step of the birth: the container must not start."""
    sabotage = tmp_path / "sabotage.py"
    sabotage.write_text(
        "import sys\n"
        "from minidocker.container import mounting, namespaces, rootfs, security, shim, view\n"
        "from minidocker.linux import capabilities\n"
        "def broken(*args, **kwargs): raise OSError(1, 'broken on purpose')\n"
        "for module in (mounting, namespaces, rootfs, security, capabilities):\n"
        f"    if hasattr(module, {step!r}): setattr(module, {step!r}, broken)\n"
    )
    program = f"import sys; sys.path.insert(0, sys.argv[1]); exec(open({str(sabotage)!r}).read()); {{0}}.main()"
    monkeypatch.setattr("minidocker.container.programs._PROGRAM", program)
    marker = tmp_path / "marker"
    marker.touch()
    mounts = (Mount("bind", str(tmp_path), "/host"),)
    with pytest.raises(StartError, match="broken on purpose"):
        engine.run(home, "busybox", RunOptions(command=("rm", "/host/marker"), mounts=mounts, remove=True))
    assert marker.exists()
    assert home.containers.list() == []


def test_a_chroot_is_no_place_to_start_from(home: Engine, tmp_path: Path) -> None:
    """Its outside would be one chroot(2) or one `exec` away."""
    place = tmp_path / "jail"
    place.mkdir()
    script = (
        f"mount --rbind / {place} && mount --make-rprivate {place} && "
        f"exec chroot {place} {sys.executable} -m minidocker.cli.main run --rm --network none busybox true"
    )
    program = "import sys; from minidocker.cli.main import main; sys.exit(main(sys.argv[1:]))"
    script = script.replace("-m minidocker.cli.main", f"-c '{program}'")
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 125
    assert "minidocker runs in a chroot" in done.stderr


def test_output_and_errors_come_apart(home: Engine) -> None:
    command = ("sh", "-c", "echo out; echo err >&2")
    container, attachment = engine.run(home, "busybox", RunOptions(command=command, network="none"))
    assert attachment
    got = dict(attachment.frames())
    assert got == {1: b"out\n", 2: b"err\n"}
    logged = {(line.stream, line.data) for line in engine.logs(home, container)}
    assert logged == {("stdout", b"out\n"), ("stderr", b"err\n")}


def test_input_reaches_the_program_and_ends(home: Engine) -> None:
    _, attachment = engine.run(
        home, "busybox", RunOptions(command=("md5sum",), interactive=True, remove=True, network="none")
    )
    assert attachment
    data = os.urandom(300_000)

    def type_in() -> None:
        for at in range(0, len(data), 1000):
            attachment.send_stdin(data[at : at + 1000])
        attachment.close_stdin()

    typist = threading.Thread(target=type_in)
    typist.start()
    import hashlib

    assert b"".join(got for _, got in attachment.frames()).split()[0].decode() == hashlib.md5(data).hexdigest()
    typist.join()


def test_a_great_deal_of_output_arrives_whole(home: Engine) -> None:
    command = ("sh", "-c", "dd if=/dev/zero bs=1M count=20 2>/dev/null")
    _, attachment = engine.run(home, "busybox", RunOptions(command=command, network="none"))
    assert attachment
    time.sleep(0.3)  # a slow reader holds the container up, and loses nothing
    assert sum(len(data) for _, data in attachment.frames()) == 20 << 20
    assert attachment.exit_code == 0


def test_several_are_attached_at_once(home: Engine) -> None:
    container = detached(home, "sh", "-c", "read x; echo got $x", interactive=True)
    first, second = engine.attach(home, container), engine.attach(home, container)
    first.send_stdin(b"hello\n")
    assert [b"".join(data for _, data in each.frames()) for each in (first, second)] == [b"got hello\n"] * 2
    assert (first.exit_code, second.exit_code) == (0, 0)


def test_one_who_goes_away_hurts_nobody(home: Engine) -> None:
    container = detached(home, "sh", "-c", "while sleep 0.05; do echo x; done")
    gone = engine.attach(home, container)
    gone.close()
    stays = engine.attach(home, container)
    assert next(stays.frames())[1].startswith(b"x")
    assert home.containers.load(container.id).running


def test_a_terminal_is_a_real_one(home: Engine) -> None:
    _, attachment = engine.run(
        home, "busybox", RunOptions(command=("sh",), terminal=True, interactive=True, remove=True, network="none")
    )
    assert attachment
    attachment.resize(33, 77)
    attachment.send_stdin(b"tty; stty size; echo $TERM; sleep 100\n")
    seen = b""
    frames = attachment.frames()
    while b"xterm\r\n" not in seen:
        seen += next(frames)[1]
    time.sleep(0.2)
    attachment.send_stdin(b"\x03")  # ctrl-c ends the sleep, not the shell: job control works
    attachment.send_stdin(b"echo a'l'ive; exit 7\n")
    seen += b"".join(data for _, data in frames)
    assert b"/dev/pts/0\r\n33 77\r\nxterm\r\n" in seen
    assert b"\nalive\r\n" in seen
    assert attachment.exit_code == 7


def test_exec_is_inside(home: Engine) -> None:
    container = detached(home, "sleep", "100", env=("A=container",), hostname="box")
    options = ExecOptions(("sh", "-c", "echo $A $B $$; hostname; id -u; pwd; cat /proc/1/comm; exit 4"))
    attachment = engine.execute(home, container, options._replace(env=("B=exec",), user="nobody", workdir="/tmp"))
    assert attachment
    lines = b"".join(data for _, data in attachment.frames()).decode().split("\n")
    assert lines[0].startswith("container exec ")
    assert lines[1:5] == ["box", "65534", "/tmp", "sleep"]
    assert attachment.exit_code == 4


def test_exec_is_in_the_containers_namespaces_cgroups_and_capabilities(home: Engine) -> None:
    container = detached(home, "sleep", "100", cap_drop=("CHOWN",))
    script = "for n in mnt pid uts ipc net cgroup; do readlink /proc/self/ns/$n; done; grep CapEff /proc/self/status"
    attachment = engine.execute(home, container, ExecOptions(("sh", "-c", script)))
    assert attachment
    *spaces, caps = b"".join(data for _, data in attachment.frames()).decode().split("\n")[:-1]
    kinds = ("mnt", "pid", "uts", "ipc", "net", "cgroup")
    assert spaces == [os.readlink(f"/proc/{container.state.pid}/ns/{kind}") for kind in kinds]
    assert int(caps.split()[1], 16) == 0xA80425FB & ~1


def test_exec_with_a_terminal_and_what_cannot_be_executed(home: Engine) -> None:
    container = detached(home, "sleep", "100")
    attachment = engine.execute(home, container, ExecOptions(("tty",), terminal=True))
    assert attachment
    assert b"".join(data for _, data in attachment.frames()) == b"/dev/pts/0\r\n"
    with pytest.raises(StartError) as caught:
        engine.execute(home, container, ExecOptions(("nosuch",)))
    assert caught.value.exit_code == 127
    engine.stop(home, container, 0)
    with pytest.raises(ContainerStateError, match="is not running"):
        engine.execute(home, home.containers.load(container.id), ExecOptions(("true",)))


def test_a_detached_exec_goes_on_alone_and_ends_with_the_container(home: Engine) -> None:
    container = detached(home, "sleep", "100")
    assert engine.execute(home, container, ExecOptions(("sh", "-c", "echo > /seen; sleep 100"), detach=True)) is None
    upper = Path(home.containers.path(container.id, "upper"))
    wait_until((upper / "seen").exists)
    assert len(engine.top(home, container)[1]) >= 2
    engine.kill(home, container)
    assert engine.wait(home, container) == 137


def test_stop_asks_first(home: Engine) -> None:
    container = detached(home, "sh", "-c", "trap 'echo bye; exit 5' TERM; while :; do sleep 0.05; done")
    time.sleep(0.2)
    engine.stop(home, container)
    ended = home.containers.load(container.id)
    assert (ended.state.status, ended.state.exit_code) == ("exited", 5)
    assert [line.data for line in engine.logs(home, ended)] == [b"bye\n"]


def test_stop_kills_what_does_not_listen(home: Engine) -> None:
    container = detached(home, "sleep", "100")  # process 1 ignores TERM when it does not handle it
    begun = time.monotonic()
    engine.stop(home, container, timeout=0.3)
    assert 0.25 < time.monotonic() - begun < 3
    assert home.containers.load(container.id).state.exit_code == 137
    engine.stop(home, home.containers.load(container.id))  # once more is no error


def test_the_images_stop_signal(home: Engine) -> None:
    container = detached(home, "sh", "-c", "trap 'exit 6' USR1; while :; do sleep 0.05; done", stop_signal="SIGUSR1")
    time.sleep(0.2)
    engine.stop(home, container, timeout=5)
    assert home.containers.load(container.id).state.exit_code == 6


def test_restart_keeps_what_was_changed(home: Engine) -> None:
    container = detached(home, "sh", "-c", "echo x >> /n; sleep 100")
    upper = Path(home.containers.path(container.id, "upper"))
    wait_until((upper / "n").exists)
    engine.restart(home, container, timeout=0)
    wait_until(lambda: (upper / "n").read_text() == "x\nx\n")
    again = home.containers.load(container.id)
    assert again.running
    assert again.state.pid != container.state.pid


def test_start_of_a_running_container_is_no_error(home: Engine) -> None:
    container = detached(home, "sleep", "100")
    engine.start(home, container)
    assert home.containers.load(container.id).state.pid == container.state.pid


def test_a_running_container_is_removed_by_force_only(home: Engine) -> None:
    container = detached(home, "sleep", "100")
    with pytest.raises(Conflict, match="You cannot remove a running container"):
        engine.remove(home, container)
    engine.remove(home, container, force=True)
    with pytest.raises(ContainerNotFound):
        home.containers.load(container.id)
    assert not os.path.exists(home.containers.path(container.id))


def test_rm_leaves_nothing(home: Engine) -> None:
    detached(home, "sleep", "1", remove=True, network="bridge")
    wait_until(lambda: os.listdir(home.containers.folder) == ["names.lock"])
    assert sorted(os.listdir(home.run)) == ["network", "registry-unreachable-docker.io", "storage"]
    assert os.listdir(f"{home.run}/network/leases") == []


def test_memory_limit(sh: Sh, home: Engine) -> None:
    container = detached(home, "sh", "-c", "dd if=/dev/zero of=/dev/null bs=60M count=1; exit 9", memory=16 << 20)
    assert engine.wait(home, container) in (9, 137)
    assert home.containers.load(container.id).state.oom_killed


def test_process_limit(sh: Sh) -> None:
    _, out = sh("for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done 2>&1; echo end", pids_limit=5)
    assert "can't fork" in out


def test_processor_limit(home: Engine) -> None:
    container = detached(home, "sh", "-c", "while :; do :; done", cpus=0.25)

    def used() -> int:
        fields = Path(f"/proc/{container.state.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before, begun = used(), time.monotonic()
    time.sleep(2)
    share = (used() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - begun)
    assert 0.01 < share < 0.33  # a busy machine may give less than the limit, never more


def test_init_reaps_orphans_and_hands_signals_on(home: Engine) -> None:
    script = "(sleep 0.05 & ) ; trap 'exit 8' TERM; while :; do sleep 0.05; done"
    container = detached(home, "sh", "-c", script, init=True)
    time.sleep(0.5)
    rows = engine.top(home, container)[1]
    assert not [row for row in rows if "defunct" in row[-1] or row[-1].startswith("[")]
    with open(f"/proc/{container.state.pid}/status") as status:
        assert "CapEff:\t00000000a80425fb" in status.read()  # init is no more powerful than its child
    engine.stop(home, container, timeout=5)
    assert home.containers.load(container.id).state.exit_code == 8


def test_volumes_bind_and_named(home: Engine, sh: Sh, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("by the host")
    bind = Mount("bind", str(tmp_path), "/in", read_only=True)
    _, out = sh("cat /in/given; touch /in/x", mounts=(bind,))
    assert out.startswith("by the host")
    assert "Read-only file system" in out
    named = Mount("volume", "", "/etc", name="conf")
    assert sh("echo kept > /etc/kept; cat /etc/passwd", mounts=(named,))[1].startswith("root:")  # filled from the image
    assert sh("cat /etc/kept", mounts=(named,)) == (0, "kept\n")


def test_a_volume_without_a_name_goes_with_its_container(home: Engine) -> None:
    container = detached(home, "sleep", "100", mounts=(Mount("volume", "", "/data"),))
    assert len(os.listdir(f"{home.root}/volumes")) == 1
    engine.remove(home, container, force=True, volumes=True)
    assert os.listdir(f"{home.root}/volumes") == []


def test_a_mount_point_that_is_a_link_stays_inside(home: Engine, tmp_path: Path) -> None:
    """The image says where its paths lead; it must not say what of the host is mounted upon."""
    container = engine.create(home, "busybox", RunOptions(command=("cat", "/evil/x"), network="none",
                              mounts=(Mount("bind", str(tmp_path), "/evil"),)))  # fmt: skip
    (tmp_path / "x").write_text("seen")
    victim = tmp_path / "victim"
    victim.mkdir()
    os.symlink(str(victim), home.containers.path(container.id, "upper", "evil"))
    attachment = engine.start(home, container, attach=True)
    assert attachment
    assert b"".join(data for _, data in attachment.frames()) == b"seen"
    assert list(victim.iterdir()) == []


def test_a_killed_shim_takes_its_container_along(home: Engine) -> None:
    container = detached(home, "sleep", "100", network="bridge")
    os.kill(container.state.shim, signal.SIGKILL)
    wait_until(lambda: records.start_time(container.state.pid) == 0)
    state = home.containers.load(container.id).state
    assert (state.status, state.exit_code, state.error) == ("exited", 137, "its shim was killed")
    assert engine.wait(home, home.containers.load(container.id)) == 137
    engine.start(home, home.containers.load(container.id))  # what was left is cleared away first
    assert home.containers.load(container.id).running


def test_a_killed_command_does_not_hurt_a_detached_container(minidocker: Minidocker, home: Engine) -> None:
    process = minidocker.start("run", "--name", "web", "--network", "none", "busybox", "sleep", "100")
    wait_until(lambda: any(c.running for c in home.containers.list()))
    process.kill()
    process.wait()
    time.sleep(0.2)
    assert home.containers.get("web").running


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15])
def test_a_command_killed_while_it_starts_a_container(minidocker: Minidocker, home: Engine, delay: float) -> None:
    process = minidocker.start("run", "-d", "--name", "web", "busybox", "sleep", "100")
    time.sleep(delay)
    process.kill()
    process.wait()
    time.sleep(0.3)
    for container in home.containers.list():  # it runs whole, or it does not run
        if container.running:
            assert engine.execute(home, container, ExecOptions(("true",), detach=True)) is None
        engine.remove(home, container, force=True)
    minidocker.ok("run", "--rm", "--name", "web", "busybox", "true")


def test_twenty_at_once(minidocker: Minidocker, home: Engine) -> None:
    processes = [minidocker.start("run", "-d", "-p", "80", "busybox", "sleep", "100", stdout=subprocess.DEVNULL)
                 for _ in range(20)]  # fmt: skip
    assert [process.wait(60) for process in processes] == [0] * 20
    running = [container for container in home.containers.list() if container.running]
    assert len({container.state.address for container in running}) == 20
    assert len({container.state.ports[0].host_port for container in running}) == 20


def test_two_commands_on_one_container(home: Engine) -> None:
    container = detached(home, "sleep", "100")
    problems: list[BaseException] = []

    def attempt(action: Callable[[], object]) -> None:
        try:
            action()
        except (MinidockerError, OSError) as error:
            problems.append(error)

    actions: list[Callable[[], object]] = [
        lambda: engine.stop(home, container, 0),
        lambda: engine.restart(home, container, 0),
        lambda: engine.start(home, container),
        lambda: engine.remove(home, container, force=True),
        lambda: engine.remove(home, container, force=True),
    ]
    threads = [threading.Thread(target=attempt, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert all(isinstance(problem, ContainerNotFound | Conflict | StartError) for problem in problems), problems
    for left in home.containers.list():
        engine.remove(home, left, force=True)


def test_diff_commit_and_the_image_of_it(home: Engine) -> None:
    script = (
        "echo new > /added; echo x >> /etc/passwd; rm /bin/vi; rm -r /home; mkdir /home; touch /home/h; chmod 711 /root"
    )
    container = detached(home, "sh", "-c", script)
    engine.wait(home, container)
    found = [f"{change.kind} {change.path}" for change in engine.diff(home, container)]
    expected = ["A /added", "C /bin", "D /bin/vi", "C /etc", "C /etc/passwd", "C /home", "A /home/h", "C /root"]
    assert found == expected
    engine.commit(home, container, "changed:1", message="why", changes=['CMD ["cat", "/added"]', "ENV A=b"])
    _, attachment = engine.run(home, "changed:1", RunOptions(remove=True, network="none"))
    assert attachment
    assert b"".join(data for _, data in attachment.frames()) == b"new\n"
    config = home.images.config(home.images.get("changed:1"))
    assert config.history[-1]["comment"] == "why"
    assert "A=b" in config.config["Env"]


def _until_it_sleeps(home: Engine, id: str) -> None:
    pid = home.containers.get(id).state.pid
    wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")


def test_copying_where_overlayfs_cannot_be_had(home: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIDOCKER_STORAGE", "copy")
    container = detached(home, "sh", "-c", "echo new > /added; rm /bin/vi; exec sleep 100", network="none")
    assert "overlay" not in Path(f"/proc/{container.state.pid}/mountinfo").read_text().split("\n")[0]
    _until_it_sleeps(home, container.id)
    engine.stop(home, container, 0)
    engine.start(home, container)
    _until_it_sleeps(home, container.id)  # killed before, it might have emptied the file and not yet written it
    engine.stop(home, container, 0)
    found = [f"{change.kind} {change.path}" for change in engine.diff(home, container)]
    assert found == ["A /added", "C /bin", "D /bin/vi"]
    engine.commit(home, container, "copied:1")
    monkeypatch.delenv("MINIDOCKER_STORAGE")
    _, attachment = engine.run(
        home, "copied:1", RunOptions(command=("sh", "-c", "cat /added; ls /bin/vi"), remove=True, network="none")
    )
    assert attachment
    assert b"".join(data for _, data in attachment.frames()).startswith(b"new\nls: /bin/vi: No such file")


def test_more_layers_than_mount_options_hold(home: Engine) -> None:
    image = home.images.get("busybox")
    for number in range(70):
        made = engine.create(home, image.id, RunOptions(command=("true",)))
        upper = Path(home.containers.path(made.id, "upper"))
        (upper / f"layer{number}").touch()
        image = engine.commit(home, made, "deep:1")
        engine.remove(home, made)
    assert len(home.images.config(image).diff_ids) == 71
    _, attachment = engine.run(
        home, "deep:1", RunOptions(command=("sh", "-c", "ls -d /layer* | wc -l"), remove=True, network="none")
    )
    assert attachment
    assert b"".join(data for _, data in attachment.frames()) == b"70\n"


def test_explain_tells_what_is_done(minidocker: Minidocker, busybox_image: str) -> None:
    told = minidocker("--explain", "run", "--rm", "busybox", "true").stderr
    order = ["clone(CLONE_NEWPID|SIGCHLD)", "CLONE_NEWNS|CLONE_NEWUTS|CLONE_NEWIPC|CLONE_NEWNET", "type=overlay",
             "type=proc", "pivot_root(., .)", "umount2(., MNT_DETACH)", "capset(", "execve("]  # fmt: skip
    assert [told.index(step) for step in order] == sorted(told.index(step) for step in order)
    into = "/tasks" if cgroups.version(cgroups.everywhere()) == 1 else "/cgroup.procs"
    for shell in ("unshare --mount", "mount -t overlay", "ip link add", into, "hostname "):
        assert shell in told, shell


def test_inspect_knows_the_process(minidocker: Minidocker, home: Engine) -> None:
    container = detached(home, "sleep", "100", name="web")
    document = json.loads(minidocker.ok("inspect", "web"))[0]
    assert document["State"]["Pid"] == container.state.pid
    assert document["State"]["Running"] is True
    assert re.fullmatch(r"[0-9a-f]{64}", document["Id"])


def test_what_removes_itself_is_never_written_out(home: Engine) -> None:
    """Whether its files are on the disk matters to nobody: others wait for nothing when it ends."""
    for remove in (True, False):
        command = ("grep", "^overlay / ", "/proc/mounts")
        options = RunOptions(command=command, remove=remove, network="none")
        _, attachment = engine.run(home, "busybox", options)
        assert attachment is not None
        shown = b"".join(data for _, data in attachment.frames())
        assert shown.startswith(b"overlay / ")
        assert (b"volatile" in shown) == remove


def test_what_removes_itself_can_start_again_when_its_first_start_failed(home: Engine) -> None:
    container = engine.create(home, "busybox", RunOptions(command=("/missing",), remove=True, network="none"))
    for _ in range(2):
        with pytest.raises(StartError, match="no such file"):
            engine.start(home, container)
    engine.remove(home, container)
