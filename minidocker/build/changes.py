"""`commit -c` and `import -c`: a configuration changed by single instructions."""

from collections.abc import Iterable

from minidocker.build.dockerfile import parse_instruction
from minidocker.build.draft import Arguments, Draft
from minidocker.build.expander import Expander
from minidocker.errors import DockerfileError
from minidocker.image.oci import ImageConfig

_ALLOWED = ("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME")


def apply_changes(config: ImageConfig, changes: Iterable[str]) -> ImageConfig:
    """Return the configuration as these instructions change it, such as `CMD ["sh"]` and `ENV a=1`.

    Raises DockerfileError for what is no instruction, or one that does more than to change the configuration.
    """
    draft: Draft | None = None
    for text in changes:
        instruction = parse_instruction(text)
        keyword = instruction.line.keyword
        if keyword not in (*_ALLOWED, "WORKDIR"):
            raise DockerfileError(f"{keyword} is not a valid change command: it must be one of {', '.join(_ALLOWED)}")
        draft = draft or Draft(config.config, config.author, Arguments({}, {}))
        instruction.expanded(Expander(draft.variables(), "\\")).configure(draft)
    return config if draft is None else ImageConfig({**config.raw, "config": draft.config})
