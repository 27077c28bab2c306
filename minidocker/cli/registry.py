"""Other machines' images: `pull`, `push`, `login`, `logout`, `search`, and `registry serve`."""

import os
import sys

from minidocker.cli.arguments import Call, Command, Option, whole_number
from minidocker.cli.progress import printer
from minidocker.errors import InvalidArgument, RegistryError

HUB = "docker.io"


def pull(call: Call) -> int:
    """Bring an image from its registry."""
    from minidocker import engine as stories
    from minidocker.image import reference

    engine = call.engine()
    name = call.word(0)
    if call["all-tags"]:
        return _pull_all(call, name)
    parsed = reference.parse(name, default_tag="")
    if not (parsed.tag or parsed.digest or call["quiet"]):
        print("Using default tag: latest")
    full = reference.parse(name)
    with printer(sys.stdout, call["quiet"]) as report:
        stories.pull(engine, name, call["platform"], report)
    print(full)
    return 0


def _pull_all(call: Call, name: str) -> int:
    """Pull every tag of a repository."""
    from minidocker import engine as stories
    from minidocker.image import reference
    from minidocker.registry.client import connect

    repository = reference.parse(name, default_tag="")
    if repository.tag or repository.digest:
        raise InvalidArgument("tag can't be used with --all-tags/-a")
    engine = call.engine()
    with printer(sys.stdout, call["quiet"]) as report:
        for tag in connect(repository.domain).tags(repository.path):
            stories.pull(engine, f"{repository}:{tag}", call["platform"], report)
    print(repository)
    return 0


def push(call: Call) -> int:
    """Send an image to the registry that its name begins with."""
    from minidocker import engine as stories
    from minidocker.image import reference

    engine = call.engine()
    name = reference.parse(call.word(0), default_tag="" if call["all-tags"] else "latest")
    names = [str(name)]
    if call["all-tags"]:
        if name.tag or name.digest:
            raise InvalidArgument("tag can't be used with --all-tags/-a")
        names = [tag for image in engine.images.images() for tag in image.tags if tag.startswith(f"{name.repository}:")]
        if not names:
            raise InvalidArgument(f"An image does not exist locally with the tag: {name.familiar_repository}")
    elif not (call["quiet"] or reference.parse(call.word(0), default_tag="").tag):
        print("Using default tag: latest")
    with printer(sys.stdout, call["quiet"]) as report:
        for each in names:
            stories.push(engine, each, report)
    if call["quiet"]:
        print(name)
    return 0


def login(call: Call) -> int:
    """Let a registry confirm name and password, and keep them."""
    from minidocker.registry import client

    host = _host(call.word(0))
    username, password = call["username"], call["password"]
    if call["password-stdin"]:
        if call["password"]:
            raise InvalidArgument("--password and --password-stdin are mutually exclusive")
        if not username:
            raise InvalidArgument("Must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\r\n")
    elif password:
        print("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", file=sys.stderr)
    username, password = _ask(host, username, password)
    client.login(host, username, password)
    from minidocker.registry import credentials

    print(f"The password is kept, not encrypted, in {credentials.path()}", file=sys.stderr)
    print("Login Succeeded")
    return 0


def _host(server: str) -> str:
    """Return the registry that a word names: docker.io where there is none."""
    host = server.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return HUB if host in ("", "index.docker.io", "registry-1.docker.io") else host


def _ask(host: str, username: str, password: str) -> tuple[str, str]:
    """Ask at the terminal for what is missing."""
    if username and password:
        return username, password
    if not sys.stdin.isatty():
        raise InvalidArgument("Cannot perform an interactive login from a non TTY device")
    from getpass import getpass

    if not username:
        print(f"Log in to {host} with your name and password.")
        username = input("Username: ").strip()
        if not username:
            raise InvalidArgument("username is required")
    password = password or getpass("Password: ")
    if not password:
        raise InvalidArgument("password is required")
    return username, password


def logout(call: Call) -> int:
    """Forget the credentials of a registry."""
    from minidocker.registry import client

    host = _host(call.word(0))
    known = client.logout(host)
    print(f"Removing login credentials for {host}" if known else f"Not logged in to {host}")
    return 0


def search(call: Call) -> int:
    """Say that there is nothing to search where only Docker Hub could answer."""
    from minidocker.registry import embedded

    engine = call.engine()
    here = embedded.find(engine.root)
    names = ", ".join(here.names()) if here else ""
    advice = f"The embedded registry has {names}." if names else "There is no embedded registry either."
    raise RegistryError(
        f"search {call.word(0)}: only Docker Hub can be searched, and minidocker does not: use https://hub.docker.com. "
        f"{advice} A private registry lists what it has at http://HOST:PORT/v2/_catalog"
    )


def serve(call: Call) -> int:
    """Serve a folder's images until interrupted."""
    from minidocker.registry.server import serve

    root: str = call["root"] or f"{call.engine().root}/registry"
    host, _, port = call["addr"].rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"invalid address {call['addr']!r}: expected HOST:PORT, as in 127.0.0.1:5000")

    def ready(address: str) -> None:
        print(f"Serving {root} at http://{address}/v2/ (stop with ctrl-C)", flush=True)

    def log(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    os.makedirs(root, exist_ok=True)
    serve(root, host.strip("[]") or "0.0.0.0", int(port), call["htpasswd"] or None, ready, log)  # noqa: S104, as asked
    return 0


_ALL_TAGS = Option("all-tags", "bool", "All tags of the repository", "a")

COMMANDS = {
    "pull": Command(
        pull,
        "[OPTIONS] NAME[:TAG|@DIGEST]",
        (
            _ALL_TAGS,
            Option("platform", "string", "Choose the image for this platform (os/architecture[/variant])", default=""),
            Option("quiet", "bool", "Suppress verbose output", "q"),
        ),
        at_least=1,
        at_most=1,
    ),
    "push": Command(
        push,
        "[OPTIONS] NAME[:TAG]",
        (_ALL_TAGS, Option("quiet", "bool", "Suppress verbose output", "q")),
        at_least=1,
        at_most=1,
    ),
    "login": Command(
        login,
        "[OPTIONS] [SERVER]",
        (
            Option("password", "string", "Password", "p", ""),
            Option("password-stdin", "bool", "Take the password from stdin"),
            Option("username", "string", "Username", "u", ""),
        ),
        at_most=1,
        root=False,
        about="Without SERVER, that is Docker Hub (docker.io).",
    ),
    "logout": Command(
        logout, "[SERVER]", at_most=1, root=False, about="Without SERVER, that is Docker Hub (docker.io)."
    ),
    "search": Command(
        search,
        "[OPTIONS] TERM",
        (Option("limit", "int", "Max number of search results", default=25, read=whole_number),),
        at_least=1,
        at_most=1,
        root=False,
    ),
    "registry serve": Command(
        serve,
        "[OPTIONS]",
        (
            Option("addr", "string", "Address to listen on", default="127.0.0.1:5000"),
            Option("htpasswd", "string", "Ask for name and password; the file is one of htpasswd -B", default=""),
            Option("root", "string", "Folder of the registry (default that of the embedded registry)", default=""),
        ),
        root=False,
    ),
}
