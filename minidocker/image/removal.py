"""Docker's rules for removing an image by a name or an id: what is untagged, what is deleted, what is refused. Pure.

See: moby 20.10, daemon/images/image_delete.go.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from minidocker.errors import Conflict
from minidocker.image import reference
from minidocker.image.catalog import Image, short_id


class Usage(NamedTuple):
    """A container that stands on an image: ids of both, whether it runs, and the diff ids of its layers."""

    container: str
    image: str
    running: bool
    layers: tuple[str, ...] = ()


class Removal(NamedTuple):
    """What is to be done, in this order: references to take away (canonical), images to delete."""

    untagged: list[str]
    deleted: list[Image]


def plan(images: Iterable[Image], image: Image, name: str, force: bool, usages: Iterable[Usage]) -> Removal:
    """Work out what `rmi name` does, where `name` was found to mean `image`. Raises `Conflict` in docker's words."""
    return _Plan(images, usages).remove(image, name, force)


class _Plan:
    """The references and images that are left, while a removal is worked out."""

    def __init__(self, images: Iterable[Image], usages: Iterable[Usage]) -> None:
        self.images = {image.id: image for image in images}
        self.references = {image.id: list(image.references) for image in self.images.values()}
        self.usages = list(usages)
        self.result = Removal([], [])

    def remove(self, image: Image, name: str, force: bool) -> Removal:
        """Take away the name; delete the image too when that was its last."""
        if image.id.startswith(name) or image.id.removeprefix("sha256:").startswith(name):
            self._remove_by_id(image, force)
        else:
            self._remove_by_name(image, name, force)
        return self.result

    def _remove_by_id(self, image: Image, force: bool) -> None:
        """Delete the image if all its references are of one repository; several need `force`."""
        if self._single_reference(image):
            self._check(image, force, references=False)
            self._untag(image, list(self.references[image.id]))
        self._delete(image, force)

    def _remove_by_name(self, image: Image, name: str, force: bool) -> None:
        """Take the name away; a repository that lost its last tag loses its digests with it."""
        user = next((usage for usage in self.usages if usage.image == image.id), None)
        if user and not force and self._single_reference(image):
            raise Conflict(
                f'conflict: unable to remove repository reference "{name}" (must force) - container '
                f"{short_id(user.container)} is using its referenced image {image.short_id}"
            )
        named = reference.parse(name)
        if named.digest:
            self._untag(image, [str(named.with_digest(named.digest))])
        else:
            self._untag(image, [str(named)])
            same = [text for text in self.references[image.id] if reference.parse(text).repository == named.repository]
            if all("@" in text for text in same):
                self._untag(image, same)
        if not self.references[image.id]:
            with suppress(Conflict):  # the name is gone, which was asked for; a child or a container keeps the image
                self._delete(image, force)

    def _delete(self, image: Image, force: bool) -> None:
        """Delete an image, and then each parent that nothing else names, needs or runs."""
        self._check(image, force)
        self._untag(image, list(self.references[image.id]))
        self.result.deleted.append(self.images.pop(image.id))
        parent = self.images.get(image.parent)
        if parent is not None:
            with suppress(Conflict):
                self._delete(parent, force=False)

    def _check(self, image: Image, force: bool, references: bool = True) -> None:
        """Raise `Conflict` for what stands against deleting an image; children and a running container always do."""
        conflict = ""
        running = [usage for usage in self.usages if usage.image == image.id and usage.running]
        stopped = [usage for usage in self.usages if usage.image == image.id and not usage.running]
        if self._children(image):
            conflict = "(cannot be forced) - image has dependent child images"
        elif running:
            conflict = f"(cannot be forced) - image is being used by running container {short_id(running[0].container)}"
        elif references and not force and self.references[image.id]:
            conflict = "(must be forced) - image is referenced in multiple repositories"
        elif stopped and not force:
            conflict = f"(must be forced) - image is being used by stopped container {short_id(stopped[0].container)}"
        if conflict:
            raise Conflict(f"conflict: unable to delete {image.short_id} {conflict}")

    def _untag(self, image: Image, references: list[str]) -> None:
        for text in references:
            self.references[image.id].remove(text)
            self.result.untagged.append(text)

    def _children(self, image: Image) -> bool:
        return any(other.parent == image.id for other in self.images.values())

    def _single_reference(self, image: Image) -> bool:
        """Say whether all references are one tag and the digests of the same repository."""
        names = [reference.parse(text, default_tag="") for text in self.references[image.id]]
        tags = [name for name in names if not name.digest]
        if len(names) <= 1 or len(tags) > 1:
            return len(names) <= 1
        return len({name.repository for name in names}) == 1 and len(tags) < len(names)
