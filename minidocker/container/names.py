"""Whose a name is, and names for containers that nobody named.

`ROOT/names/NAME` is a symbolic link to the container's id, so that to find one takes no look at the others. A link
counts while the container's record has that name too: whoever is killed in between leaves one that means nothing.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator

from minidocker.container import files
from minidocker.errors import Conflict, InvalidArgument

_NAME = r"[a-zA-Z0-9][a-zA-Z0-9_.-]+"
_LONGEST = 255  # of a file's name, see: path_resolution(7)

ADJECTIVES = (
    "amber brave brisk calm candid cheerful clever cosmic crisp curious daring dreamy eager earnest elastic eloquent "
    "epic fearless festive focused friendly gallant gentle gifted graceful happy hardy honest hopeful humble jolly "
    "keen kind lively lucid merry modest mystic nimble nifty noble patient peaceful pensive playful quirky quiet "
    "relaxed serene sharp silent sincere steady stoic sunny suspicious tender trusting upbeat vibrant vigilant warm "
    "wise witty wonderful youthful zealous zen"
).split()
SURNAMES = (
    "abel allen archimedes babbage bardeen bell bohr boole borg brahmagupta cerf chandrasekhar church curie darwin "
    "dijkstra diffie einstein engelbart euclid euler faraday fermat feynman franklin galileo galois gauss germain "
    "goedel goldberg goodall hamilton hawking heisenberg hellman hertz hopper hypatia jang johnson joliot kalam "
    "kepler khorana kirch knuth kowalevski lamarr lamport leavitt liskov lovelace maxwell mccarthy mendel mirzakhani "
    "moore morse nash neumann newton nobel noether pascal pasteur perlman planck poincare ramanujan raman ride "
    "ritchie sejong shamir shannon sinoussi spence stallman swartz tesla thompson torvalds turing wiles wilson wozniak"
).split()


def random_name(attempt: int = 0) -> str:
    """Return a name such as `patient_lovelace`; from the second attempt on with a digit, as the plain ones run out."""
    adjective, surname, digit = os.urandom(3)  # `random` takes 2 ms to import
    name = f"{ADJECTIVES[adjective % len(ADJECTIVES)]}_{SURNAMES[surname % len(SURNAMES)]}"
    return f"{name}{digit % 10}" if attempt else name


def check(name: str) -> None:
    """Raise InvalidArgument, in docker's words, for what no container can be called."""
    if not re.fullmatch(_NAME, name):
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    if len(name) > _LONGEST:
        raise InvalidArgument(f"Invalid container name: it has {len(name)} characters, {_LONGEST} are allowed")


class Names:
    """The names of all containers below one root."""

    def __init__(self, root: str) -> None:
        self.containers = f"{root}/containers"
        self.links = f"{root}/names"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Have all names stay as they are while in the block, but for what is done there."""
        os.makedirs(self.links, 0o711, exist_ok=True)
        with files.locked(f"{self.containers}/names.lock"):
            yield

    def take(self, name: str, container_id: str) -> str:
        """Have `name`, or one made up, lead to a container, and return it; while `locked`.

        Raises: Conflict when it leads to another.
        """
        wanted, attempt = name or random_name(), 0
        while owner := self.owner(wanted):
            if name:
                raise Conflict(
                    f'Conflict. The container name "/{name}" is already in use by container "{owner}". '
                    "You have to remove (or rename) that container to be able to reuse that name."
                )
            attempt += 1
            wanted = random_name(attempt)
        self.drop(wanted)  # it may have led to one that is gone
        os.symlink(container_id, f"{self.links}/{wanted}")
        return wanted

    def owner(self, name: str) -> str:
        """Return the id of the container that has this name, or is being made to have it; nothing where none has."""
        if not re.fullmatch(_NAME, name):
            return ""
        try:
            container_id = os.readlink(f"{self.links}/{name}")
        except OSError:
            return ""
        folder = f"{self.containers}/{container_id}"
        try:
            with open(f"{folder}/record.json", "rb") as file:
                record = file.read()
        except FileNotFoundError:
            return container_id if files.is_locked(f"{folder}/lock") else ""
        try:
            return container_id if record and json.loads(record)["name"] == name else ""
        except (ValueError, KeyError):
            return container_id  # its record is damaged: until it is removed, nobody knows better

    def drop(self, name: str, container_id: str = "") -> None:
        """Have a name lead nowhere, if it leads to this container or none is given; while `locked`."""
        with contextlib.suppress(FileNotFoundError):
            if container_id in ("", os.readlink(f"{self.links}/{name}")):
                os.unlink(f"{self.links}/{name}")

    def drop_unowned(self) -> None:
        """Have no name lead to what is gone; while `locked`."""
        for name in os.listdir(self.links):
            if not self.owner(name):
                self.drop(name)
