"""Settings that a file gave and no option did, so that a message about them names the file.

Messages name options: `--test is 1.5`. Where the user typed no such option, the command line says
instead which line of which file the value comes from.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class FileSetting:
    """A setting as a file has it.

    Attributes:
        key: in the file, such as `test`.
        option: that says the same on the command line, such as `--test`.
        text: the value as the file writes it.
        values: texts by which a message may show the value.
        file: its path.
    """

    key: str
    option: str
    text: str
    values: tuple[str, ...]
    file: str

    def said_in(self, message: str) -> bool:
        """Whether a message names the option, opens with the key, or shows the value in quotes."""
        option = re.search(rf"(?<!\S){re.escape(self.option)}(?![\w-])", message)
        return (
            bool(option)
            or message.startswith(f"{self.key} ")
            or any(repr(value) in message for value in self.values)
        )


_GIVEN: ContextVar[list[FileSetting] | None] = ContextVar("file settings", default=None)


@contextmanager
def gathering() -> Iterator[list[FileSetting]]:
    """Gather what files give in the block."""
    given: list[FileSetting] = []
    token = _GIVEN.set(given)
    try:
        yield given
    finally:
        _GIVEN.reset(token)


def give(settings: Sequence[FileSetting]) -> None:
    """Tell whoever gathers that these settings come from a file, instead of what was told before.

    Nothing happens where nobody gathers.
    """
    gathered = _GIVEN.get()
    if gathered is not None:
        gathered[:] = settings


def with_origins(message: str, given: Sequence[FileSetting]) -> str:
    """The message, which says of each setting in it that a file gave it.

    `--test is 1.5; ...` becomes `test = 1.5 in repairkit.toml: test is 1.5; ...`.
    """
    said = [each for each in given if each.said_in(message)]
    if not said or any(each.file in message for each in said):
        return message
    for each in said:
        message = re.sub(rf"(?<!\S){re.escape(each.option)}(?![\w-])", each.key, message)
    lines = ", ".join(f"{each.key} = {each.text}" for each in said)
    return f"{lines} in {said[0].file}: {message}"
