"""What this machine has built before: which image came out when an instruction was carried out on another.

One small file for each step, named by the step's key, holds the image's id. Only steps carried out here are in it, so
an image from elsewhere, whatever it claims about its history, is never taken for one's own work (the class of
CVE-2024-24557).
"""

import contextlib
import os
from collections.abc import Iterable

from minidocker.errors import ImageNotFound
from minidocker.image.layout import replace_file
from minidocker.image.oci import digest_of
from minidocker.image.store import Image, ImageStore


def key(parent: str, identity: Iterable[str]) -> str:
    """Hash all that decides what a step makes: the image it starts from, and what the step says of itself."""
    import json

    return digest_of(json.dumps([parent, *identity]).encode()).removeprefix("sha256:")


class Cache:
    """The files below `folder`. Making the object touches nothing."""

    def __init__(self, folder: str, images: ImageStore) -> None:
        self.folder = folder
        self.images = images

    def find(self, step: str) -> Image | None:
        """Return the image that this step made, unless it is not known or gone."""
        try:
            with open(f"{self.folder}/{step}", encoding="ascii", errors="replace") as file:
                image_id = file.read().strip()
        except FileNotFoundError:
            return None
        if not image_id.startswith("sha256:") or len(image_id) != 71:
            return None  # cut off by a crash
        try:
            return self.images.get(image_id)
        except ImageNotFound:
            return None

    def forget_missing(self) -> None:
        """Delete the files whose image is gone, and those that a killed build did not finish."""
        known = {image.id for image in self.images.images()}
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else ():
            path = f"{self.folder}/{name}"
            with contextlib.suppress(FileNotFoundError):  # of a build that finishes it just now
                with open(path, encoding="ascii", errors="replace") as file:
                    image_id = file.read().strip()
                if image_id not in known:
                    os.unlink(path)

    def record(self, step: str, image: Image) -> None:
        """Remember the image. What a crash cuts off is not taken for an id, so the disk is not waited for."""
        os.makedirs(self.folder, exist_ok=True)
        replace_file(f"{self.folder}/{step}", f"{image.id}\n".encode(), lasting=False)
