"""Images, as programs see them.

See: docker-py's reference, Images.
"""

import os
from collections.abc import Iterator
from typing import Any

from minidocker import engine as stories
from minidocker import inspect
from minidocker.engine import Engine
from minidocker.progress import Progress

Json = dict[str, Any]
Documents = list[Json]  # `list` is a method below


class Image:
    """An image in the store."""

    def __init__(self, engine: Engine, image_id: str) -> None:
        self.engine = engine
        self.id = image_id

    def __repr__(self) -> str:
        names = ", ".join(repr(tag) for tag in self.tags)
        return f"<Image: {names}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def short_id(self) -> str:
        """The id's first ten digits, with `sha256:`."""
        return self.id[:17]

    @property
    def attrs(self) -> Json:
        """What `inspect` shows."""
        return inspect.image_json(self.engine, self.engine.images.get(self.id))

    @property
    def tags(self) -> list[str]:
        """Its names, as people write them."""
        found: list[str] = self.attrs["RepoTags"]
        return found

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its configuration."""
        return self.attrs["Config"].get("Labels") or {}

    def history(self) -> list[Json]:
        """Return what made it, the newest step first."""
        config = self.engine.images.config(self.engine.images.get(self.id))
        return list(reversed(list(config.history)))

    def tag(self, repository: str, tag: str = "latest") -> bool:
        """Give it one more name. Raises: InvalidReference."""
        from minidocker.image import reference

        self.engine.images.tag(self.engine.images.get(self.id), reference.parse(f"{repository}:{tag}"))
        return True

    def remove(self, force: bool = False) -> None:
        """Remove it. Raises: Conflict."""
        stories.remove_image(self.engine, self.id, force)


class ImageCollection:
    """The images of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def get(self, name: str) -> Image:
        """Find an image by name or id. Raises: ImageNotFound."""
        return Image(self.engine, self.engine.images.get(name).id)

    def list(self, name: str = "", all: bool = False) -> list[Image]:
        """Return the images, of one repository where it is named; with `all` those that builds have left, too."""
        from minidocker.image import reference

        wanted = reference.parse(name, "").repository if name else ""
        found = self.engine.images.images(intermediate=all)
        return [
            Image(self.engine, image.id)
            for image in found
            if not wanted or any(reference.parse(tag).repository == wanted for tag in image.tags)
        ]

    def pull(self, repository: str, tag: str = "", platform: str = "") -> Image:
        """Fetch an image. Raises: RegistryError."""
        name = f"{repository}:{tag}" if tag else repository
        return Image(self.engine, stories.pull(self.engine, name, platform).image.id)

    def push(self, repository: str, tag: str = "") -> "Documents":
        """Send an image to its registry; return what was told on the way. Raises: RegistryError, ImageNotFound."""
        news: list[Progress] = []
        stories.push(self.engine, f"{repository}:{tag}" if tag else repository, news.append)
        return [line._asdict() for line in news]

    def build(self, path: str, tag: str = "", dockerfile: str = "", **asked: Any) -> tuple[Image, Iterator[Json]]:
        """Build an image of the folder `path`; return it and the build's lines as `{"stream": …}`.

        `asked` are docker-py's `buildargs`, `nocache`, `pull`, `target`, `labels`, `quiet`, `platform`,
        `network_mode`. Raises: BuildError, DockerfileError.
        """
        from minidocker.build.builder import BuildOptions

        names = {"buildargs": "build_args", "nocache": "no_cache", "network_mode": "network"}
        values = {names.get(name, name): value for name, value in asked.items() if name != "rm"}
        lines: list[str] = []
        file = os.path.join(path, dockerfile or "Dockerfile")
        with open(file, encoding="utf-8-sig", errors="surrogateescape") as opened:
            wanted = BuildOptions(opened.read(), file, tags=(tag,) if tag else (), **values)
        image_id = stories.build(self.engine, path, wanted, lines.append)
        return Image(self.engine, image_id), iter([{"stream": line} for line in lines])

    def remove(self, image: str, force: bool = False) -> None:
        """Remove an image or one of its names. Raises: ImageNotFound, Conflict."""
        stories.remove_image(self.engine, image, force)
