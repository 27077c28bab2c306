"""minidocker as an ordinary user: the whole tutorial, and what happens where something is missing or is killed."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

import clean
from ordinary import Ordinary, ordinary_user
from peers import DockerRegistry, free_port
from test_examples import EXAMPLES, fetch, log_in, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(500)]
BUILD = 400
NEEDED = ("newuidmap", "slirp4netns", "setpriv", "useradd")


def made(subordinate: bool, embedded: str) -> "contextlib.AbstractContextManager[Ordinary]":
    """Make a user who has the base images."""
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: run `make test`, which installs them")
    return _made(subordinate, embedded)


@contextlib.contextmanager
def _made(subordinate: bool, embedded: str) -> Iterator[Ordinary]:
    with ordinary_user(subordinate) as user:
        user.env["MINIDOCKER_EMBEDDED"] = embedded
        yield user


@pytest.fixture(scope="module")
def shared(embedded: str) -> Iterator[Ordinary]:
    with made(True, embedded) as user:
        for image in ("busybox", "debian:bookworm"):
            user.ok("pull", "-q", image)
        yield user


@pytest.fixture
def user(shared: Ordinary) -> Iterator[Ordinary]:
    """Return a user with subordinate ids, and remove the containers of each test."""
    yield shared
    if listed := shared("ps", "-aq").stdout.split():
        shared("rm", "-f", "-v", *listed)


@pytest.fixture(scope="module")
def single_shared(embedded: str) -> Iterator[Ordinary]:
    with made(False, embedded) as user:
        yield user


@pytest.fixture
def single(single_shared: Ordinary) -> Iterator[Ordinary]:
    """Return a user to whom the machine gives no subordinate ids."""
    yield single_shared
    if listed := single_shared("ps", "-aq").stdout.split():
        single_shared("rm", "-f", *listed)


@pytest.fixture
def fresh(embedded: str) -> Iterator[Ordinary]:
    """Return a user of this test's own, for what is killed or changed for all of the user's commands."""
    with made(True, embedded) as user:
        user.ok("pull", "-q", "busybox")
        yield user


def holder(user: Ordinary) -> int:
    with open(f"{user.run}/rootless/holder.json") as file:
        return int(json.load(file)["pid"])


def own_address() -> str:
    """Return an address of this machine that is not on the loopback."""
    listed = subprocess.run(
        ["ip", "-4", "-o", "addr", "show", "scope", "global"], capture_output=True, text=True
    ).stdout
    found = [line.split()[3].partition("/")[0] for line in listed.splitlines() if " eth" in line or " en" in line]
    if not found:
        pytest.skip("this machine has no address but those of the loopback")
    return found[0]


# The tutorial


def test_containers_from_pull_to_rm(user: Ordinary) -> None:
    assert "busybox" in user.ok("images")
    assert user.ok("run", "--rm", "busybox", "echo", "hello") == "hello"
    assert user.ok("run", "--rm", "-i", "busybox", "cat", input="typed") == "typed"
    assert user("run", "--rm", "busybox", "sh", "-c", "exit 7").returncode == 7
    assert user("run", "--rm", "busybox", "nothing-such").returncode == 127
    name = user.ok(
        "run", "-d", "--name", "web", "busybox", "sh", "-c", "echo started; trap 'exit 0' TERM; sleep 99 & wait"
    )
    assert f"{name[:12]}   busybox" in user.ok("ps")
    assert until(lambda: user.ok("logs", "web")) == "started"
    assert user.ok("exec", "web", "hostname") == name[:12]
    assert user.ok("exec", "-u", "daemon", "web", "id", "-un") == "daemon"
    assert user.ok("exec", "-i", "web", "sh", "-c", "cat > /made; rm /etc/passwd", input="made\n") == ""
    assert user.ok("diff", "web").splitlines() == ["C /etc", "D /etc/passwd", "A /made"]
    assert "sleep 99" in user.ok("top", "web")
    assert json.loads(user.ok("inspect", "web"))[0]["State"]["Running"] is True
    user.ok("restart", "-t", "5", "web")
    assert user.ok("exec", "web", "cat", "/made") == "made"
    user.ok("stop", "-t", "5", "web")
    assert "Exited (0)" in user.ok("ps", "-a")
    user.ok("commit", "-m", "a file more", "web", "changed:1")
    assert user.ok("run", "--rm", "changed:1", "sh", "-c", "cat /made; ls /etc/passwd 2>&1 || true").splitlines() == [
        "made",
        "ls: /etc/passwd: No such file or directory",
    ]
    user.ok("rm", "web")
    user.ok("rmi", "changed:1")


def test_a_terminal(user: Ordinary) -> None:
    with user.pty("run", "-it", "--rm", "--name", "shell", "busybox") as shell:
        shell.expect("/ # ")
        shell.send("tty; id -u\r")
        shell.expect("/dev/pts/0\r\n0\r\n")
        shell.send("\x10\x11")
        assert shell.wait() == 0
    with user.pty("attach", "shell") as shell:
        shell.send("echo a''gain\r")
        shell.expect("again")
        shell.send("exit 3\r")
        assert shell.wait() == 3


SERVER = """
use IO::Socket::INET;
my $udp = IO::Socket::INET->new(Proto => "udp", LocalPort => 7);
my $tcp = IO::Socket::INET->new(Proto => "tcp", LocalPort => 80, Listen => 5, ReuseAddr => 1);
if (fork) { while ($udp->recv(my $asked, 99)) { $udp->send("back\n"); } }
while (my $one = $tcp->accept) { print $one "HTTP/1.0 200 OK\r\n\r\npage\n"; close $one }
"""


def test_published_ports(user: Ordinary) -> None:
    tcp, udp = free_port(), free_port()
    serve = ["run", "-d", "--name", "ports", "-p", f"{tcp}:80", "-p", f"{udp}:7/udp", "debian:bookworm", "perl", "-e"]
    user.ok(*serve, SERVER)
    assert user.ok("port", "ports").splitlines() == [f"7/udp -> 0.0.0.0:{udp}", f"80/tcp -> 0.0.0.0:{tcp}"]
    for address in ("127.0.0.1", own_address()):
        assert until(lambda: fetch(f"http://{address}:{tcp}/")) == "page\n"  # noqa: B023, called at once
    assert until(lambda: ask_by_udp(udp)) == "back\n"
    clash = user("run", "-d", "--name", "second", "-p", f"{tcp}:80", "busybox", "sleep", "9")
    assert (clash.returncode, "port is already allocated" in clash.stderr) == (125, True)
    user.ok("rm", "-f", "ports")
    assert fetch(f"http://127.0.0.1:{tcp}/") == ""
    user.ok("start", "second")
    user.ok("rm", "-f", "second")


def ask_by_udp(port: int) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1)
        asking.sendto(b"hello\n", ("127.0.0.1", port))
        try:
            return asking.recv(100).decode()
        except OSError:
            return ""


def test_containers_reach_each_other_and_not_the_hosts_loopback(user: Ordinary) -> None:
    user.ok("run", "-d", "--name", "server", "busybox", "sh", "-c", "echo near > /index.html; httpd -f -p 80 -h /")
    address = user.ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "server")
    assert until(lambda: user("run", "--rm", "busybox", "wget", "-qO-", f"http://{address}").stdout) == "near\n"
    with socket.create_server(("127.0.0.1", 0)) as private:
        port = private.getsockname()[1]
        for where in ("127.0.0.1", "198.51.100.2"):
            assert user("run", "--rm", "busybox", "nc", "-w", "2", where, str(port)).returncode != 0


def test_the_ssh_server_is_built_with_apt_and_logged_in_to(user: Ordinary) -> None:
    assert "Successfully tagged eg_sshd" in user.ok("build", "-t", "eg_sshd", f"{EXAMPLES}/sshd", timeout=BUILD)
    container = user.ok("run", "-d", "-P", "--name", "test_sshd", "eg_sshd")
    port = user.ok("port", "test_sshd", "22").split()[0].rpartition(":")[2]
    assert until(lambda: log_in(port, "hostname; id -u")).splitlines() == [container[:12], "0"]
    log = user.ok("run", "--rm", "eg_sshd", "ls", "-ld", "/var/mail", "/var/log/apt/term.log")
    assert " root mail " in log or " root adm " in log, "files keep the owners that packages give them"


def test_the_web_application_is_built(user: Ordinary) -> None:
    user.ok("build", "-t", "guests", f"{EXAMPLES}/web", timeout=BUILD)
    port = free_port()
    user.ok("run", "-d", "-p", f"{port}:80", "guests")
    assert "<html" in until(lambda: fetch(f"http://127.0.0.1:{port}/")).lower()


def test_files_go_in_and_out(user: Ordinary) -> None:
    home = user.account.pw_dir
    user.command("sh", "-c", "mkdir -p in/sub; echo one > in/sub/file; chmod 640 in/sub/file")
    user.ok("run", "-d", "--name", "files", "busybox", "sleep", "99")
    user.ok("cp", f"{home}/in", "files:/tmp/in")
    assert user.ok("exec", "files", "stat", "-c", "%u %a", "/tmp/in/sub/file") == "0 640"
    user.ok("exec", "files", "sh", "-c", "echo two > /tmp/in/sub/two; chown 33:33 /tmp/in/sub/two")
    user.ok("cp", "files:/tmp/in", f"{home}/out")
    assert os.stat(f"{home}/out/sub/two").st_uid == user.account.pw_uid, "what comes out is the user's"
    user.ok("stop", "-t", "0", "files")
    user.ok("cp", "files:/tmp/in/sub/two", f"{home}/two")
    user.ok("export", "-o", f"{home}/tree.tar", "files")
    user.ok("import", f"{home}/tree.tar", "flat:1")
    assert user.ok("run", "--rm", "flat:1", "stat", "-c", "%u", "/tmp/in/sub/two") == "33"
    user.ok("save", "-o", f"{home}/image.tar", "flat:1")
    user.ok("rmi", "flat:1")
    user.ok("load", "-i", f"{home}/image.tar")
    assert user.ok("run", "--rm", "flat:1", "cat", "/tmp/in/sub/file") == "one"


@pytest.mark.peers
def test_images_go_through_a_registry_of_the_host(
    user: Ordinary, docker_registry: Callable[..., DockerRegistry]
) -> None:
    host = docker_registry().host
    user.ok("tag", "busybox", f"{host}/mine:1")
    user.ok("push", f"{host}/mine:1")
    user.ok("rmi", f"{host}/mine:1")
    user.ok("pull", f"{host}/mine:1")
    assert user.ok("run", "--rm", f"{host}/mine:1", "echo", "back") == "back"


def test_a_folder_of_the_users_is_a_volume(user: Ordinary) -> None:
    folder = f"{user.account.pw_dir}/data"
    user.command("mkdir", "-p", folder)
    user.ok(
        "run",
        "--rm",
        "-v",
        f"{folder}:/data",
        "busybox",
        "sh",
        "-c",
        "echo a > /data/a; echo b > /data/b; chown 33 /data/b",
    )
    owners = [os.stat(f"{folder}/{name}").st_uid for name in ("a", "b")]
    assert owners[0] == user.account.pw_uid, "container root is the user"
    assert owners[1] == first_subordinate(user) + 32, "id 1 is the first of the user's subordinate ids"
    user.ok("run", "--rm", "-v", f"{folder}:/data:ro", "busybox", "cat", "/data/a")
    user.ok("volume", "create", "kept")
    user.ok("run", "--rm", "-v", "kept:/etc", "busybox", "sh", "-c", "echo more > /etc/more")
    assert user.ok("run", "--rm", "-v", "kept:/x", "busybox", "cat", "/x/more", "/x/hostname") == "more"
    user.ok("volume", "rm", "kept")


def first_subordinate(user: Ordinary) -> int:
    with open("/etc/subuid") as file:
        return next(int(line.split(":")[1]) for line in file if line.startswith(f"{user.name}:"))


def test_container_root_is_the_user_on_the_host(user: Ordinary) -> None:
    facts = user.ok("run", "--rm", "busybox", "sh", "-c", "cat /proc/self/uid_map; ls /dev; mount -t tmpfs x /mnt; ps")
    assert f"0 {user.account.pw_uid:10} {1:10}" in facts
    assert "sda" not in facts
    assert "ps\n" in f"{facts}\n"
    secret = user("run", "--rm", "-v", "/etc/shadow:/shadow", "busybox", "cat", "/shadow")
    assert "ermission denied" in secret.stderr, "container root has the user's rights on the host, and no more"


# What cannot be had


def test_what_an_ordinary_user_cannot_have_is_named(user: Ordinary) -> None:
    low = user("run", "--rm", "-p", "81:80", "busybox", "true")
    assert low.returncode == 125
    assert "permission denied: an ordinary user may not publish ports below 1024" in low.stderr
    if not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        limited = user("run", "--rm", "-m", "64m", "busybox", "true")
        assert limited.returncode == 125
        assert "cannot limit the container" in limited.stderr


def test_privileged_is_all_of_the_users_power(user: Ordinary) -> None:
    done = user.ok(
        "run",
        "--rm",
        "--privileged",
        "busybox",
        "sh",
        "-c",
        "mount -t tmpfs x /tmp && echo mounted; mknod /n b 8 0 || echo no",
    )
    assert done.split() == ["mounted", "no"]


# One id only


def test_one_id_is_said_once_with_what_it_costs(single: Ordinary) -> None:
    first = single("pull", "busybox")
    assert first.returncode == 0, first.stderr
    assert f"user {single.name} has no subordinate ids" in first.stderr
    assert "one user only" in first.stderr
    assert "--add-subuids" in first.stderr
    again = single("run", "--rm", "busybox", "id")
    assert again.stderr == ""
    assert again.stdout.startswith("uid=0(root) gid=0(root)")


def test_one_id_runs_images_with_files_of_many(single: Ordinary) -> None:
    single.ok("pull", "-q", "debian:bookworm")
    owners = single.ok(
        "run", "--rm", "debian:bookworm", "stat", "-c", "%u:%g", "/etc/shadow", "/var/mail", "/usr/bin/wall"
    )
    assert set(owners.split()) == {"0:0"}
    context = f"{single.account.pw_dir}/context"
    single.command("sh", "-c", f"mkdir -p {context}; echo FROM debian:bookworm > {context}/Dockerfile")
    single.command("sh", "-c", f"echo 'RUN echo x > /x && rm /etc/issue' >> {context}/Dockerfile")
    single.ok("build", "-t", "made", context)
    assert single("run", "--rm", "made", "cat", "/x", "/etc/issue").stdout == "x\n"
    other = single("run", "--rm", "-u", "33", "busybox", "true")
    assert other.returncode == 125
    assert "user 33 does not exist here" in other.stderr


# Layers


@pytest.mark.parametrize("storage", ["overlay", "copy"])
def test_whiteouts_and_opaque_folders(fresh: Ordinary, storage: str) -> None:
    fresh.env["MINIDOCKER_STORAGE"] = storage
    change = "rm /etc/group; rm -r /var/spool; mkdir /var/spool; echo n > /var/spool/new; rm -r /home; "
    change += "echo more >> /etc/passwd"
    fresh.ok("run", "--name", "changing", "busybox", "sh", "-c", change)
    expected = fresh.ok("diff", "changing").splitlines()
    assert {"C /etc", "D /etc/group", "C /etc/passwd", "D /home", "A /var/spool/new"} <= set(expected)
    assert not [line for line in expected if line[2:].startswith("/dev")]
    fresh.ok("commit", "changing", "changed")
    seen = fresh.ok("run", "--rm", "changed", "sh", "-c", "ls /var/spool; ls -d /etc/group /home 2>/dev/null; true")
    assert seen == "new"
    context = f"{fresh.account.pw_dir}/context"
    text = "FROM changed\nRUN rm -r /var/spool && mkdir /var/spool && echo n > /var/spool/newer\nRUN rm /etc/passwd\n"
    fresh.command("mkdir", context)
    fresh.command("sh", "-c", "cat > context/Dockerfile", input=text)
    fresh.ok("build", "-t", "built", context)
    seen = fresh.ok("run", "--rm", "built", "sh", "-c", "ls /var/spool; ls -d /etc/passwd 2>/dev/null; true")
    assert seen == "newer"
    fresh.ok("save", "-o", f"{fresh.account.pw_dir}/built.tar", "built")
    assert (".wh..wh..opq" if storage == "overlay" else ".wh.new") in layer_names(f"{fresh.account.pw_dir}/built.tar")


def layer_names(archive: str) -> str:
    """Return the names in all layers of a saved image."""
    script = (
        f"cd $(mktemp -d) && tar xf {archive} && find . -type f -size +0 | while read f; do tar tf $f 2>/dev/null; done"
    )
    return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False).stdout


def test_where_the_kernel_refuses_overlayfs_roots_are_copied(fresh: Ordinary) -> None:
    """An overlay cannot lie on an overlay: its upper directory would have to be on one."""
    data, base = f"{fresh.account.pw_dir}/.local/share", fresh.base
    for name in ("lower", "upper", "work"):
        os.mkdir(f"{base}/{name}")
        os.chown(f"{base}/{name}", fresh.account.pw_uid, fresh.account.pw_gid)
    options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
    enter = ["nsenter", f"--mount=/proc/{fresh.keeper}/ns/mnt", "--"]
    subprocess.run([*enter, "mount", "-t", "overlay", "overlay", "-o", options, data], check=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{fresh.run}/storage")
    fresh.ok("pull", "-q", "busybox")
    first = fresh("run", "--name", "copied", "busybox", "sh", "-c", "rm /etc/group; echo x > /x")
    assert first.returncode == 0, first.stderr
    assert "overlayfs cannot be used below" in first.stderr
    assert fresh.ok("diff", "copied").splitlines() == ["C /etc", "D /etc/group", "A /x"]
    second = fresh("run", "--rm", "busybox", "echo", "again")
    assert (second.stdout, second.stderr) == ("again\n", "")
    assert "every container begins with a copy" in fresh.ok("doctor")


def test_newuidmap_is_missing(fresh: Ordinary) -> None:
    fresh.ok("system", "prune", "-f")
    tools = f"{fresh.base}/tools"
    os.mkdir(tools)
    for tool in ("slirp4netns", "nft"):
        os.symlink(str(shutil.which(tool)), f"{tools}/{tool}")
    done = fresh("run", "--rm", "busybox", "cat", "/proc/self/uid_map", env={"PATH": tools})
    assert done.stdout.split() == ["0", str(fresh.account.pw_uid), "1"]
    assert "newuidmap is missing, so a container has one user only" in done.stderr


# Where things are, and what is killed


def test_everything_is_in_the_users_own_folders(fresh: Ordinary) -> None:
    assert os.path.isdir(f"{fresh.root}/images")
    assert os.stat(fresh.run).st_uid == fresh.account.pw_uid
    elsewhere = fresh("images", "-q", env={"XDG_DATA_HOME": f"{fresh.base}/runtime/data"})
    assert elsewhere.stdout == ""


def test_no_runtime_dir_is_said_once(fresh: Ordinary) -> None:
    fallback = f"/tmp/minidocker-{fresh.account.pw_uid}"
    try:
        first = fresh("run", "--rm", "busybox", "true", env={"XDG_RUNTIME_DIR": ""})
        assert first.returncode == 0, first.stderr
        assert "XDG_RUNTIME_DIR is not set" in first.stderr
        assert fallback in first.stderr
        assert fresh("run", "--rm", "busybox", "true", env={"XDG_RUNTIME_DIR": ""}).stderr == ""
        assert os.stat(fallback).st_mode & 0o777 == 0o700
        wrong = fresh("run", "--rm", "busybox", "true", env={"XDG_RUNTIME_DIR": "/run/user/0"})
        assert wrong.returncode == 125
        assert "XDG_RUNTIME_DIR has to name a folder of user" in wrong.stderr
    finally:
        fresh.end_all()
        shutil.rmtree(fallback, ignore_errors=True)


def test_two_users_at_once(user: Ordinary, fresh: Ordinary) -> None:
    ports = free_port(), free_port()
    for person, port in zip((user, fresh), ports, strict=True):
        serve = f"echo {person.name} > /index.html; httpd -f -p 80 -h /"
        person.ok("run", "-d", "--name", "same", "-p", f"{port}:80", "busybox", "sh", "-c", serve)
    for person, port in zip((user, fresh), ports, strict=True):
        assert until(lambda: fetch(f"http://127.0.0.1:{port}/")) == f"{person.name}\n"  # noqa: B023, called at once
        assert len(person.ok("ps", "-q").split()) == 1


def test_many_first_commands_at_once_start_one_holder(fresh: Ordinary) -> None:
    fresh.ok("system", "prune", "-f")
    assert fresh.processes() == {}
    running = [fresh.start("run", "--rm", "busybox", "true") for _ in range(5)]
    assert [one.wait(60) for one in running] == [0] * 5
    until(lambda: "holder and slirp4netns only" if len(fresh.processes()) == 2 else "")


def test_the_holder_is_killed(fresh: Ordinary) -> None:
    port = free_port()
    fresh.ok("run", "-d", "--name", "web", "-p", f"{port}:80", "busybox", "httpd", "-f", "-p", "80")
    os.kill(holder(fresh), signal.SIGKILL)
    until(lambda: "gone" if not fresh.processes() else "")  # its network's and its containers' processes
    assert "Exited (137)" in fresh.ok("ps", "-a")
    fresh.ok("start", "web")
    assert until(lambda: fetch(f"http://127.0.0.1:{port}/") or fetch(f"http://127.0.0.1:{port}/etc/hostname"))
    fresh.ok("rm", "-f", "web")
    fresh.ok("system", "prune", "-f")
    until(lambda: "gone" if not fresh.processes() else "")


def test_the_machine_has_started_anew(fresh: Ordinary) -> None:
    """A process that has the holder's number, even with its start time, is not the holder in the next boot."""
    old = holder(fresh)
    path = f"{fresh.run}/rootless/holder.json"
    with open(path) as file:
        note = json.load(file)
    with open(path, "w") as file:
        json.dump({**note, "boot": "another"}, file)
    assert fresh.ok("run", "--rm", "busybox", "echo", "hi") == "hi"
    assert holder(fresh) != old


def test_slirp4netns_is_killed(fresh: Ordinary) -> None:
    port = free_port()
    fresh.ok(
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        f"{port}:80",
        "busybox",
        "sh",
        "-c",
        "echo up > /index.html; httpd -f -p 80 -h /",
    )
    assert until(lambda: fetch(f"http://127.0.0.1:{port}/")) == "up\n"
    with open(f"{fresh.run}/rootless/slirp.json") as file:
        os.kill(json.load(file)["pid"], signal.SIGKILL)
    until(lambda: "gone" if not fetch(f"http://127.0.0.1:{port}/") else "")
    fresh.ok("exec", "web", "true")
    assert until(lambda: fetch(f"http://127.0.0.1:{port}/")) == "up\n", "the next command starts it and publishes again"
    fresh.ok("rm", "-f", "web")
    assert fetch(f"http://127.0.0.1:{port}/") == ""


def test_without_slirp4netns(fresh: Ordinary) -> None:
    fresh.ok("system", "prune", "-f")
    tools = f"{fresh.base}/tools"
    os.mkdir(tools)
    for tool in ("newuidmap", "newgidmap", "nft"):
        os.symlink(str(shutil.which(tool)), f"{tools}/{tool}")
    done = fresh("run", "--rm", "--network", "none", "busybox", "echo", "hi", env={"PATH": tools})
    assert done.stdout == "hi\n"
    assert "slirp4netns is missing" in done.stderr
    fresh.ok("run", "--rm", "--network", "host", "busybox", "true", env={"PATH": tools})


def test_prune_ends_everything(fresh: Ordinary) -> None:
    fresh.ok("run", "busybox", "true")
    until(lambda: "the holder and its slirp4netns only" if len(fresh.processes()) == 2 else "")
    fresh.ok("system", "prune", "-f")
    assert fresh.processes() == {}
    assert fresh.ok("run", "--rm", "busybox", "echo", "hi") == "hi"


# Programs


PROGRAM = """
import os, threading
import minidocker
started = os.environ.get("THREADS")
if started:
    wait = threading.Event()
    threading.Thread(target=wait.wait, daemon=True).start()
print(minidocker.from_env().containers.run("busybox", "echo hello", remove=True))
"""


def test_the_python_api(fresh: Ordinary) -> None:
    python = os.path.join(os.path.dirname(fresh.minidocker[0]), "python3")
    alone = fresh.command(python, "-c", PROGRAM)
    assert alone.stdout == "b'hello\\n'\n", alone.stderr
    threaded = fresh.command(python, "-c", PROGRAM, env={"THREADS": "1"})
    assert "minidocker unshare" in threaded.stderr
    assert "has threads" in threaded.stderr
    inside = fresh("unshare", python, "-c", PROGRAM, env={"THREADS": "1"})
    assert inside.stdout == "b'hello\\n'\n", inside.stderr


def test_unshare(fresh: Ordinary) -> None:
    assert fresh.ok("unshare", "id", "-u") == "0"
    assert fresh.ok("unshare", *fresh.minidocker, "run", "--rm", "busybox", "echo", "inside") == "inside"
    assert fresh("unshare", "sh", "-c", "exit 5").returncode == 5
    assert fresh("unshare", "nothing-such").returncode == 127
    inside = fresh.start("unshare", "sleep", "60")
    until(lambda: "there" if "sleep 60" in fresh.processes().values() else "")
    fresh.ok("system", "prune", "-f")
    assert fresh.processes()[holder(fresh)], "what somebody is in stays"
    inside.kill()
    inside.wait()


def test_make_clean_leaves_no_process(fresh: Ordinary) -> None:
    """Of the user's own; root, who does not know each user's folders, finds the holders by their command lines."""
    fresh.ok("run", "-d", "busybox", "sleep", "1000")
    with open(f"/proc/{holder(fresh)}/cmdline") as file:
        assert clean.stays(file.read().split("\0")[:-1])
    assert not clean.stays([sys.executable, "-c", "minidocker-holder"])
    done = fresh.command(sys.executable, clean.__file__)
    assert (done.returncode, done.stderr) == (0, "")
    assert fresh.processes() == {}
    assert not os.path.exists(fresh.run)
    assert "Exited" in fresh.ok("ps", "-a")


def test_doctor_tells_what_is_missing(user: Ordinary, single: Ordinary) -> None:
    text = user.ok("doctor")
    assert text.endswith("This machine runs containers.")
    for check in ("user namespaces", "overlayfs", "subordinate ids", "newuidmap", "slirp4netns", "/dev/net/tun"):
        assert f"ok       {check}: " in text
    assert "limits: " in text
    lacking = single.ok("doctor")
    assert f"missing  subordinate ids: {single.name} has none" in lacking
    assert "usermod --add-subuids" in lacking


def test_doctor_says_the_same_of_the_user_inside_unshare(user: Ordinary) -> None:
    """There the user is root, by what geteuid(2) says, and has no more control groups than before."""
    outside = user.ok("doctor").splitlines()
    inside = user.ok("unshare", *user.minidocker, "doctor").splitlines()
    assert f"ok       root: no, user {user.account.pw_uid}, who is root in this user namespace only" in inside
    told = [[line.split(":")[0] for line in lines if not line.startswith(" ")] for lines in (outside, inside)]
    assert told[0] == told[1]
    assert "mount -t cgroup2" not in "".join(inside)


def test_explained_steps_name_the_namespace(fresh: Ordinary) -> None:
    done = fresh("--explain", "run", "--rm", "busybox", "true")
    assert done.returncode == 0, done.stderr
    assert "setns(fd=" in done.stderr
    assert "CLONE_NEWUSER" in done.stderr
    assert "userxattr" in done.stderr
