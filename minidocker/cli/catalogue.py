"""Every command there is: its name, the module that knows it, and what it does in one line.

Only the module of the command that was typed is imported, so this list is all that most of a command's start costs.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    """One command: `minidocker.cli.<module>.COMMANDS[name]` says what it accepts."""

    module: str
    summary: str


COMMANDS = {
    "attach": Entry("streams", "Attach local standard input, output, and error streams to a running container"),
    "build": Entry("build", "Build an image from a Dockerfile"),
    "commit": Entry("changes", "Create a new image from a container's changes"),
    "cp": Entry("copy", "Copy files/folders between a container and the local filesystem"),
    "create": Entry("run", "Create a new container"),
    "diff": Entry("changes", "Inspect changes to files or directories on a container's filesystem"),
    "doctor": Entry("doctor", "Check what this machine can do, and how to get what is missing"),
    "exec": Entry("streams", "Run a command in a running container"),
    "export": Entry("changes", "Export a container's filesystem as a tar archive"),
    "grade": Entry("grade", "Grade notebooks of a course, each in a sandbox"),
    "history": Entry("images", "Show the history of an image"),
    "images": Entry("images", "List images"),
    "import": Entry("archives", "Import the contents from a tarball to create a filesystem image"),
    "info": Entry("system", "Display system-wide information"),
    "inspect": Entry("inspecting", "Return low-level information on containers, images and volumes"),
    "kill": Entry("containers", "Kill one or more running containers"),
    "load": Entry("archives", "Load an image from a tar archive or STDIN"),
    "login": Entry("registry", "Log in to a registry"),
    "logout": Entry("registry", "Log out from a registry"),
    "logs": Entry("streams", "Fetch the logs of a container"),
    "port": Entry("containers", "List port mappings or a specific mapping for the container"),
    "ps": Entry("listing", "List containers"),
    "pull": Entry("registry", "Pull an image from a registry"),
    "push": Entry("registry", "Push an image to a registry"),
    "rename": Entry("containers", "Rename a container"),
    "restart": Entry("containers", "Restart one or more containers"),
    "rm": Entry("containers", "Remove one or more containers"),
    "rmi": Entry("images", "Remove one or more images"),
    "run": Entry("run", "Run a command in a new container"),
    "save": Entry("archives", "Save one or more images to a tar archive (streamed to STDOUT by default)"),
    "search": Entry("registry", "Say where images can be searched for"),
    "start": Entry("streams", "Start one or more stopped containers"),
    "stop": Entry("containers", "Stop one or more running containers"),
    "tag": Entry("images", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
    "top": Entry("containers", "Display the running processes of a container"),
    "unshare": Entry("unshare", "Run a program in the user namespace of an ordinary user's containers"),
    "version": Entry("system", "Show the version information"),
    "wait": Entry("containers", "Block until one or more containers stop, then print their exit codes"),
    "container prune": Entry("prune", "Remove all stopped containers"),
    "image prune": Entry("prune", "Remove unused images"),
    "system prune": Entry("prune", "Remove unused data"),
    "system df": Entry("system", "Show disk usage"),
    "course check": Entry("course", "Judge an exercise"),
    "course collect": Entry("classroom", "Put what learners have handed in into one folder"),
    "course gradescope": Entry("classroom", "Make the autograder of a section for Gradescope"),
    "course hand-out": Entry("classroom", "Make a folder for learners, without solutions and hidden tests"),
    "course hint": Entry("course", "Show one more hint for an exercise"),
    "course list": Entry("course", "List the exercises, and what is done of them"),
    "course next": Entry("course", "Show the task of the next exercise"),
    "course progress": Entry("course", "Show how far each section is"),
    "course report": Entry("classroom", "Make pages and exports of the marks of a class"),
    "course reset": Entry("course", "Make an exercise as it was before you wrote something"),
    "course solution": Entry("course", "Show the solution of an exercise"),
    "course watch": Entry("course", "Judge an exercise whenever its notebook is saved"),
    "registry serve": Entry("registry", "Serve images to docker, podman, skopeo and other machines"),
    "volume create": Entry("volumes", "Create a volume"),
    "volume inspect": Entry("volumes", "Display detailed information on one or more volumes"),
    "volume ls": Entry("volumes", "List volumes"),
    "volume prune": Entry("volumes", "Remove all unused local volumes"),
    "volume rm": Entry("volumes", "Remove one or more volumes"),
}

GROUPS = {
    "container": "Manage containers",
    "course": "Do the exercises of the course, and teach it",
    "image": "Manage images",
    "registry": "Serve an image registry",
    "system": "Manage minidocker",
    "volume": "Manage volumes",
}

_CONTAINER = "attach commit cp create diff exec export kill logs port rename restart rm run start stop top wait"
# The longer ways to say a command.
ALIASES = {
    **{f"container {name}": name for name in _CONTAINER.split()},
    **{f"container {name}": "ps" for name in ("ls", "list", "ps")},
    **{f"image {name}": name for name in "build history import load pull push save tag".split()},
    **{f"image {name}": "images" for name in ("ls", "list")},
    **{f"image {name}": "rmi" for name in ("rm", "remove")},
    "container inspect": "inspect",
    "image inspect": "inspect",
    "system info": "info",
    "volume list": "volume ls",
    "volume remove": "volume rm",
}

# What docker has and minidocker has not, with what to do instead.
ABSENT = {
    "compose": "start each container with 'minidocker run'",
    "context": "minidocker works on this machine only",
    "events": "see 'minidocker ps -a'",
    "network": "a container's network is chosen with 'minidocker run --network bridge|none|host'",
    "pause": "stop the container with 'minidocker stop'",
    "stats": "see 'minidocker top CONTAINER'",
    "unpause": "start the container with 'minidocker start'",
    "update": "create the container anew with other options",
}


def members(group: str) -> dict[str, str]:
    """Return the commands of a group, each with what it does."""
    prefix = f"{group} "
    found = {path: path for path in COMMANDS if path.startswith(prefix)}
    for path, command in ALIASES.items():
        if path.startswith(prefix) and not path.endswith((" list", " remove", " ps")):
            found[path] = command
    return {path.removeprefix(prefix): COMMANDS[found[path]].summary for path in sorted(found)}
