"""The whole tutorial, typed for real: `make demo`.

Each section shows the commands as a reader would type them, their real output, and then checks that what was claimed
is so. It has its own root, so it neither needs nor touches what is in /var/lib/minidocker but the base images.
"""

import fcntl
import os
import platform
import re
import socket
import sys
import time

from clean import DEMO
from stage import Failure, Stage, paint

ROOT = os.environ.get("MINIDOCKER_DEMO_ROOT", DEMO[0])
RUN = os.environ.get("MINIDOCKER_DEMO_RUN", DEMO[1])
EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples")
PROMPT = r"root@[0-9a-f]{12}:/# "


def overview(on: Stage) -> None:
    """Another userland on this kernel, within a second."""
    on.section("00", "Overview")
    on.say(
        "Another distribution's files, this machine's kernel. First an image, then a shell in a container made of it:"
    )
    on.type("minidocker pull busybox")
    with on.terminal("minidocker run --rm -i -t busybox sh") as shell:
        shell.expect(r"/ # ")
        shell.send("uname -r; hostname; id -un; ls -C /\r")
        shell.expect(re.escape(platform.release()))
        shell.expect(r"[0-9a-f]{12}\r")
        shell.expect(r"/ # ")
        shell.send("exit\r")
        on.check("the shell ended with exit code 0", shell.wait() == 0)
    on.check("it ran on this machine's kernel, as another host, with another root", True)
    on.type("minidocker run --rm busybox true")
    seconds = min(duration(on, "minidocker run --rm busybox true") for _ in range(5))
    on.check(f"a container starts and ends within a second, of five the fastest in {seconds:.1f} s", seconds < 1)
    on.say("The tutorial this follows writes -rm; today's spelling has two dashes:")
    hint = on.type("minidocker run -rm -i -t busybox sh", code=125)
    on.check("the message says which option was meant", "--rm" in hint)
    on.ask("minidocker rmi -f busybox")


def install(on: Stage) -> None:
    """What runs here, and what this machine can do."""
    on.section("01", "Install")
    on.check("the command tells its version", re.search(r"version \d+\.\d+\.\d+", on.type("minidocker -v")))
    on.type("minidocker version")
    on.say("What this machine can do for containers, and what a missing thing would cost:")
    on.type("minidocker doctor")


def understand_image(on: Stage) -> None:
    """No images yet."""
    on.section("02", "Understand Image")
    on.say("What is run is never an image but a container made of one. Which images are here?")
    table = on.type("minidocker images")
    on.check(
        "none, and the table says what it would show", table.split() == "REPOSITORY TAG IMAGE ID CREATED SIZE".split()
    )


def pull_image(on: Stage) -> None:
    """An image out of a registry: a line a layer, a digest, a status."""
    on.section("03", "Pull Image")
    output = on.type("minidocker pull debian:bookworm")
    on.check("every layer was pulled, and the digest told", "Pull complete" in output and "Digest: sha256:" in output)
    on.check("the image is in the table", re.search(r"debian +bookworm +[0-9a-f]{12} ", on.type("minidocker images")))
    on.say("The store is an OCI image layout, for everybody to read:")
    on.type(f"ls {ROOT}/images {ROOT}/images/blobs/sha256", shown="ls $MINIDOCKER_ROOT/images/{,blobs/sha256}")
    on.type("minidocker history debian:bookworm")
    on.say("An image that is not to be had is asked for in vain, and the message says where and what instead:")
    missing = on.type("minidocker pull ubuntu:14.04 || echo exit code $?")
    on.check("it tells what the embedded registry has", "exit code" not in missing or "busybox" in missing)


def dockerfile(on: Stage) -> None:
    """The instructions of the sshd image."""
    on.section("04", "Dockerfile")
    on.say("A Dockerfile says how an image is made of another one. This one makes a server to log in to:")
    on.ask(f"cp -r {EXAMPLES}/sshd {EXAMPLES}/web .")
    text = on.type("cat sshd/Dockerfile")
    on.check("it begins with an image and ends with a command", "FROM debian:bookworm" in text and "CMD [" in text)


def build(on: Stage) -> None:
    """An image per instruction, a cache, and a build that resumes where it failed."""
    on.section("05", "Build Dockerfile")
    steps = on.type("minidocker build -t eg_sshd sshd/")
    on.check("eleven steps, each an image", "Step 11/11" in steps and "Successfully tagged eg_sshd:latest" in steps)
    on.type("minidocker images")
    every = on.type("minidocker images -a")
    on.check("-a shows the images between", every.count("<none>") >= 10 and every.count("eg_sshd") == 1)
    started = time.monotonic()
    again = on.type("minidocker build -t eg_sshd sshd/")
    seconds = time.monotonic() - started
    on.check(f"the second build used the cache for every step, in {seconds:.1f} s", again.count("Using cache") == 10)
    on.say("A step that fails; once mended, the build resumes there:")
    on.type("sed -i 's/^EXPOSE 22/RUN echo oops; exit 3\\n&/' sshd/Dockerfile")
    failed = on.type("minidocker build -t eg_sshd sshd/", code=3)
    on.check("the failing command's output and exit code are shown", "oops" in failed and "non-zero code: 3" in failed)
    on.type("sed -i 's/^RUN echo oops; exit 3/RUN echo mended/' sshd/Dockerfile")
    resumed = on.type("minidocker build -t eg_sshd sshd/")
    on.check("all before it came from the cache", resumed.count("Using cache") == 8 and "mended" in resumed)


def life_of_a_container(on: Stage) -> None:
    """Run, ps, exit, restart, attach, detach, stop, rm."""
    on.section("06", "Understand Container")
    on.say("A shell in a container; and what another terminal sees meanwhile:")
    with on.terminal("minidocker run -i -t debian:bookworm /bin/bash") as shell:
        shell.expect(PROMPT)
        shell.send("cat /etc/issue; echo $$; tty; stty size\r")
        shell.expect(r"Debian GNU/Linux 12")
        shell.expect(r"\n1\r\n/dev/pts/0\r\n24 80")
        print(paint("\n  (another terminal)", "3"))
        running = on.type("minidocker ps")
        on.check("it is running", "debian:bookworm" in running and "Up " in running)
        container = on.ask("minidocker ps -lq")
        shell.send("exit 0\r")
        shell.wait()
    on.check("bash had a terminal and was process 1 of its own", True)
    on.check("exited, not gone", re.search(r"Exited \(0\)", on.type("minidocker ps -a")))
    on.type(f"minidocker restart {container}")
    on.type("minidocker ps")
    on.say("Back into it; ctrl-p ctrl-q leaves it running:")
    with on.terminal(f"minidocker attach {container}") as shell:
        shell.send("\r")
        shell.expect(PROMPT)
        shell.send("echo I was here > /root/note; wc -l /root/note\r")
        shell.expect(r"[\r\n]1 /root/note\r")
        shell.expect(PROMPT)
        shell.send("\x10\x11")
        shell.wait()
    on.check("it still runs", on.ask("minidocker ps -q") == container)
    on.check("what was typed happened", "I was here" in on.type(f"minidocker exec {container} cat /root/note"))
    on.type(f"minidocker stop -t 1 {container}")
    on.type(f"minidocker rm {container}")
    on.check("and now it is gone", on.ask("minidocker ps -aq") == "")
    on.say("What the kernel is asked for, each step beside the shell line that does the same:")
    steps = "'^(unshare|sethostname|pivot_root|umount2|capset|execve)'"
    explained = on.type(f"minidocker --explain run --rm --network none debian:bookworm true 2>&1 | grep -E {steps}")
    on.check("the root is entered with pivot_root", "pivot_root" in explained)


def log_in(on: Stage) -> None:
    """A detached container with published ports, and a real ssh client."""
    on.say("A server in the background, its port published on a free one of this machine:")
    container = on.type("minidocker run -d -P --name test_sshd eg_sshd").strip()
    on.check("a detached container's whole id is printed", re.fullmatch(r"[0-9a-f]{64}", container), container)
    table = on.type("minidocker ps")
    on.check("PORTS shows where", re.search(r"0\.0\.0\.0:\d+->22/tcp", table))
    port = on.type("minidocker port test_sshd 22").split()[0].rpartition(":")[2]
    on.wait("sshd answers", lambda: "SSH" in on.ask(f"timeout 1 head -c 3 </dev/tcp/127.0.0.1/{port}"))
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=.known -o LogLevel=ERROR"
    command = f"root@localhost -p {port} 'hostname; cat /etc/issue; tail -n 1 /etc/profile'"
    greeting = on.type(f"sshpass -p screencast ssh {options} {command}", shown=f"sshpass -p screencast ssh {command}")
    on.check("ssh logged in to that container by password", greeting.startswith(container[:12]), greeting)
    on.check("and met the image that was built", "Debian" in greeting and "export VISIBLE=now" in greeting)
    on.type("minidocker top test_sshd")
    on.type("minidocker stop test_sshd && minidocker rm test_sshd")


def versions(on: Stage) -> None:
    """A changed container becomes the next version of an image, and back."""
    on.section("07", "Version Management")
    on.say("A container's changes, as a new version of its image:")
    on.type(
        "minidocker run --name editing debian:bookworm sh -c 'echo Welcome to version 2 > /etc/motd; rm /etc/issue.net'"
    )
    changes = on.type("minidocker diff editing").splitlines()
    on.check("diff shows what was changed and deleted", {"C /etc/motd", "D /etc/issue.net"} <= set(changes), changes)
    on.type("minidocker tag debian:bookworm hello:1")
    on.type("minidocker commit -m 'Greet the reader' -a 'A. Reader' editing hello:2")
    on.type("minidocker tag hello:2 hello:latest")
    on.check("the history has a line for it", "Greet the reader" in on.type("minidocker history hello:2"))
    on.check("version 2 greets", "version 2" in on.type("minidocker run --rm hello cat /etc/motd"))
    on.say("Going back to the earlier version:")
    on.type("minidocker tag hello:1 hello:latest")
    on.check("version 1 does not", "version 2" not in on.type("minidocker run --rm hello cat /etc/motd"))
    on.type("minidocker rm editing")


def hub(on: Stage) -> None:
    """Log in, push, pull, log out; a registry of our own plays the hub's part."""
    on.section("08", "Docker Hub")
    host = f"127.0.0.1:{free_port(5000)}"
    on.say(f"A registry with a password; `docker.io` works the same way, here {host} plays its part:")
    on.type("htpasswd -Bbc users reader opensesame")
    on.serve(f"minidocker registry serve --root hub --addr {host} --htpasswd users", lambda: answers(host))
    on.type(f"minidocker tag hello:2 {host}/reader/hello:2")
    refused = on.type(f"minidocker push {host}/reader/hello:2", code=1)
    on.check("nobody pushes without a password", re.search("auth|denied", refused))
    on.type(f"echo opensesame | minidocker login -u reader --password-stdin {host}")
    on.check("only the reader may read the password", on.ask("stat -c %a .docker/config.json") == "600")
    digest = re.search(r"digest: (sha256:[0-9a-f]{64})", on.type(f"minidocker push {host}/reader/hello:2"))
    on.check("pushed, under a digest", digest)
    on.type(f"minidocker rmi {host}/reader/hello:2")
    pulled = on.type(f"minidocker pull {host}/reader/hello:2")
    on.check("the same digest comes back", digest and digest.group(1) in pulled)
    on.type(f"minidocker logout {host}")
    on.type(f"minidocker pull {host}/reader/hello:2", code=1)
    on.check("and after logging out nothing does", True)


def private_registry(on: Stage) -> None:
    """Serve, push, look into the catalogue, pull elsewhere and run it there."""
    on.section("09", "Private Registry")
    host = f"127.0.0.1:{free_port(5001)}"
    on.serve(f"minidocker registry serve --root shelf --addr {host}", lambda: answers(host))
    on.type(f"minidocker tag hello:2 {host}/hello:2")
    on.type(f"minidocker push {host}/hello:2")
    on.check("it is in the catalogue", '"hello"' in on.type(f"curl -s http://{host}/v2/_catalog"))
    on.check("with its tag", '"2"' in on.type(f"curl -s http://{host}/v2/hello/tags/list"))
    on.say("Elsewhere, which is a root that has never seen this image:")
    elsewhere = "minidocker --root elsewhere"
    on.type(f"{elsewhere} pull {host}/hello:2")
    on.check("version 2 greets there", "version 2" in on.type(f"{elsewhere} run --rm {host}/hello:2 cat /etc/motd"))


def build_web(on: Stage) -> None:
    """A small web application, its layers ordered for the cache."""
    on.section("10", "Launch Web Application: Build Image")
    on.type("ls -A web && cat web/Dockerfile web/.dockerignore")
    on.type("minidocker build -q -t guestbook:1.0 web/")
    on.say("A file that .dockerignore names changes nothing; a changed template repeats only what stands below it:")
    on.type("echo 'How this works' > web/README.md")
    untouched = on.type("minidocker build -t guestbook:1.0 web/ | grep -c 'Using cache'")
    on.check("every step came from the cache", untouched.strip() == "14", untouched)
    on.type("sed -i 's/Guest book/Book of guests/' web/templates/index.html")
    changed = on.type("minidocker build --build-arg VERSION=2.0 -t guestbook:2.0 web/ | grep -B 1 -A 1 'Using cache'")
    on.check("the packages and the application came from the cache", changed.count("Using cache") == 4, changed)


def launch_web(on: Stage) -> None:
    """Run it with a port, a folder and limits; look at it; the next version; and back."""
    on.section("11", "Launch Web Application: Launch Application")
    port = free_port(8080)
    run = f"minidocker run -d -p {port}:80 -v $PWD/data:/data -m 128m --cpus 0.5 --pids-limit 50 --name web"
    on.type("mkdir -m 777 data")
    container = on.type(f"{run} guestbook:1.0").strip()
    on.wait("it answers", lambda: page(on, port))
    on.type(f"curl -s -d name=Ada -d words=Hello http://127.0.0.1:{port}/ > /dev/null")
    shown = on.type(f"curl -s http://127.0.0.1:{port}/ | grep -E 'entr|<li>|version'")
    on.check("version 1.0 shows the entry", "Hello" in shown and "version 1.0" in shown)
    on.check("and its style sheet", "--accent" in on.ask(f"curl -s http://127.0.0.1:{port}/static/style.css"))
    on.check("the log tells who signed", "signed by Ada" in on.type("minidocker logs web"))
    on.check("exec works in it, as its user", "guest" in on.type("minidocker exec web id -un"))
    on.check("the data lie in the mounted folder", "guestbook.db" in on.type("ls -l data"))
    on.check("the kernel holds it to 128 MiB", memory_limit(container) == 128 << 20, memory_limit(container))
    on.say("The next version, on the same data:")
    on.type("minidocker rm -f web")
    on.type(f"{run} guestbook:2.0")
    on.wait("it answers", lambda: page(on, port))
    shown = on.type(f"curl -s http://127.0.0.1:{port}/ | grep -E '<h1>|<li>|version'")
    on.check(
        "version 2.0 has the new title and the old entry", all(word in shown for word in ("of guests", "Hello", "2.0"))
    )
    on.say("And back:")
    on.type("minidocker rm -f web")
    on.type(f"{run} guestbook:1.0")
    on.wait("it answers", lambda: page(on, port))
    on.check("version 1.0 again, nothing lost", all(word in page(on, port) for word in ("Guest book", "Hello", "1.0")))


def clean_up(on: Stage) -> None:
    """Nothing stays behind."""
    on.section("12", "Clean up")
    on.type("minidocker rm -f $(minidocker ps -aq)")
    on.type("minidocker system df")
    on.type("minidocker system prune -a -f | tail -n 1")
    on.check("no container, no image", on.ask("minidocker ps -aq; minidocker images -aq") == "")
    with open("/proc/self/mountinfo") as mounts:
        on.check("no mount", f"{ROOT}/" not in mounts.read())


def duration(on: Stage, command: str) -> float:
    """Run a command unseen and return how long it took, in seconds."""
    started = time.monotonic()
    on.ask(command)
    return time.monotonic() - started


def free_port(preferred: int) -> int:
    """Return the port a reader would choose, or another one where it is taken."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Failure("no TCP port is free")


def answers(host: str) -> bool:
    """Say whether somebody listens at HOST:PORT."""
    address, _, port = host.partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((address, int(port))) == 0


def page(on: Stage, port: int) -> str:
    """Return the application's page, or "" while it does not answer."""
    return on.ask(f"curl -sf http://127.0.0.1:{port}/")


def memory_limit(container: str) -> int:
    """Return the memory limit of the control group named for the container, as the kernel has it."""
    for folder, _, names in os.walk("/sys/fs/cgroup"):
        for name in {"memory.limit_in_bytes", "memory.max"} & set(names):
            if container in folder:
                with open(f"{folder}/{name}") as file:
                    return int(file.read()) if file.readable() else 0
    return 0


IMAGES = (understand_image, pull_image, dockerfile, build)
CONTAINERS = (life_of_a_container, log_in, versions)
REGISTRIES = (hub, private_registry)
WEB = (build_web, launch_web)
SECTIONS = (overview, install, *IMAGES, *CONTAINERS, *REGISTRIES, *WEB, clean_up)


def main(names: list[str]) -> int:
    """Play all sections, or those named (`demo.py pull_image versions`); tell the first thing that does not hold."""
    if os.geteuid() != 0:
        sys.exit("the demo needs root: containers of an ordinary user are a later chapter")
    stage_is_ours = open(f"{RUN}.lock", "w")  # held to the end of this process
    try:
        fcntl.flock(stage_is_ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(
            f"another demo is using {ROOT}: wait until it has ended, "
            "or give this one folders of its own in MINIDOCKER_DEMO_ROOT and MINIDOCKER_DEMO_RUN"
        )
    started = time.monotonic()
    on = Stage(ROOT, RUN)
    print(f"$ export MINIDOCKER_ROOT={ROOT} MINIDOCKER_RUN={RUN}")
    try:
        on.prepare()
        for section in SECTIONS:
            if not names or section.__name__ in names:
                section(on)
    except (Failure, TimeoutError) as problem:
        print(paint(f"\n✗ {problem}", "1;31"), flush=True)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; cleaning up")
        return 130
    finally:
        on.close()
    print(paint(f"\nThe whole tutorial, {on.checks} checks, in {time.monotonic() - started:.0f} s.", "1;32"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
