"""Start a random command, kill a random process of ours at a random moment, see that nothing is lost; many times over.

`make chaos ROUNDS=300 SEED=1`. All choices follow from the seed; the moments depend on the machine. Each round is
printed before it begins, so what was done can be done again. After each round every list can be shown and holds what
was reported as done; every few rounds the images are compared with their blobs and half-made containers are started.
At the end `system prune` has to return the disk and the kernel to what they were.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from chaosworld import Broken, World, title, wait_until_gone

DEEP = 10  # rounds from one thorough check to the next
MISSED = 0.15  # of all commands nobody kills anything during


class Attempt(NamedTuple):
    """A command to try: what it may undo of the promises, what it promises, what else it may rightly complain of."""

    words: list[str]
    images: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    promise_image: tuple[str, ...] = ()
    promise_container: str = ""
    excuse: str = ""


class Stories:
    """Makes up the next command from what there is; all by chance."""

    def __init__(self, world: World, rng: random.Random, served: list[str]) -> None:
        self.world, self.rng, self.served = world, rng, served
        self.number = 0

    def next(self) -> tuple[str, Attempt]:
        """Choose a story that can be told now."""
        stories: list[Callable[[], Attempt | None]] = [
            self.pull, self.load, self.build, self.build, self.tag, self.rmi, self.save, self.run, self.run,
            self.detached, self.detached, self.create, self.commit, self.stop, self.restart,
            self.kill, self.rm, self.exec, self.cp_in, self.cp_out, self.prune,
        ]  # fmt: skip
        while True:
            story = self.rng.choice(stories)
            if attempt := story():
                return story.__name__, attempt

    def _image(self) -> str:
        return self.rng.choice(sorted(self.world.promises.images) or ["busybox"])

    def _container(self) -> str:
        """Choose a promised container by its name."""
        return self.rng.choice(sorted(self.world.promises.containers.values()) or [""])

    def _new(self, kind: str) -> str:
        self.number += 1
        return f"{kind}{self.number}"

    def pull(self) -> Attempt:
        """Fetch an image."""
        name = self.rng.choice(self.served)
        return Attempt(["pull", name], images=(name,), promise_image=(name,))

    def load(self) -> Attempt:
        """Read all images from an archive."""
        names = tuple(self.served)
        return Attempt(["load", "-i", f"{self.world.files}/saved.tar"], images=names, promise_image=names)

    def build(self) -> Attempt:
        """Build with files and commands, in part as before."""
        context, name = f"{self.world.files}/context", f"t{self.rng.randrange(4)}:latest"
        os.makedirs(context, exist_ok=True)
        with open(f"{context}/f", "wb") as file:
            file.write(self.rng.randbytes(100_000))
        network = self.rng.choice(["none", "bridge"])
        with open(f"{context}/Dockerfile", "w") as text:
            lines = ["FROM busybox", "ENV A=1", f"RUN echo {self.rng.randrange(5)} > /r", "COPY f /f", "RUN cp /f /g"]
            text.write("\n".join(lines))
        words = ["build", "--network", network, "-t", name, context]
        return Attempt(words, images=(name,), promise_image=(name,))

    def tag(self) -> Attempt:
        """Give an image one more name."""
        source, name = self._image(), f"t{self.rng.randrange(4)}:latest"
        return Attempt(["tag", source, name], images=(name,), promise_image=(name,), excuse="o such image")

    def rmi(self) -> Attempt | None:
        """Remove a name, perhaps the image."""
        name = self._image()
        return None if name == "busybox" else Attempt(["rmi", "-f", name], images=(name,))

    def save(self) -> Attempt | None:
        """Write an image to an archive."""
        name = self._image()
        return Attempt(["save", "-o", f"{self.world.files}/out.tar", name], excuse="o such image")

    def _options(self) -> list[str]:
        if self.rng.random() < 0.4:
            return ["--network", "none"]
        busy = self.world.ok("ps", "--format", "{{.Ports}}")
        first = 20000 + os.getpid() % 100 * 100  # another world may be broken beside this one
        port = next(port for port in range(first, first + 100) if f":{port}-" not in busy)
        return ["-p", f"127.0.0.1:{port}:80"] if self.rng.random() < 0.7 else []

    def run(self) -> Attempt:
        """Run a short command."""
        return Attempt(["run", "--rm", *self._options(), self._image(), "sh", "-c", "echo hello > /x; cat /x"])

    def detached(self) -> Attempt:
        """Leave a container running."""
        name = self._new("c")
        script = "trap 'exit 0' TERM; while :; do echo on; sleep 1; done"
        words = ["run", "-d", "--name", name, *self._options(), self._image(), "sh", "-c", script]
        return Attempt(words, promise_container=name)

    def create(self) -> Attempt:
        """Make a container that does not run."""
        name = self._new("c")
        return Attempt(["create", "--name", name, self._image(), "sleep", "1000"], promise_container=name)

    def commit(self) -> Attempt | None:
        """Make an image of a container."""
        container, name = self._container(), f"t{self.rng.randrange(4)}:latest"
        words = ["commit", container, name]
        return Attempt(words, (name,), promise_image=(name,), excuse="o such image") if container else None

    def _on_container(self, *words: str, excuse: str = "") -> Attempt | None:
        container = self._container()
        return Attempt([*words, container], excuse=excuse) if container else None

    def stop(self) -> Attempt | None:
        """Stop a container."""
        return self._on_container("stop", "-t", "1")

    def restart(self) -> Attempt | None:
        """Stop a container and start it."""
        return self._on_container("restart", "-t", "1", excuse="already allocated")

    def kill(self) -> Attempt | None:
        """Kill a container."""
        return self._on_container("kill", excuse="is not running")

    def rm(self) -> Attempt | None:
        """Remove a container."""
        container = self._container()
        gone = (self.world.promises.id_of(container),)
        return Attempt(["rm", "-f", container], containers=gone) if container else None

    def exec(self) -> Attempt | None:
        """Run one more program in a container."""
        container = self._container()
        return Attempt(["exec", container, "sh", "-c", "echo x"], excuse="is not running") if container else None

    def cp_in(self) -> Attempt | None:
        """Copy a file into a container."""
        container = self._container()
        return Attempt(["cp", f"{self.world.files}/saved.tar", f"{container}:/tmp/"]) if container else None

    def cp_out(self) -> Attempt | None:
        """Copy a folder out of a container."""
        container = self._container()
        words = ["cp", f"{container}:/bin", f"{self.world.files}/{self._new('copy')}"]
        return Attempt(words) if container and self.rng.random() < 0.3 else None

    def prune(self) -> Attempt | None:
        """Remove what stands still."""
        if self.rng.random() < 0.6:
            return None
        running = set(self.world.ok("ps", "-q", "--no-trunc").split())
        stopped = tuple(one for one in self.world.promises.containers if one not in running)
        return Attempt(["system", "prune", "-f"], containers=stopped)


class Chaos:
    """The rounds."""

    def __init__(self, world: World, seed: int, served: list[str]) -> None:
        self.world, self.rng = world, random.Random(seed)  # noqa: S311, no secret
        self.stories = Stories(world, self.rng, served)
        self.lasts: dict[str, float] = {}  # how long each story takes when nobody disturbs it

    def round(self, number: int) -> str:
        """Tell one story, killing somebody; check; return what was done."""
        kind, attempt = self.stories.next()
        moment = self.rng.random() * 1.1
        disturbed = self.rng.random() >= MISSED
        killer = random.Random(self.rng.random())  # noqa: S311, so that what it finds does not change what follows
        self._forget(attempt)
        log = f"{self.world.base}/output"
        with open(log, "wb") as output:
            process = self.world.start(*attempt.words, stdout=output, stderr=output)
        begun, victim = time.monotonic(), ""
        if disturbed:
            try:
                process.wait(moment * self.lasts.get(kind, 0.6))
            except subprocess.TimeoutExpired:
                victim = self.world.kill_one(killer, process.pid)
        code = self._wait(process, attempt)
        with open(log, errors="replace") as file:
            said = file.read()
        if not victim:
            self.lasts[kind] = time.monotonic() - begun
        text = f"{number}: {' '.join(attempt.words)[:110]} → {code}{f', killed {victim}' if victim else ''}"
        if code == 0:
            self._promise(attempt)
        elif not victim and not (attempt.excuse and attempt.excuse in said):
            raise Broken(f"{text}\nnobody was killed, and it failed:\n{said}")
        elif "This is a bug" in said:
            raise Broken(f"{text}\n{said}")
        return text

    def _wait(self, process: "subprocess.Popen[bytes]", attempt: Attempt) -> int:
        try:
            return process.wait(180)
        except subprocess.TimeoutExpired:
            waiting = "\n".join(f"{pid} {title(pid)}" for pid in self.world.processes())
            process.kill()
            process.wait()
            raise Broken(f"stuck: {' '.join(attempt.words)}\n{waiting}") from None

    def _forget(self, attempt: Attempt) -> None:
        for name in attempt.images:
            self.world.promises.images.pop(name, None)
        for container in attempt.containers:
            self.world.promises.containers.pop(container, None)

    def _promise(self, attempt: Attempt) -> None:
        for name in attempt.promise_image:
            self.world.promises.images[name] = self.world.ok("inspect", "--format", "{{.Id}}", name)
        if attempt.promise_container:
            shown = self.world.ok("inspect", "--format", "{{.Id}}", attempt.promise_container)
            self.world.promises.containers[shown] = attempt.promise_container

    def check(self, thorough: bool) -> None:
        """Compare what there is with what was promised."""
        self.world.check()
        if thorough:
            self.world.check_network()
            self.world.check_created()
            self.world.check_images()
            self.world.ok("run", "--rm", self.stories._image(), "true")

    def finish(self, before: list[str]) -> None:
        """Stop and prune everything; nothing more may be left than there was."""
        self.check(thorough=True)
        running = self.world.ok("ps", "-q").split()
        if running:
            self.world.ok("stop", "-t", "0", *running)
        if alive := wait_until_gone(self.world.processes(), 20):
            names = [f"{pid} {title(pid)}" for pid in alive if pid in self.world.processes()]
            if names:
                raise Broken(f"processes are left after everything was stopped: {names}")
        self.world.ok("system", "prune", "-a", "-f", "--volumes")
        after = self.world.everything()
        if more := [what for what in after if what not in before]:
            raise Broken("left behind after `system prune`: " + "\n  ".join(more))


def unused(world: World) -> list[str]:
    """Use the engine once, prune, and list what then is there: locks, an empty layout, what is remembered."""
    world.ok("run", "--rm", "-p", "127.0.0.1::80", "busybox", "true")
    world.ok("system", "prune", "-a", "-f", "--volumes")
    return world.everything()


def chaos(rounds: int, seed: int, say: Callable[[str], None]) -> None:
    """Run so many rounds in a world of their own. Raises: Broken with what was done last."""
    world = World()
    done: list[str] = []
    try:
        served = world.serve(["one", "two"])
        before = unused(world)
        world.ok("pull", "-q", "busybox")
        game = Chaos(world, seed, served)
        for number in range(1, rounds + 1):
            done.append(game.round(number))
            say(done[-1])
            game.check(thorough=number % DEEP == 0)
        game.finish(before)
    except Broken as error:
        raise Broken(f"seed {seed}, the last rounds:\n" + "\n".join(done[-DEEP:]) + f"\n{error}") from error
    finally:
        world.end()


def repeated(times: int, say: Callable[[str], None]) -> None:
    """Run `run --rm` so many times, in turn with and without a network; nothing may be left. Raises: Broken."""
    world = World()
    try:
        world.ok("pull", "-q", "busybox")
        world.ok("run", "--rm", "-p", "127.0.0.1::80", "busybox", "true")
        before = world.everything()
        for number in range(times):
            network = ["-p", "127.0.0.1::80"] if number % 2 else ["--network", "none"]
            world.ok("run", "--rm", *network, "busybox", "true")
            if number % 20 == 19:
                say(f"run --rm: {number + 1}")
        after = world.everything()
        if after != before:
            raise Broken(f"after {times} × run --rm: {sorted(set(after) ^ set(before))}")
    finally:
        world.end()


def main() -> int:
    """Read how many rounds and which seed; print as it goes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--repeat", type=int, default=0, help="so many `run --rm` first")
    asked = parser.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    say(f"seed {asked.seed}, {asked.rounds} rounds")
    try:
        if asked.repeat:
            repeated(asked.repeat, say)
        chaos(asked.rounds, asked.seed, say)
    except Broken as error:
        print(f"\nBROKEN\n{error}", file=sys.stderr)
        return 1
    say("nothing was lost, nothing is left behind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
