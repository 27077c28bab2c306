"""Look around in a container, and print as JSON what there is: section by section, a name and what was found.

Run by the host's Python, which is mounted into the container for that; see probes.py. `probe_inside.py HOST`: the
namespaces of the host, as JSON.
"""

import ctypes
import errno
import json
import os
import re
import resource
import select
import signal
import socket
import stat
import sys

READ = (
    *("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/latency_stats", "/proc/sched_debug", "/proc/kmsg"),
    *("/proc/acpi", "/proc/scsi", "/proc/asound", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/kallsyms"),
    *("/sys/kernel/debug", "/sys/kernel/tracing", "/sys/kernel/security", "/proc/1/environ", "/dev/kmsg", "/dev/mem"),
)
STATUS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups", "Umask")
LAST_CALL = 470
SECONDS = 2.0  # enough for any call that comes back at all
Found = dict[str, str]
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def main(hosts: Found) -> None:
    """Look everywhere and print what was found."""
    namespaces = {name: "the host's" if hosts.get(name) == os.readlink(f"/proc/self/ns/{name}") else "its own"
                  for name in sorted(hosts)}  # fmt: skip
    found = {
        "status": status(),
        "namespaces": namespaces,
        "surroundings": surroundings(),
        "limits": limits(),
        "mounts": mounts(),
        "devices": devices(),
        "processes": processes(),
        "read": {path: reading(path) for path in READ},
        "writable": writable(),
        "calls": {str(number): outcome(number) for number in range(LAST_CALL)},
    }
    print(json.dumps(found))


def status() -> Found:
    """Return what the kernel says of this process."""
    with open("/proc/self/status") as file:
        fields = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {name: fields[name] for name in STATUS}


def surroundings() -> Found:
    """Return what a program has without asking; ids are named alike."""
    own = re.sub(r"^[0-9a-f]{12}$", "<12 digits of its id>", socket.gethostname())
    env = {f"${name}": re.sub(r"^[0-9a-f]{12}$", "<hostname>", value) for name, value in os.environ.items()}
    with open("/proc/self/cgroup") as file:
        groups = {line.rstrip("\n").split(":", 2)[2] for line in file}
    shown = re.sub("[0-9a-f]{64}", "<id>", " ".join(sorted(groups)))
    links = " ".join(sorted(os.listdir("/sys/class/net")))
    descriptors = [name for name in sorted(os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{name}")]
    return {
        "hostname": own,
        "working directory": os.getcwd(),
        "cgroups": shown,
        "network links": links,
        "descriptors": " ".join(descriptors),
        **env,
    }


def limits() -> Found:
    """Return each resource limit, soft and hard."""
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: "{}:{}".format(*resource.getrlimit(getattr(resource, name))) for name in names}


def mounts() -> Found:
    """Return filesystem and options of each mount; what names this very container's folders, is left out."""
    found = {}
    with open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            fields, (fstype, _, options) = before.split(), after.split()
            own = [o for o in options.split(",") if not re.match(r"(lower|upper|work)dir|uuid|index|redirect|metacopy|nouserxattr|xino|size=\d{7,}|nr_inodes", o)]  # fmt: skip # noqa: E501
            name = fields[4]
            while name in found:
                name += " (once more)"
            shared = " ".join(fields[6:]) or "private"
            found[name] = f"{fstype} {fields[5]}; {','.join(own)}; {re.sub('[0-9]+', 'N', shared)}"
    return found


def devices() -> Found:
    """Return what is in /dev, and which nodes open."""
    found = {}
    for folder, folders, names in os.walk("/dev"):
        for name in sorted(names + folders):
            path = f"{folder}/{name}"
            what = os.lstat(path)
            if stat.S_ISLNK(what.st_mode):
                found[path] = f"link to {os.readlink(path)}"
            elif stat.S_ISDIR(what.st_mode):
                found[path] = f"folder {what.st_mode & 0o7777:o}"
            else:
                number = f"{os.major(what.st_rdev)}:{os.minor(what.st_rdev)}"
                found[path] = f"{stat.filemode(what.st_mode)} {number}, {opening(path, os.O_RDWR)}"
    return found


def opening(path: str, flags: int) -> str:
    """Say whether a file opens, and does not wait."""
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "opens"


def processes() -> Found:
    """Return each visible process and its program."""
    return {pid: os.readlink(f"/proc/{pid}/exe").rsplit("/", 1)[-1] for pid in os.listdir("/proc") if pid.isdigit()}


def reading(path: str) -> str:
    """Say what of a file or folder there is to see."""
    try:
        if os.path.isdir(path):
            return f"folder of {'nothing' if not os.listdir(path) else 'something'}"
        with open(path, "rb", buffering=0) as file:
            poll = select.poll()
            poll.register(file, select.POLLIN)
            return ("something" if file.read(1) else "empty") if poll.poll(500) else "silent"
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def writable() -> Found:
    """Return what below /proc and /sys can be opened to be written to; nothing is written."""
    found = {}
    for top in ("/proc", "/sys"):
        for folder, folders, names in os.walk(top):
            if folder == "/proc":
                folders[:] = [name for name in folders if not name.isdigit()] + ["self"]
            if folder == "/proc/self":
                folders[:] = []
            for name in names:
                path = f"{folder}/{name}"
                if stat.S_ISREG(os.lstat(path).st_mode) and opening(path, os.O_WRONLY) == "opens":
                    found[path] = "opens"
    return found


def outcome(number: int) -> str:
    """Make one system call in a process of its own, all its arguments ones: no call can do anything with them."""
    readable, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
            failed = ctypes.get_errno() if result == -1 else 0
            os.write(writing, (errno.errorcode.get(failed, str(failed)) if failed else "ok").encode())
        finally:
            os._exit(0)
    os.close(writing)
    said = ""
    while select.select([readable], [], [], SECONDS)[0]:
        more = os.read(readable, 64).decode()  # two of them speak after a fork
        said += more
        if not more:
            break
    else:
        said = said or "silent"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(readable)
    return said or "died"


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
