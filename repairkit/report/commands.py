"""Commands that a page shows, so that a shell takes them as they stand on the page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

_NOTHING = {"scale": 1.0}


def shell(*words: str) -> str:
    """A line for bash, of characters that show. A `~/` at the start of a word stays the home."""
    return " ".join(_word(word) for word in ("repairkit", *words))


def _word(word: str) -> str:
    if not word.isprintable():
        return f"$'{''.join(_escaped(character) for character in word)}'"
    if word.startswith("~/"):
        return f"~/{shlex.quote(word[2:])}"
    return shlex.quote(word)


def _escaped(character: str) -> str:
    if character in "'\\":
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 128 else f"\\U{code:08x}"


def command_again(again: Mapping[str, Any] | None, out: str) -> str:
    """The command that does a job again; empty where the document does not say how."""
    return "" if not again else shell(again["command"], *again["words"], "-o", out)


def reading_words(preprocessing: Mapping[str, Any] | None) -> list[str]:
    """`--scale=0.5` and so on for what differs from the defaults.

    Args:
        preprocessing: by name, as `run.json` has it; documents of other versions may have none.
    """
    words = []
    for name, value in (preprocessing or {}).items():
        if value in (None, [], ()) or value == _NOTHING.get(name):
            continue
        told = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        words.append(f"--{name}={told}")
    return words
