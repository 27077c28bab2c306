"""Lending the builder what it builds with: containers for RUN, images for FROM."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from minidocker import engine as stories
from minidocker.build import builder
from minidocker.build.builder import BuildOptions, RunStep
from minidocker.engine import Engine
from minidocker.errors import ContainerNotFound, ImageNotFound
from minidocker.image.catalog import short_id
from minidocker.image.store import Image
from minidocker.progress import Progress

if TYPE_CHECKING:
    from minidocker.container.spec import Spec


def build(
    engine: Engine,
    context: str,
    options: BuildOptions,
    out: Callable[[str], None],
    limited: "Callable[[Spec], Spec]" = lambda spec: spec,
) -> str:
    """Build an image; return its id. See `minidocker.build.builder.build`.

    `limited` may set limits for the container of each RUN.
    """

    def tell(news: Progress) -> None:
        if not news.total:  # what counts bytes is for a line that is redrawn
            out(f"{news.id}: {news.status}\n" if news.id else f"{news.status}\n")

    def resolve(name: str, platform: str, pull: bool) -> Image:
        if pull:
            return stories.pull(engine, name, platform, tell).image
        with contextlib.suppress(ImageNotFound):
            return engine.images.get(name)
        return stories.pull(engine, name, platform, tell).image

    return builder.build(engine.images, context, options, out, lambda step: run_step(engine, step, limited), resolve)


class StepResult(NamedTuple):
    """How a RUN ended; its container stays until it is discarded, so that its changes can be taken."""

    exit_code: int
    upper: str
    discard: Callable[[], None]


def run_step(engine: Engine, step: RunStep, limited: "Callable[[Spec], Spec]") -> StepResult:
    """Run one command in a container of its own, as `run` would; interrupted, the container goes at once."""
    from minidocker import storage  # a build that is cached needs none of these
    from minidocker.assemble import DEFAULT_PATH, kept_capabilities, user_namespace
    from minidocker.container.lifecycle import merge_env
    from minidocker.container.options import RunOptions
    from minidocker.container.spec import Mount, Spec
    from minidocker.linux import trees

    plain = Spec(
        args=step.args,
        env=merge_env((DEFAULT_PATH, f"HOSTNAME={step.container_id[:12]}"), step.env),
        user=step.user,
        workdir=step.workdir or "/",
        hostname=step.container_id[:12],
        layers=step.layers,
        mounts=tuple(Mount("bind", source, target, read_only=True) for source, target in step.mounts),
        network=step.network,
        tied=True,
        capabilities=kept_capabilities(RunOptions()),
        userns=user_namespace(RunOptions(network=step.network)),
    )
    spec = limited(plain)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(discard, engine, step.container_id)
        with engine.containers.making("", short_id(step.image), step.image, spec, step.container_id) as container:
            storage.prepare(engine, container, lambda news: step.output(f"{news.status}\n".encode()))
        attachment = stories.start(engine, container, attach=True)
        if attachment:
            for _, data in attachment.frames():
                step.output(data)
            attachment.close()
        exit_code = stories.wait(engine, engine.containers.load(container.id))
        upper = on_failure.enter_context(storage.upper(engine, container))
        if exit_code == 0:  # what it has changed becomes a layer by a rename: before that, nobody may see the container
            on_failure.enter_context(engine.containers.lock(container.id))
            gone = engine.containers.forget(container.id)
            on_failure.callback(trees.delete, gone)
            upper = gone + upper.removeprefix(engine.containers.path(container.id))
        undo = on_failure.pop_all()
    return StepResult(exit_code, upper, undo.close)


def discard(engine: Engine, container_id: str) -> None:
    """Remove a step's container."""
    with contextlib.suppress(ContainerNotFound):
        stories.remove(engine, engine.containers.load(container_id), force=True, volumes=True)
