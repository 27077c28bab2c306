"""What an image says about how it is to be run is checked before it is believed: types, and values that mean no good.

An image comes from a stranger, and what is here becomes arguments, variables, paths and ports of a process that is set
up with root's powers. So it is refused when the image arrives, not when a container is half made.

See: OCI image-spec, config.md; moby, image/spec/v1.2.md.
"""

import posixpath
import re

from minidocker.errors import InvalidManifest
from minidocker.image.documents import Json, as_array, as_object, as_strings

MOST_LAYERS = 125  # docker's; a kernel stacks 500
_TEXTS = ("User", "WorkingDir", "StopSignal", "Hostname", "Domainname", "Image")
_LISTS = ("Env", "Cmd", "Entrypoint", "OnBuild", "Shell")
# Half a character, as JSON can have it. Those of Python's surrogateescape stand for bytes that are not UTF-8.
_BROKEN = "[\0\ud800-\udc7f\udd00-\udfff]"
_PORT = r"([0-9]{1,5})(?:/(?:tcp|udp|sctp))?"


def check(raw: Json) -> None:
    """Check a whole image configuration. Raises `InvalidManifest`."""
    for key in ("created", "author", "architecture", "os", "variant"):
        _text(raw.get(key), key)
    for entry in as_array(raw.get("history"), "history"):
        for key in ("created", "created_by", "author", "comment"):
            _text(as_object(entry, "a history entry").get(key), f"a history entry's {key}")
    config = as_object(raw.get("config") or {}, "config")
    for key in _TEXTS:
        _text(config.get(key), key)
    for key in _LISTS:
        for text in as_array(config.get(key), key):
            _text(text if text is not None else 0, f"a part of {key}")
    for key, text in as_strings(config.get("Labels"), "Labels").items():
        _text(key + text, f"the label {key[:80]!r}")
    for variable in config.get("Env") or ():
        if variable.startswith("=") or not variable:
            raise InvalidManifest(f"an environment variable without a name: {variable[:80]!r}")
    for port in as_object(config.get("ExposedPorts") or {}, "ExposedPorts"):
        _port(port)
    for place in as_object(config.get("Volumes") or {}, "Volumes"):
        _volume(place)


def _port(text: str) -> None:
    match = re.fullmatch(_PORT, text)
    if match is None or int(match[1]) > 65535:
        raise InvalidManifest(f"the exposed port {text[:80]!r} is none: expected a number, and /tcp, /udp or /sctp")


def _volume(place: str) -> None:
    """Refuse a volume that would be mounted over the whole image, or looked for outside of it."""
    _text(place, "a volume's place")
    if ".." in place.split("/") or posixpath.normpath(f"/{place}").strip("/") == "":
        raise InvalidManifest(f"the volume at {place[:80]!r} cannot be: it needs a folder of its own in the image")


def _text(value: object, what: str) -> None:
    """Raise `InvalidManifest` for what is no text, or a text that no file name or argument can be."""
    if value is not None and not isinstance(value, str):
        raise InvalidManifest(f"{what[:80]} is not a string: {str(value)[:80]!r}")
    if value is not None and re.search(_BROKEN, value):
        raise InvalidManifest(f"{what[:80]} has a NUL or half a character in it: {value[:80]!r}")
