"""What an instruction replaces its variables with."""

from collections.abc import Mapping
from typing import NamedTuple

from minidocker.build import variables


class Expander(NamedTuple):
    """The variables as they were before the instruction, and the file's escape character."""

    variables: Mapping[str, str]
    escape: str

    def word(self, text: str) -> str:
        """Replace variables, remove quotes."""
        return variables.expand(text, self.variables, self.escape)

    def words(self, text: str) -> list[str]:
        """Replace variables, remove quotes, split at spaces."""
        return variables.expand_words(text, self.variables, self.escape)

    def document(self, text: str) -> str:
        """Replace variables in a here-document, where quotes are only text."""
        return variables.expand(text, self.variables, self.escape, variables.HERE_DOCUMENT)
