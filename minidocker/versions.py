"""A new version of an image, made of a container: `commit`."""

import contextlib
from collections.abc import Iterable

from minidocker import storage
from minidocker.container import lifecycle, records
from minidocker.container.records import Container
from minidocker.engine import Engine
from minidocker.image import layers, reference
from minidocker.image.oci import CONFIG, MANIFEST, Descriptor, ImageConfig, Manifest, digest_of
from minidocker.image.store import Image


def commit(
    engine: Engine, container: Container, name: str, message: str, author: str, changes: Iterable[str], pause: bool
) -> Image:
    """Record an image: the container's image and one more layer, what the container has changed.

    `changes` are Dockerfile instructions that change the configuration; with `pause` nothing in the container runs
    while its files are read, so that they fit together. Raises: InvalidReference, DockerfileError.
    """
    from minidocker.build.builder import apply_changes

    references = [reference.parse(name)] if name else []
    store = engine.images
    with store.adding():
        parent = store.get(container.image_id)
        before = store.config(parent)
        still = lifecycle.paused(engine.containers, container) if pause else contextlib.nullcontext()
        with still, storage.upper(engine, container) as upper:
            layer = layers.write_layer(store.layout, upper)
        store.unpack(layer.blob.digest, layer.diff_id)
        config = after_commit(before, container, layer.diff_id, message, author)
        config = apply_changes(config, tuple(changes))
        data = config.to_bytes()
        store.layout.add_blob(data)
        descriptor = Descriptor(CONFIG, digest_of(data), len(data))
        manifest = Manifest(MANIFEST, descriptor, (*store.manifest(parent).layers, layer.blob))
        return store.add(manifest.to_bytes(), MANIFEST, references, parent=parent.id)


def after_commit(before: ImageConfig, container: Container, diff_id: str, message: str, author: str) -> ImageConfig:
    """Return the configuration of a committed image. Pure but for the time.

    What the user chose for the container (its command, variables, directory, ports) is the new image's default.
    """
    now = records.now()
    entry = {"created": now, "created_by": " ".join(container.spec.args), "comment": message, "author": author}
    raw = {
        **before.raw,
        "created": now,
        "author": author or before.author,
        "config": {**before.config, **_chosen(before, container)},
        "rootfs": {"type": "layers", "diff_ids": [*before.diff_ids, diff_id]},
        "history": [*before.history, {key: value for key, value in entry.items() if value}],
    }
    return ImageConfig(raw)


def _chosen(before: ImageConfig, container: Container) -> dict[str, object]:
    """Return what of the configuration the container's options have replaced."""
    spec = container.spec
    entrypoint = list(before.config.get("Entrypoint") or ())
    starts_alike = list(spec.args[: len(entrypoint)]) == entrypoint
    own = (f"HOSTNAME={spec.hostname}", "TERM=xterm")
    chosen: dict[str, object] = {
        "Env": [variable for variable in spec.env if variable not in own],
        "Entrypoint": entrypoint if starts_alike and entrypoint else None,
        "Cmd": list(spec.args[len(entrypoint) :] if starts_alike else spec.args),
        "WorkingDir": "" if spec.workdir == "/" else spec.workdir,
        "User": spec.user,
        "Labels": dict(spec.labels) or None,
        "ExposedPorts": {port: {} for port in spec.exposed} or None,
    }
    return chosen
