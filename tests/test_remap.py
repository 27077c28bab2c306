"""`--userns remap`: container root is nobody on the host, and everything else is as it was."""

import json
import os
import re

import pytest

from conftest import Minidocker, Roots
from minidocker.container import remap
from minidocker.container.rootless import IdRange
from minidocker.container.spec import Mount, Spec
from peers import free_port
from test_examples import fetch, until


def test_the_range_is_that_of_our_user_or_nobodys(tmp_path: "os.PathLike[str]") -> None:
    folder = str(tmp_path)
    with open(f"{folder}/subuid", "w") as file:
        file.write("ada:100000:65536\nbob:165536:65536\n")
    assert remap.ranges(folder) == (IdRange(0, 231072, 65536), IdRange(0, 100000, 65536))
    for name in ("subuid", "subgid"):
        with open(f"{folder}/{name}", "a") as file:
            file.write("dockremap:500000:65536\n")
    assert remap.ranges(folder) == (IdRange(0, 500000, 65536), IdRange(0, 500000, 65536))


def test_mounts_are_staged_within_reach() -> None:
    mounts = (Mount("bind", "/root/x", "/x"), Mount("tmpfs", "tmpfs", "/t"), Mount("volume", "/v", "/v"))
    moved = remap.staged(Spec(args=(), mounts=mounts)).mounts
    assert [mount.source for mount in moved] == [f"{remap.ASIDE}/mounts/0", "tmpfs", f"{remap.ASIDE}/mounts/2"]
    assert [mount.target for mount in moved] == ["/x", "/t", "/v"]


def facts(minidocker: Minidocker, name: str) -> tuple[int, str]:
    """Return a container's process id and its folder of changes."""
    document = json.loads(minidocker.ok("inspect", name))[0]
    assert document["HostConfig"]["UsernsMode"] == "remap"
    return document["State"]["Pid"], document["GraphDriver"]["Data"]["UpperDir"]


@pytest.mark.root
def test_container_root_is_nobody_on_the_host(minidocker: Minidocker, busybox_image: str) -> None:
    minidocker.ok("run", "-d", "--name", "mapped", "--userns", "remap", "busybox", "sleep", "99")
    pid, upper = facts(minidocker, "mapped")
    with open(f"/proc/{pid}/uid_map") as file:
        inside, outside, count = map(int, file.read().split())
    assert (inside, count) == (0, remap.ranges().uids.length)
    assert os.stat(f"/proc/{pid}").st_uid == outside >= 65536
    assert minidocker.ok("exec", "mapped", "id", "-u") == "0"
    assert minidocker.ok("exec", "mapped", "stat", "-c", "%u:%g", "/bin", "/etc/hosts").split() == ["0:0", "0:0"]
    minidocker.ok(
        "exec", "mapped", "sh", "-c", "echo x > /mine; cp /mine /his; chown 33:34 /his; echo y >> /etc/passwd"
    )
    owners = {name: os.stat(f"{upper}/{name}") for name in ("mine", "his", "etc/passwd")}
    assert {name: (one.st_uid, one.st_gid) for name, one in owners.items()} == {
        "mine": (0, 0),
        "his": (33, 34),
        "etc/passwd": (0, 0),
    }, "on the disk, owners are those of the image"
    for command in ("mount -t tmpfs x /tmp", "mknod /n b 8 0", "chown 70000 /mine"):
        assert minidocker("exec", "mapped", *command.split()).returncode != 0


@pytest.mark.root
def test_changes_are_taken_as_ever(minidocker: Minidocker, busybox_image: str) -> None:
    script = "rm /etc/group; rm -r /var; mkdir /var; echo n > /var/new; chown -R 5:6 /var; chmod 4755 /bin/busybox"
    minidocker.ok("run", "--name", "changing", "--userns", "remap", "busybox", "sh", "-c", script)
    minidocker.ok("run", "--name", "plain", "busybox", "sh", "-c", script)
    assert minidocker.ok("diff", "changing") == minidocker.ok("diff", "plain")
    minidocker.ok("commit", "changing", "changed")
    see = ("stat", "-c", "%u:%g %a", "/var/new", "/bin/busybox", "/etc")
    for options in ([], ["--userns", "remap"]):
        assert minidocker.ok("run", "--rm", *options, "changed", *see).splitlines() == [
            "5:6 644",
            "0:0 4755",
            "0:0 755",
        ]
    minidocker.ok("start", "changing")


@pytest.mark.root
def test_copies_keep_their_owners(minidocker: Minidocker, busybox_image: str, tmp_path: "os.PathLike[str]") -> None:
    folder = f"{tmp_path}/folder"
    os.mkdir(folder)
    with open(f"{folder}/file", "w") as file:
        file.write("one\n")
    os.chown(f"{folder}/file", 12, 13)
    minidocker.ok("run", "-d", "--name", "mapped", "--userns", "remap", "-v", "kept:/kept", "busybox", "sleep", "99")
    for target in ("/in", "/kept/in"):
        minidocker.ok("cp", "-a", folder, f"mapped:{target}")
        seen = minidocker.ok("exec", "mapped", "stat", "-c", "%u:%g", f"{target}/file", target).split()
        assert seen == ["12:13", "0:0"]
        minidocker.ok("cp", "-a", f"mapped:{target}", f"{tmp_path}/out{len(target)}")
        back = os.stat(f"{tmp_path}/out{len(target)}/file")
        assert (back.st_uid, back.st_gid) == (12, 13)
    minidocker.ok("stop", "-t", "0", "mapped")
    minidocker.ok("cp", "-a", "mapped:/in/file", f"{tmp_path}/stopped")
    assert os.stat(f"{tmp_path}/stopped").st_uid == 12
    minidocker.ok("rm", "-v", "mapped")
    minidocker.ok("volume", "rm", "kept")


@pytest.mark.root
def test_volumes_are_shared_and_the_hosts_files_are_safe(
    minidocker: Minidocker, busybox_image: str, tmp_path: "os.PathLike[str]"
) -> None:
    os.chmod(tmp_path, 0o755)
    for name, mode in (("closed", 0o700), ("open", 0o777)):
        os.mkdir(f"{tmp_path}/{name}")
        os.chmod(f"{tmp_path}/{name}", mode)
    binds = ["-v", f"{tmp_path}/closed:/closed", "-v", f"{tmp_path}/open:/open", "-v", "kept:/etc"]
    script = "echo a > /etc/a; echo b > /open/b; ls /closed || echo shut; ls /etc/hostname"
    done = minidocker("run", "--rm", "--userns", "remap", *binds, "busybox", "sh", "-c", script)
    assert done.stdout == "shut\n/etc/hostname\n", done.stderr
    assert os.stat(f"{tmp_path}/open/b").st_uid >= 65536
    plain = minidocker.ok("run", "--rm", "-v", "kept:/kept", "busybox", "stat", "-c", "%u", "/kept/a", "/kept/passwd")
    assert plain.split() == ["0", "0"]
    shadow = minidocker("run", "--rm", "--userns", "remap", "-v", "/etc/shadow:/shadow", "busybox", "cat", "/shadow")
    assert "ermission denied" in shadow.stderr
    minidocker.ok("volume", "rm", "kept")


@pytest.mark.root
def test_ports_terminals_and_users_work(minidocker: Minidocker, busybox_image: str) -> None:
    port = free_port()
    serve = "echo page > /tmp/index.html; exec httpd -f -p 80 -h /tmp"
    options = ["-d", "--name", "web", "--userns", "remap", "-p", f"{port}:80", "-u", "daemon", "--read-only"]
    minidocker.ok("run", *options, "--tmpfs", "/tmp", "busybox", "sh", "-c", serve)
    assert until(lambda: fetch(f"http://127.0.0.1:{port}/")) == "page\n"
    with minidocker.pty("exec", "-it", "web", "sh") as shell:
        shell.expect(r"\$ ")
        shell.send("tty; id -un\r")
        shell.expect("/dev/pts/0\r\ndaemon\r\n")
        shell.send("exit\r")
        assert shell.wait() == 0
    with minidocker.pty("run", "-it", "--rm", "--userns", "remap", "busybox") as shell:
        shell.expect("/ # ")
        shell.send("echo $((6 * 7)); exit 4\r")
        shell.expect("42")
        assert shell.wait() == 4


@pytest.mark.root
def test_the_environment_says_what_is_usual(
    minidocker: Minidocker, busybox_image: str, roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIDOCKER_USERNS", "remap")
    remapped = re.compile(
        r"^ *0 +[1-9][0-9]{4,} +[0-9]+$", re.MULTILINE
    )  # where ids begin depends on who else has some
    assert remapped.search(minidocker.ok("run", "--rm", "busybox", "cat", "/proc/self/uid_map"))
    assert not remapped.search(minidocker.ok("run", "--rm", "--userns", "host", "busybox", "cat", "/proc/self/uid_map"))
    os.mkdir(f"{roots.root}/context")
    with open(f"{roots.root}/context/Dockerfile", "w") as file:
        file.write("FROM busybox\nRUN cat /proc/self/uid_map; echo x > /x; chown 7 /x\n")
    assert remapped.search(minidocker.ok("build", "-t", "built", f"{roots.root}/context"))
    assert minidocker.ok("run", "--rm", "built", "stat", "-c", "%u", "/x") == "7"


@pytest.mark.root
@pytest.mark.parametrize("storage", ["copy", "overlay"])
def test_many_start_and_nothing_is_left(
    minidocker: Minidocker, busybox_image: str, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIDOCKER_STORAGE", storage)
    for _ in range(3):
        assert minidocker.ok("run", "--rm", "--userns", "remap", "busybox", "sh", "-c", "echo x > /x; cat /x") == "x"
    failing = minidocker("run", "--rm", "--userns", "remap", "busybox", "nothing-such")
    assert failing.returncode == 127


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--privileged"], "privileged mode is incompatible with user namespaces"),
        (["--network", "host"], "cannot share the host's network namespace when user namespaces are enabled"),
    ],
)
def test_what_needs_the_hosts_root_is_refused(
    minidocker: Minidocker, busybox_image: str, options: list[str], words: str
) -> None:
    done = minidocker("run", "--rm", "--userns", "remap", *options, "busybox", "true")
    assert done.returncode == 125
    assert words in done.stderr
    assert minidocker("run", "--userns", "other", "busybox").returncode == 125
