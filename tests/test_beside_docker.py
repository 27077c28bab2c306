"""docker's `run` and ours, side by side: the same words, and what the program inside sees must be the same.

Each row of a table is given to both; their exit codes and outputs must be equal once what differs by nature (ids,
addresses, ports, times) has been named alike. Whatever else differs stands in ACCEPTED, with its reason.
"""

import json
import os
import re
import shlex
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conftest import Minidocker
from minidocker.container import files
from peers import Docker

pytestmark = [pytest.mark.root, pytest.mark.peers]

IMAGE = "beside:1"

# What differs by nature, and what it is called here.
ALIKE = (
    (r"\b[0-9a-f]{64}\b", "<id>"),
    (r"\b[0-9a-f]{12}\b", "<id>"),
    (r"\b(172|10)(\.\d+){2}\.1\b", "<gateway>"),
    (r"\b(172|10)(\.\d+){3}(/\d+)?\b", "<address>"),
    (r"\b02(:[0-9a-f]{2}){5}\b", "<mac>"),
    (r"\b(32|4\d|5\d|60)\d{3}\b", "<port>"),
    (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>"),
    (r"minidocker", "docker"),
)

# pattern, what to read instead in both outputs, why we may differ there
ACCEPTED = (
    (r"(?m)^(\d+:[^:]*:)/docker/<id>", r"\1/", "we give a cgroup namespace; docker does so under version 2 only"),
    (r"(?m)^(/sys/fs/cgroup) r[wo],", r"\1 <any>,", "there is nothing to write in that folder of folders"),
    (r"(?m)^.* /\.dockerenv\n", "", "programs take it for docker's own mark"),
    (r"(?m)^(.*'?/etc/mtab'?.*|mtab)\n", "", "it tells old programs what /proc/mounts tells them"),
    (r"(?m)^SigIgn:.*\n", "", "docker's containers ignore what its daemon was started to ignore"),
    (r"(?m)^c 10:200 rwm\n", "", "docker lets /dev/net/tun be used, which no default container has"),
    (r"(?m)^lo inet6\n", "", "/etc/hosts calls ::1 localhost, so we let it answer"),
    (r"(?m)^docker: Error response from daemon: .*(exec: \".*)", r"docker: \1", "we need not say who told us"),
    (r"Error response from daemon: ", "", "there is no daemon"),
    (r"Error: ", "", "docker has it before some of its errors"),
    (r"(?m): unknown\.?$", "", "the end of runc's sentence"),
    (r"(?m)(?<!\.)\.$", "", "docker ends what `run` says with a full stop"),
    (r"strconv.ParseBool: parsing \"perhaps\"", "not true or false", "docker shows Go's words"),
    (r"(?m)^A /sbin(/docker-init)?\n", "", "our init comes from outside and leaves no file in the container"),
    (r"(?m)^failed to rename container named .*\n", "", "the line above says it"),
    (r"(?m)^time=.*\n", "", "a line of docker's log"),
)


class Row(NamedTuple):
    """One comparison: `run OPTIONS image sh -c SCRIPT`, or `run OPTIONS image WORDS` where there is no script."""

    options: str
    script: str = ""
    words: str = ""
    exit_code: int = 0


EVERYTHING = (
    Row("", "id; umask; ulimit -a; cat /proc/self/limits /proc/self/oom_score_adj; pwd; echo $0 $$"),
    Row("", "grep -E '^(Groups|Cap|Sig[BIC]|Shd|NoNewPrivs|Umask|Cpus_allowed_list|THP)' /proc/self/status"),
    Row("", "cut -d' ' -f5,6 /proc/self/mountinfo | sort"),
    Row("", "for f in /dev /dev/* /dev/pts/* /sys /proc /tmp /root; do stat -c '%A %u:%g %t:%T %N' $f; done"),
    Row("", "for f in $(ls -A / | sort); do stat -c '%A %u:%g %N' /$f; done; stat -c '%A %u:%g %N' /etc/*"),
    Row("", "cat /proc/1/cgroup; readlink /proc/self/fd/0; ls /proc/self/fd; cat /proc/1/comm; cat /proc/self/uid_map"),
    Row("-h box", "env | sort; hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf"),
    Row("-h box.of.cards", "hostname; cat /etc/hosts; hostname -f"),
    Row(
        "",
        "grep Seccomp /proc/self/status; mount -t tmpfs x /tmp; unshare -m true; unshare -Ur true; dmesg; true",
    ),
    Row("", "ip -o addr | awk '{print $2,$3}'; ip route | cut -d' ' -f1-3; ls /sys/class/net"),
    Row("", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmax"),
    Row(
        "",
        "touch /sys/x; touch /proc/sys/x; mknod /d b 8 0; hostname x; date -s 2020-01-01; reboot -f; nice -n -5 true;"
        "ping -c1 127.0.0.1 >/dev/null; echo $?; mkdir /r; chroot /r /x; chown 7:8 /r; stat -c %u:%g /r",
    ),
)

OPTIONS = (
    Row("-w /new/one", "pwd; ls -ld /new /new/one | cut -c1-40"),
    Row("-u 1000 -w /new", "id; pwd; env | sort; stat -c '%A %u:%g' /new; grep Cap /proc/self/status"),
    Row("-u nobody", "id; env | sort; echo x > /dev/stdout; touch /x; cat /etc/shadow; true"),
    Row("-u daemon:users", words="id"),
    Row("-u 12:34", words="id"),
    Row("-u :100", words="id"),
    Row("--entrypoint echo", words="a 'b c'"),
    Row("--entrypoint ''", words="echo x"),
    Row("-e A=b -e FROM_HERE -e NOT_HERE -e C= -e PATH=/bin -e HOSTNAME=h", "env | sort"),
    Row("--env-file FILES/variables -e B=3", "env | sort"),
    Row("--add-host a:1.2.3.4 --add-host b:::1", "head -n -1 /etc/hosts"),
    Row("--tmpfs /x --tmpfs /y:size=64k,mode=700,exec", "grep -E ' /(x|y) ' /proc/mounts; ls -ld /x /y | cut -c1-30"),
    Row(
        "--read-only --tmpfs /t",
        "for p in / /t /dev /dev/shm /etc/hosts /tmp /proc; do touch $p/x 2>/dev/null && echo $p; done;"
        "touch /etc/hosts; cut -d' ' -f5,6 /proc/self/mountinfo | sort",
    ),
    Row("-v FILES:/h -v FILES/variables:/etc/v:ro", "cat /h/variables /etc/v; touch /etc/v; touch /h/x"),
    Row("-v FILES:/h:ro", "touch /h/y; grep ' /h ' /proc/mounts | cut -d' ' -f2,4"),
    Row("-v /new", "ls -la /new | cut -c1-40; touch /new/x"),
    Row("-v /tmp -v /root", "stat -c '%A %u:%g %N' /tmp /root"),
    Row("--mount type=bind,source=FILES,target=/h,readonly", "cat /h/variables; touch /h/y; true"),
    Row("--mount type=tmpfs,target=/x,tmpfs-size=64k,tmpfs-mode=700", "grep ' /x ' /proc/mounts; stat -c %A /x"),
    Row("--mount type=volume,target=/v", "stat -c '%A %u:%g' /v"),
    Row("--init", "[ $$ = 1 ] || echo not the first; kill -TERM 1; sleep 1", exit_code=143),
    Row("--network none", "ls /sys/class/net; cat /proc/net/route /etc/hosts"),
    Row("--network host", "hostname; cat /etc/hosts /etc/resolv.conf /etc/hostname; ls -d /sys/class/net/lo"),
    Row("--cap-add NET_ADMIN --cap-drop CHOWN", words="grep Cap /proc/self/status"),
    Row("--cap-drop all --cap-add cap_net_raw", words="grep Cap /proc/self/status"),
    Row("--security-opt no-new-privileges", words="grep -E 'NoNewPrivs|Seccomp' /proc/self/status"),
    Row("--security-opt seccomp=unconfined", "grep Seccomp /proc/self/status; unshare -U true; unshare -m true; true"),
    Row("", "grep Seccomp /proc/self/status; unshare -U true; unshare -m true; mount -t tmpfs x /tmp; dmesg; true"),
    Row(
        "-m 64m --cpus 0.5 --pids-limit 50",
        "cd /sys/fs/cgroup; ls; ls -1 cpu memory pids devices; cat memory/memory.limit_in_bytes pids/pids.max "
        "memory/memory.memsw.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us; sort devices/devices.list"
        if os.path.isdir("/sys/fs/cgroup/memory")
        else "cd /sys/fs/cgroup; cat memory.max memory.swap.max cpu.max pids.max",
    ),
    Row("--pids-limit -1", "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true"),
)

EXITS = (
    Row("", words="true"),
    Row("", words="sh -c 'exit 3'", exit_code=3),
    Row("", words="nosuch", exit_code=127),
    Row("", words="/etc/passwd", exit_code=126),
    Row("", words="/etc", exit_code=126),
    Row("", "sh -c 'kill -9 $$'; exit $?", exit_code=137),
    Row("--nosuch", words="true", exit_code=125),
    Row("--init=perhaps", words="true", exit_code=125),
    Row("--name", words="", exit_code=125),
    Row("--name 'a b'", words="true", exit_code=125),
    Row("-u nosuch", words="true", exit_code=125),
    Row("-u 1:nosuch", words="true", exit_code=125),
    Row("-u 4294967299", words="true", exit_code=125),
    Row("-e =x", words="true", exit_code=125),
    Row("--add-host a", words="true", exit_code=125),
    Row("--add-host a:1.2.3", words="true", exit_code=125),
    Row("-v FILES:/h:bad", words="true", exit_code=125),
    Row("-v rel/path:/h", words="true", exit_code=125),
    Row("-p x:80", words="true", exit_code=125),
    Row("-p 70000:80", words="true", exit_code=125),
    Row("--stop-signal NOSUCH", words="true", exit_code=125),
    Row("-it", words="true", exit_code=1),
)
# Where both refuse, but ours says more (what is meant, what to do next) than docker's words: only the code is compared.
SAYS_MORE = ("/etc", "-u 4294967299")


class Both:
    """docker and minidocker with the same image, asked the same."""

    def __init__(self, docker: Docker, minidocker: Minidocker, files: Path) -> None:
        self.docker, self.minidocker, self.files = docker, minidocker, files

    def __call__(self, *args: str) -> tuple[subprocess.CompletedProcess[str], subprocess.CompletedProcess[str]]:
        """Have both run one command line, at once; return what docker did and what we did."""
        with ThreadPoolExecutor(2) as pool:
            theirs = pool.submit(self.docker.run, *args, check=False)
            ours = pool.submit(self.minidocker, *args)
            return theirs.result(), ours.result()

    def row(self, row: Row) -> list[str]:
        """Return how we differ from docker in one row of a table: nothing, when all is well."""
        words = ["sh", "-c", row.script] if row.script else shlex.split(row.words)
        options = shlex.split(row.options.replace("FILES", str(self.files)))
        image = [IMAGE] if words else []
        theirs, ours = self("run", "--rm", *options, *image, *words)
        assert theirs.returncode == row.exit_code, f"docker run {row}: {theirs.stderr}"
        found = [] if ours.returncode == row.exit_code else [f"exit {ours.returncode}, docker's is {theirs.returncode}"]
        for name in ("stdout", "stderr"):
            if name == "stderr" and (row.words in SAYS_MORE or row.options in SAYS_MORE):
                continue
            found += difference(getattr(theirs, name), getattr(ours, name), name)
        return [f"run {row.options} {row.script or row.words}: {line}" for line in found]


def alike(text: str, rules: tuple[tuple[str, ...], ...] = (*ALIKE, *ACCEPTED)) -> str:
    """Give what differs by nature or is accepted to differ one name."""
    for pattern, instead, *_ in rules:
        text = re.sub(pattern, instead, text)
    return text


def difference(theirs: str, ours: str, stream: str) -> list[str]:
    """Return the lines that differ, as `docker …` and `ours …`."""
    texts = [alike(theirs), alike(ours)]
    if stream == "stderr":
        texts = [text.lower() for text in texts]  # our messages begin in lower case
    other, mine = (text.splitlines() for text in texts)
    if mine == other:
        return []
    return [f"docker {line!r}" for line in other if line not in mine] + [
        f"ours {line!r}" for line in mine if line not in other
    ] or ["the same lines in another order"]


@pytest.fixture
def both(docker: Docker, minidocker: Minidocker, busybox_image: str, tmp_path: Path) -> Both:
    (tmp_path / "Dockerfile").write_text(f"FROM {busybox_image}\nLABEL of=these-tests\n")
    archive = f"{tmp_path}/image.tar"
    with files.locked("/tmp/minidocker-beside-docker.lock"):  # the daemon is shared: its image is made once
        if docker.run("image", "inspect", IMAGE, check=False).returncode:
            minidocker.ok("build", "-q", "-t", IMAGE, str(tmp_path))
            minidocker.ok("save", "-o", archive, IMAGE)
            docker.run("load", "-i", archive)
        else:
            docker.run("save", "-o", archive, IMAGE)
            minidocker.ok("load", "-i", archive)
    minidocker.ok("rmi", busybox_image)
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "variables").write_text('A=1\n# a comment\nB=two words\nFROM_HERE\nNOT_HERE\n\n  C=3\nD="q"\n')
    return Both(docker, minidocker, folder)


@pytest.mark.parametrize("table", [EVERYTHING, OPTIONS, EXITS], ids=["plain", "options", "exits"])
def test_a_container_is_what_docker_makes_it(
    both: Both, table: tuple[Row, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_HERE", "yes")
    found = [line for row in table for line in both.row(row)]
    assert not found, "\n".join(found)


def test_a_named_volume(both: Both) -> None:
    """It begins with what the image has there, owners and modes too, and keeps what is written."""
    name = f"kept-{os.getpid()}"
    found = []
    try:
        for options, script in (
            (f"-v {name}:/etc", "echo kept > /etc/kept; chown 5:6 /etc/kept; stat -c '%A %u:%g %N' /etc /etc/[k-z]*"),
            (f"-v {name}:/x -v {name}:/y/z:ro", "cat /x/kept; stat -c '%A %u:%g' /x /x/kept; ls /y/z; touch /y/z/new"),
            (f"-v {name}:/root", "stat -c '%A %u:%g' /root; ls -A /root; rm /root/kept"),
            (f"-v {name}:/etc", "test -e /etc/kept || echo gone"),
        ):
            theirs, ours = both("run", "--rm", *options.split(), IMAGE, "sh", "-c", script)
            found += [f"exit {theirs.returncode} {ours.returncode}"] * (theirs.returncode != ours.returncode)
            found += difference(theirs.stdout, ours.stdout, "stdout") + difference(theirs.stderr, ours.stderr, "stderr")
    finally:
        both.docker.run("volume", "rm", "-f", name, check=False)
    assert not found, "\n".join(found)


# One life, told by the commands that look at it. NAME is the container; what is compared is all that they print.

OPTIONS_OF_A_LIFE = (
    "-e K=v -l a=b -p 127.0.0.1::80 --expose 99/udp -w /tmp --tmpfs /tt -v beside-volume:/vv -v FILES:/hh:ro -m 64m "
    "--cpus 0.5 --pids-limit 20 --cap-add NET_ADMIN --cap-drop CHOWN --add-host q:1.1.1.1 --stop-signal INT --init"
)
PROGRAM = (
    "echo out; sleep 0.1; echo err >&2; sleep 0.1; printf tail; mkdir /d; echo 1 >/d/f; rm -r /home; mkdir /home;"
    "echo x >>/etc/passwd; rm /etc/shadow; chmod 700 /var; mkfifo /tmp/p; ln -s a /tmp/l; ln /etc/group /tmp/g;"
    "sleep 1000"
)
RUNNING = (
    ("ps --filter name=NAME", 0),
    ("ps -a --no-trunc --filter name=NAME", 0),
    (
        "ps --filter name=NAME --format '{{.ID}} {{.Image}} {{.Command}} {{.Ports}} {{.Names}}'",
        0,
    ),
    ("ps -q --filter name=NAME", 0),
    ("port NAME", 0),
    ("port NAME 80", 0),
    ("port NAME 81", 1),
    ("port NAME 99/udp", 1),
    ("logs NAME", 0),
    ("logs --tail 1 NAME", 0),
    ("logs --tail 2 -t NAME", 0),
    ("diff NAME", 0),
    ("exec NAME id", 0),
    ("exec NAME sh -c 'exit 7'", 7),
    ("exec -e A=b -w / -u 3 NAME sh -c 'env | sort; pwd; id; cat /proc/1/cgroup; grep Cap /proc/self/status'", 0),
    ("exec -u nosuch NAME pwd", 126),
    ("exec -w /nosuch NAME pwd", 126),
    ("exec NAME nosuch", 126),
    ("exec NAME test -e /nosuch", 1),
    ("rm NAME", 1),
    ("kill -s NOSUCH NAME", 1),
    ("rename NAME NAME", 1),
    ("start NAME", 0),
    ("stop -t 5 NAME", 0),
)
STOPPED = (
    ("ps --filter name=NAME", 0),
    ("ps -a --filter name=NAME", 0),
    ("ps -a --filter name=NAME --filter exited=130 --format '{{.Names}} {{.Status}}'", 0),
    ("exec NAME id", 1),
    ("kill NAME", 1),
    ("stop NAME", 0),
    ("wait NAME", 0),
    ("port NAME", 0),
    ("top NAME", 1),
    ("attach NAME", 1),
    ("diff NAME", 0),
    ("logs --tail all NAME", 0),
    ("commit -m words -a me -c 'CMD echo hi' -c 'EXPOSE 8' -c 'WORKDIR /d' -c 'USER 3' -c 'LABEL a=c' NAME NAME:1", 0),
    ("history NAME:1", 0),
    ("history --no-trunc --format '{{.CreatedBy}} {{.Comment}}' NAME:1", 0),
    ("images --format '{{.Repository}} {{.Tag}}' NAME", 0),
    ("run --rm NAME:1", 0),
    ("rmi BASE", 1),
    ("rm NAME", 0),
    ("rm NAME", 1),
    ("rm -f NAME", 0),
    ("rmi NAME:1", 0),
    ("rmi NAME:1", 1),
)
IN_ORDER = ("diff", "rmi")  # what these print has no order with docker
SEEN_BY_US = ("exec", "top", "attach")  # docker prints some of its errors on standard output
INSPECTED = (
    *("Path", "Args", "Name", "RestartCount", "State.Status", "State.Running", "State.Paused", "State.ExitCode"),
    *("State.OOMKilled", "State.Dead", "State.Error", "State.Restarting", "Config.Cmd", "Config.Entrypoint"),
    *("Config.WorkingDir", "Config.ExposedPorts", "Config.Labels", "Config.User", "Config.Image", "Config.Tty"),
    *("Config.Hostname", "Config.OpenStdin", "Config.StopSignal", "Config.Volumes", "Config.OnBuild", "Config.Env"),
    *("HostConfig.Binds", "HostConfig.NetworkMode", "HostConfig.RestartPolicy", "HostConfig.AutoRemove"),
    *("HostConfig.CapAdd", "HostConfig.CapDrop", "HostConfig.ExtraHosts", "HostConfig.Privileged"),
    *("HostConfig.ReadonlyRootfs", "HostConfig.Tmpfs", "HostConfig.ShmSize", "HostConfig.Memory", "HostConfig.Init"),
    *("HostConfig.MemorySwap", "HostConfig.NanoCpus", "HostConfig.PidsLimit", "HostConfig.LogConfig.Type"),
    *("HostConfig.IpcMode", "HostConfig.PidMode", "HostConfig.SecurityOpt", "HostConfig.PortBindings"),
    *("NetworkSettings.Ports", "NetworkSettings.IPAddress", "NetworkSettings.Gateway", "NetworkSettings.MacAddress"),
    *("NetworkSettings.Networks.bridge.IPAddress", "Driver", "Platform"),
)


def test_a_life_looks_as_docker_tells_it(both: Both) -> None:
    name = f"life-{os.getpid()}"
    options = shlex.split(OPTIONS_OF_A_LIFE.replace("FILES", str(both.files)))
    found = []
    try:
        for done in both("run", "-d", "--name", name, *options, IMAGE, "sh", "-c", PROGRAM):
            assert done.returncode == 0, done.stderr
        time.sleep(1.2)  # both "Up 1 second", and the program has written everything
        found += inspected(both, name)
        found += [line for words, code in RUNNING for line in told(both, words, name, code)]
        found += inspected(both, name)
        found += [line for words, code in STOPPED for line in told(both, words, name, code)]
    finally:
        both.docker.run("rm", "-f", name, check=False)
        both.docker.run("rmi", f"{name}:1", check=False)
        both.docker.run("volume", "rm", "beside-volume", check=False)
    assert not found, "\n".join(found)


def told(both: Both, words: str, name: str, exit_code: int) -> list[str]:
    """Have both carry out one command; return what differs."""
    argv = shlex.split(words.replace("NAME", name).replace("BASE", IMAGE))
    theirs, ours = both(*argv)
    assert theirs.returncode == exit_code, f"docker {words}: exit {theirs.returncode}: {theirs.stderr}"
    found = [] if ours.returncode == exit_code else [f"exit {ours.returncode}, docker's is {exit_code}: {ours.stderr}"]
    if exit_code and argv[0] in SEEN_BY_US:
        return [f"{words}: {line}" for line in found]
    for stream in ("stdout", "stderr"):
        texts = [getattr(done, stream) for done in (theirs, ours)]
        if argv[0] in IN_ORDER:
            texts = ["\n".join(sorted(text.splitlines())) for text in texts]
        if argv[0] in ("ps", "history"):
            texts = [re.sub("About a minute|\\d+ (second|minute)s?|Less than a second", "<a while>", t) for t in texts]
            texts = [re.sub(" {2,}|\\d+B", "  ", text) for text in texts]  # the widths follow the words
        found += difference(texts[0], texts[1], stream)
    return [f"{words}: {line}" for line in found]


def inspected(both: Both, name: str) -> list[str]:
    """Compare the fields of `inspect` that both have."""
    theirs, ours = (json.loads(done.stdout)[0] for done in both("inspect", name))
    found = []
    for path in INSPECTED:
        values = [_comparable(document, path) for document in (theirs, ours)]
        if alike(values[0]) != alike(values[1]):
            found.append(f"inspect {path}: docker {values[0]}, ours {values[1]}")
    return found


def _comparable(document: Any, path: str) -> str:
    for key in path.split("."):
        document = (document or {}).get(key)
    if path in ("Config.Env", "HostConfig.Binds"):
        document = sorted(document)  # docker's order varies
    return json.dumps(document or None, sort_keys=True)
