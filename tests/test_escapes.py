"""Ways out of a container that have been found in other engines, each attempted, and what stops it.

A comment says which line of the engine that is. What is aimed at images, archives, builds and registries is attempted
in test_hostile_*.py; what an image's links do to mounts in test_container_hostile.py as well.
"""

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containerkit import detached, execute, image_with, output
from minidocker import engine
from minidocker.container import shims
from minidocker.container.spec import Mount
from minidocker.engine import Engine
from minidocker.errors import StartError
from minidocker.linux import interpreter

pytestmark = pytest.mark.root

VENV = sys.executable
PYTHON = os.path.realpath(sys.executable)
# The host's own Python and the libraries it needs, read-only, for what busybox cannot attempt.
WITH_PYTHON = tuple(
    Mount("bind", folder, folder, read_only=True)
    for folder in dict.fromkeys(("/usr", "/lib", "/lib64", sys.base_prefix))
    if os.path.isdir(folder) and (folder == "/usr" or not folder.startswith("/usr"))
)
PYTHON_HOME = (f"PYTHONHOME={sys.base_prefix}",)
# Attempt one thing, and say what came of it.
ATTEMPT = """
import ctypes, errno, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    result = libc.syscall(*arguments)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "done"
def attempt(what, *arguments):
    try:
        return f"done: {what(*arguments)!r}"
    except OSError as error:
        return errno.errorcode[error.errno]
"""


def attempt(home: Engine, script: str, **asked: object) -> list[str]:
    """Run a Python script in a new container; return its lines."""
    values = {"mounts": WITH_PYTHON, "env": PYTHON_HOME, **asked}
    return output(home, "busybox", PYTHON, "-c", ATTEMPT + script, **values).splitlines()


def checksum(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture
def another_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Have the engine's programs run by a copy of the interpreter: one that may be lost."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\n")
    copy = tmp_path / "bin/python3"
    copy.write_bytes(Path(PYTHON).read_bytes())
    copy.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(copy))
    yield str(copy)


# The interpreter (CVE-2019-5736): what runs our programs leads to no file that can be written to.
# Stopped by `interpreter.sealed` in container/programs.py, spawn; and until execve(2) by PR_SET_DUMPABLE.

# Run by the host's interpreter: keep its file open, let it end, then write to it.
OVERWRITE = """#!/proc/self/exe
import os, sys
program = os.open("/proc/self/exe", os.O_RDONLY)
print("read-only" if os.statvfs(program).f_flag & os.ST_RDONLY else "writable", flush=True)
if os.fork() == 0:
    os.set_inheritable(program, True)
    tries = "for n in $(seq 100); do printf overwritten > /proc/self/fd/$0 && break; sleep 0.1; done; echo > /end"
    os.execv("/bin/sh", ["sh", "-c", f"exec > /dev/null 2> /errors; {tries}", str(program)])
"""


@pytest.mark.parametrize("how", ["itself", "link", "script"])
def test_an_image_whose_program_is_the_interpreter(home: Engine, another_python: str, how: str) -> None:
    def make(root: Path) -> None:
        (root / "link").symlink_to("/proc/self/exe")
        (root / "script").write_text(OVERWRITE)
        (root / "script").chmod(0o755)

    image, before = image_with(home, make), checksum(another_python)
    command = {"itself": ("/proc/self/exe", "/script"), "link": ("/link", "/script"), "script": ("/script",)}[how]
    said = output(home, image, *command, mounts=WITH_PYTHON, env=PYTHON_HOME)
    assert said in ("read-only\n", ""), said  # "": `link` does not tell Python where it lies
    assert checksum(another_python) == before


@pytest.mark.parametrize("way", ["mount", "memory", "unsealed"])
def test_an_exec_of_the_interpreter(
    home: Engine, another_python: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's own shim keeps its interpreter busy (ETXTBSY), but not the interpreter of another's `exec`.

    Without the seal, this very attempt succeeds.
    """
    monkeypatch.setattr(sys, "executable", VENV)
    container = detached(home, mounts=WITH_PYTHON, env=PYTHON_HOME)
    Path(home.containers.path(container.id, "upper", "script")).write_text(OVERWRITE)
    monkeypatch.setattr(sys, "executable", another_python)

    def refuse(path: str) -> int:
        raise PermissionError(1, "an ordinary user may not")

    if way == "memory":
        monkeypatch.setattr(interpreter, "_read_only_mount", refuse)
    elif way == "unsealed":
        monkeypatch.setattr(interpreter, "sealed", lambda path: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    before = checksum(another_python)
    shims.end()  # one from before would be sealed
    said = execute(home, container, "/proc/self/exe", "/script")
    shims.end()  # nor may this one keep its interpreter busy
    monkeypatch.setattr(sys, "executable", VENV)
    assert said == ("read-only\n" if way == "mount" else "writable\n")
    end = Path(home.containers.path(container.id, "upper", "end"))
    deadline = time.monotonic() + 30
    while not end.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    errors = Path(home.containers.path(container.id, "upper", "errors")).read_text()
    assert end.exists(), errors
    assert (checksum(another_python) == before) == (way != "unsealed")
    assert {"mount": "Read-only file system", "memory": "Operation not permitted", "unsealed": ""}[way] in errors
    engine.kill(home, container)


def test_what_enters_a_container_cannot_be_looked_into(home: Engine) -> None:
    """A process of the container looks at every other, all the time, while `exec`s come in.

    Stopped by PR_SET_DUMPABLE in namespaces.join, and by the capabilities that a joining process still has.
    """
    look = """
    own=$(stat -c %d:%i /)
    while :; do
        for process in /proc/[0-9]*; do
            program=$(readlink $process/exe) && [ "$program" != /bin/busybox ] && echo "$program" >> /seen
            root=$(stat -c %d:%i $process/root/) && [ "$root" != "$own" ] && echo "root $root" >> /seen
        done
        echo >> /rounds
    done 2> /dev/null"""
    before = checksum(PYTHON)
    container = detached(home, "sh", "-c", look)
    for _ in range(20):
        assert execute(home, container, "sh", "-c", "echo fine; sleep 0.05") == "fine\n"
    seen = execute(home, container, "sh", "-c", "cat /seen 2> /dev/null; true").split()
    assert not [program for program in seen if not program.startswith("/bin/")]
    assert int(execute(home, container, "sh", "-c", "wc -l < /rounds")) > 5
    assert checksum(PYTHON) == before
    engine.kill(home, container)


def test_the_init_of_ours_cannot_be_written_to(home: Engine) -> None:
    """`--init` is the host's interpreter, as process 1, all the time."""
    script = "readlink /proc/1/exe; true >> /proc/1/exe; cat /proc/1/environ; ls /proc/1/fd; echo end"
    said = output(home, "busybox", "sh", "-c", script, init=True)
    assert "python" not in said
    assert said.count("Permission denied") + said.count("can't open") >= 3, said
    more = output(home, "busybox", "sh", "-c", ": >> /proc/1/exe; echo end", init=True, cap_add=("SYS_PTRACE",))
    assert "Text file busy" in more or "Read-only file system" in more


# Descriptors and working directories (CVE-2024-21626): namespaces.close_on_exec, namespaces.enter_workdir.


@pytest.mark.parametrize("terminal", [False, True])
def test_no_descriptor_leaks(home: Engine, terminal: bool) -> None:
    list_them = ("sh", "-c", "ls /proc/$$/fd; true")
    container = detached(home)
    at_exec = execute(home, container, *list_them, terminal=terminal)
    at_run = output(home, "busybox", *list_them, terminal=terminal)
    expected = {"0", "1", "2", "10"} if terminal else {"0", "1", "2"}  # 10: the shell's own, of its terminal
    assert set(at_run.split()) <= expected
    assert set(at_exec.split()) <= expected
    engine.kill(home, container)


def test_exec_in_a_working_directory_of_the_host(home: Engine, tmp_path: Path) -> None:
    container = detached(home)
    execute(home, container, "sh", "-c", "for n in $(seq 3 20); do ln -s /proc/self/fd/$n /fd$n; done")
    for number in range(3, 20):
        for path in (f"/proc/self/fd/{number}", f"/fd{number}"):
            with pytest.raises(StartError, match="working directory"):
                execute(home, container, "ls", workdir=path)
    engine.kill(home, container)


# Mounts (CVE-2021-30465): mounting.open_target, which resolves inside the root and hands on a descriptor.


def test_a_mount_point_that_is_swapped_for_a_link_while_mounting(home: Engine, tmp_path: Path) -> None:
    """Another container, which shares the volume, swaps a folder for a link to a folder of the host."""
    data, hosts = tmp_path / "data", tmp_path / "hosts"
    data.mkdir()
    hosts.mkdir()
    (hosts / "secret").touch()
    swap = f"mkdir -p /vol/a; while :; do mv /vol/a /vol/b; ln -s {hosts} /vol/a; rm /vol/a; mv /vol/b /vol/a; done"
    shared = Mount("volume", "", "/vol", name="shared")
    attacker = detached(home, "sh", "-c", swap, mounts=(shared,))
    mounts = (shared, Mount("bind", str(data), "/vol/a/x/y"))
    reached, refused = [], 0
    for _ in range(30):
        try:
            said = output(home, "busybox", "cat", "/proc/self/mountinfo", mounts=mounts)
        except (StartError, OSError):
            refused += 1  # it was moved at that moment
            continue
        reached += [line.split()[4] for line in said.splitlines() if f"{data} " in line]
        assert "secret" not in said
    engine.kill(home, attacker)
    assert reached, refused
    assert set(reached) <= {"/vol/a/x/y", "/vol/b/x/y", f"{hosts}/x/y"}  # the last is a path inside its root
    assert os.listdir(hosts) == ["secret"]
    assert os.listdir(data) == []


# What masks and what the terminal is bound to (CVE-2025-31133, -52565, -52881): rootfs.build mounts them before
# anything of the image's or the user's; namespaces.open_terminal takes its ends by descriptors.


@pytest.mark.parametrize("volume", ["", "VOLUME /dev"])
@pytest.mark.parametrize("terminal", [False, True])
def test_an_images_dev_is_all_links_into_proc(home: Engine, volume: str, terminal: bool) -> None:
    def link(root: Path) -> None:
        (root / "dev/pts").mkdir(parents=True)
        for name, target in {
            "null": "/proc/sys/kernel/core_pattern",
            "console": "/proc/sysrq-trigger",
            "ptmx": "/proc/kcore",
            "pts/0": "/proc/sys/kernel/core_pattern",
        }.items():
            (root / "dev" / name).unlink(missing_ok=True)
            (root / "dev" / name).symlink_to(target)

    image = image_with(home, link, *([volume] if volume else []))
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    read_only = [path for path in ("/proc/sys", "/proc/sysrq-trigger") if os.path.exists(path)]
    script = "cat /proc/self/mountinfo; for path in /proc/sysrq-trigger /proc/sys/kernel/core_pattern; do"
    script += " [ ! -e $path ] || true >> $path; done"
    try:
        said = output(home, image, "sh", "-c", script, terminal=terminal)
    except (StartError, OSError) as error:
        assert volume, error  # such a /dev is refused: what would be opened there is not what it has to be
        assert "/dev" in str(error)
    else:
        lines = [line.split() for line in said.splitlines() if " - " in line]
        points = {fields[4]: fields[5] for fields in lines}
        assert all(points[path].startswith("ro") for path in read_only)
        assert not any(fields[4] == "/proc/sysrq-trigger" and "devpts" in fields for fields in lines)
        assert said.count("Read-only file system") == len(read_only)
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


# The kernel's own files and calls: the seccomp filter, the capabilities, rootfs.protect.

CLONE = {"NEWNS": 0x20000, "NEWCGROUP": 0x2000000, "NEWUSER": 0x10000000}


def test_release_agent(home: Engine) -> None:
    """CVE-2022-0492: seccomp refuses new user namespaces and mount(2), cgroups are mounted read-only."""
    said = attempt(
        home,
        f"""
for flags in ({CLONE["NEWNS"]}, {CLONE["NEWUSER"]}, {CLONE["NEWUSER"] | CLONE["NEWCGROUP"] | CLONE["NEWNS"]}):
    print("unshare", "done" if libc.unshare(flags) == 0 else errno.errorcode[ctypes.get_errno()])
print("clone3", call(435, 0, 0))
os.mkdir("/cg")
for kind in (b"cgroup", b"cgroup2"):
    result = libc.mount(b"cgroup", b"/cg", kind, 0, b"rdma" if kind == b"cgroup" else None)
    print("mount", "done" if result == 0 else errno.errorcode[ctypes.get_errno()])
for folder, _, names in os.walk("/sys/fs/cgroup"):
    print("mkdir", attempt(os.mkdir, folder + "/x"))
    for name in names:
        if name in ("release_agent", "notify_on_release", "cgroup.procs"):
            print("open", attempt(os.open, f"{{folder}}/{{name}}", os.O_WRONLY))
""",
    )
    outcomes = {tuple(line.split(maxsplit=1)) for line in said}
    expected = {("unshare", "EPERM"), ("clone3", "ENOSYS"), ("mount", "EPERM"), ("mkdir", "EROFS"), ("open", "EROFS")}
    assert outcomes == expected


def test_release_agent_without_seccomp(home: Engine) -> None:
    """Then it may have a user namespace, but not write a release agent in it: the kernel wants the power outside."""
    said = attempt(
        home,
        f"""
flags = {CLONE["NEWUSER"] | CLONE["NEWCGROUP"] | CLONE["NEWNS"]}
print("unshare", libc.unshare(flags))
os.mkdir("/cg") if not os.path.isdir("/cg") else None
for line in open("/proc/self/cgroup"):
    names = line.split(":")[1]
    if libc.mount(b"cgroup", b"/cg", b"cgroup", 0, names.encode()) == 0:
        print("agent", attempt(lambda: os.write(os.open("/cg/release_agent", os.O_WRONLY), b"/x")))
        libc.umount2(b"/cg", 2)
""",
        security_opt=("seccomp=unconfined",),
    )
    assert said
    assert not [line for line in said if line.startswith("agent done")]


def test_what_speaks_to_the_whole_machine(home: Engine) -> None:
    """Settings, triggers and memory of the kernel. Stopped by rootfs.protect, and by what /dev has not."""
    paths = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sysrq-trigger",
        "/proc/sys/vm/drop_caches",
    ]
    paths += [
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
        "/sys/kernel/mm/ksm/run",
        "/sys/power/state",
    ]
    existing = [path for path in paths if os.path.exists(path)]
    said = attempt(home, f"for path in {existing!r}: print(attempt(os.open, path, os.O_WRONLY))")
    assert set(said) == {"EROFS"}
    gone = ["/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/sda", "/dev/vda", "/dev/fuse", "/dev/kvm"]
    assert set(attempt(home, f"for path in {gone!r}: print(attempt(os.open, path, os.O_RDWR))")) == {"ENOENT"}
    nodes = [
        ("c", 1, 1),
        ("c", 1, 2),
        ("c", 1, 4),
        ("c", 1, 11),
        ("c", 10, 229),
        ("b", 8, 0),
        ("b", 254, 0),
        ("b", 7, 0),
    ]
    script = f"""
import stat
for number, (kind, major, minor) in enumerate({nodes!r}):
    os.mknod(f"/n{{number}}", 0o666 | (stat.S_IFCHR if kind == "c" else stat.S_IFBLK), os.makedev(major, minor))
    print(attempt(os.open, f"/n{{number}}", os.O_RDWR))
"""
    # By the cgroup of devices: cgroups.prepare. See test_limits.py for version 2.
    assert set(attempt(home, script)) <= {"EPERM", "EACCES"}


CALLS = {
    # of test_seccomp.py's many hundred calls, those that escapes were made of
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "mount": 165,
    "umount2": 166,
    "pivot_root": 155,
    "setns": 308,
    "open_by_handle_at": 304,
    "bpf": 321,
    "perf_event_open": 298,
    "userfaultfd": 323,
    "init_module": 175,
    "finit_module": 313,
    "kexec_load": 246,
    "reboot": 169,
    "swapon": 167,
    "settimeofday": 164,
    "iopl": 172,
    "ioperm": 173,
    "quotactl": 179,
    "fsopen": 430,
    "move_mount": 429,
    "open_tree": 428,
    "io_uring_setup": 425,
    "kcmp": 312,
    "syslog": 103,
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of calls are those of x86_64")
def test_calls_that_lead_out(home: Engine) -> None:
    said = attempt(home, f"for name, number in {CALLS!r}.items(): print(name, call(number, 0, 0, 0, 0, 0))")
    outcomes = dict(line.split() for line in said)
    assert outcomes.keys() == CALLS.keys()
    assert set(outcomes.values()) <= {"EPERM", "ENOSYS"}, outcomes


def test_processes_of_the_host_and_of_other_containers(home: Engine) -> None:
    """They have no number in the container's pid namespace: shim.run, CLONE_NEWPID."""
    other = detached(home)
    sleeper = subprocess.Popen(["sleep", "1000"])
    try:
        numbers = [sleeper.pid, other.state.pid, other.state.shim, os.getpid()]
        said = attempt(
            home,
            f"""
for number in {numbers!r}:
    print(attempt(os.kill, number, 9), call(101, 16, number, 0, 0))
    print(attempt(os.listdir, f"/proc/{{number}}"), attempt(os.readlink, f"/proc/{{number}}/root"))
    print(attempt(os.pidfd_open, number), attempt(os.setpriority, os.PRIO_PROCESS, number, 19))
print(attempt(os.kill, -1, 9))
print(sorted(name for name in os.listdir("/proc") if name.isdigit()))
""",
        )
        assert set(" ".join(said[:-2]).split()) <= {"ESRCH", "ENOENT", "EPERM", "EINVAL"}, said
        assert said[-1] == "['1']"
        assert sleeper.poll() is None
        assert execute(home, other, "echo", "lives") == "lives\n"
    finally:
        sleeper.kill()
        sleeper.wait()
        engine.kill(home, other)


def test_chroot_leads_nowhere(home: Engine, tmp_path: Path) -> None:
    """The classic: keep a folder open, chroot below it, climb. Stopped by rootfs.pivot: there is nothing above."""
    (tmp_path / "secret").touch()
    said = attempt(
        home,
        f"""
up = os.open("/", os.O_RDONLY)
here = os.stat("/").st_ino
os.mkdir("/below")
os.chroot("/below")
os.fchdir(up)
for _ in range(100):
    os.chdir("..")
os.chroot(".")
print(os.stat("/").st_ino == here, os.path.exists({str(tmp_path)!r}), os.path.exists("/bin/busybox"))
""",
    )
    assert said == ["True", "False", "True"] or said == ["True False True"]


def test_no_socket_of_ours_is_in_reach(home: Engine) -> None:
    """CVE-2020-15257: a container in the host's network sees every abstract socket. Ours have paths: Relay.listen."""
    container = detached(home, network="host")
    numbers = set()
    for name in os.listdir(f"/proc/{container.state.shim}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            target = os.readlink(f"/proc/{container.state.shim}/fd/{name}")
            if target.startswith("socket:["):
                numbers.add(target[8:-1])
    with open("/proc/net/unix") as sockets:
        names = [line.split()[7] for line in sockets if line.split()[6] in numbers and len(line.split()) > 7]
    assert names, "the shim listens somewhere"
    assert all(not name.startswith("@") for name in names)
    folder = home.containers.run_path(container.id)
    assert os.stat(folder).st_mode & 0o777 == 0o700
    assert execute(home, container, "ls", folder).count("No such file") == 1
    engine.kill(home, container)


# Other users of the host (CVE-2021-41091): a container's root and an ordinary user must not meet in a folder.


def test_other_users_of_the_host_reach_no_file_of_a_container(home: Engine) -> None:
    """A set-id program in a layer, in a container's changes or in a volume would make them root."""
    place = "touch /suid /vol/suid; chmod 4755 /suid /vol/suid"
    container = detached(home, "sh", "-c", f"{place}; sleep 1000", mounts=(Mount("volume", "", "/vol", name="shared"),))
    execute(home, container, "sh", "-c", "until [ -u /vol/suid ]; do sleep 0.1; done")
    (layer,) = container.spec.layers
    paths = [f"{home.images.layer_path(layer)}/bin/busybox", home.containers.path(container.id, "upper", "suid")]
    paths.append(f"{home.root}/volumes/shared/_data/suid")
    paths.append(home.images.layout.blob_path(home.images.get("busybox").id))
    os.chmod(os.path.dirname(home.root), 0o755)
    script = "import os; os.setgroups([]); os.setgid(65534); os.setuid(65534)"
    script += f"; print(*map(os.path.exists, {paths!r}))"
    assert all(os.path.exists(path) for path in paths)
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False"] * 4
    engine.kill(home, container)


# What does not hold, and docs/security.md says so.


def test_container_root_is_the_hosts_root_unless_remapped(home: Engine) -> None:
    assert output(home, "busybox", "cat", "/proc/self/uid_map").split() == ["0", "0", "4294967295"]


def test_the_kernel_is_the_hosts(home: Engine) -> None:
    assert output(home, "busybox", "uname", "-rv") == f"{os.uname().release} {os.uname().version}\n"


def test_no_security_module_confines_a_container(home: Engine) -> None:
    def label() -> str:
        try:
            return Path("/proc/self/attr/current").read_text().rstrip("\n\0")
        except OSError:
            return ""

    said = output(home, "busybox", "sh", "-c", "cat /proc/self/attr/current 2> /dev/null; true")
    assert said.rstrip("\n\0") == label()


def test_who_is_given_the_host_has_it(home: Engine, tmp_path: Path) -> None:
    mounts = (Mount("bind", str(tmp_path), "/host"),)
    output(home, "busybox", "touch", "/host/made", mounts=mounts)
    assert (tmp_path / "made").stat().st_uid == 0
