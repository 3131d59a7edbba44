"""Text in messages and from files: compared by its look, made safe to print, names listed."""

import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from repairkit.core.errors import SettingsError

_LISTED = 12
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
# A cell that starts so is taken for a formula by spreadsheets.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")

# Marks without width say nothing at the ends; within a word some of them shape letters.
_WIDTHLESS = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_NOWHERE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))


def decoded(content: bytes) -> str:
    """UTF-8 text, with or without a byte-order mark.

    Raises:
        ValueError: it is no UTF-8; the message names UTF-16 or UTF-32 where a mark tells.
    """
    if content.startswith(_OTHER_MARKS):
        raise ValueError("it is UTF-16 or UTF-32 text; save it as UTF-8")
    return content.decode("utf-8-sig")


def printable(text: str) -> str:
    """The text with every character that does not print written as a Python escape.

    That covers control characters, which terminals obey, marks that turn the direction of writing,
    and surrogates, which no encoding takes. Line ends stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 256:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def plain_cell(text: str) -> str:
    """A name as a cell of a table that no spreadsheet takes for a formula; see `from_cell`."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def from_cell(cell: str) -> str:
    """The name that `plain_cell` wrote."""
    return cell.removeprefix("'")


def counted(n: int, noun: str) -> str:
    """The number and the noun, which gets its plural's s where the number is not one."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, so that ours stays one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def clean(text: str) -> str:
    """The text as it is compared and shown: composed letters, plain spaces, nothing around it."""
    if text.isascii():
        return text.strip()
    composed = unicodedata.normalize("NFC", text).translate(_NOWHERE)
    spaced = "".join(" " if mark.isspace() else mark for mark in composed)
    return spaced.strip(f" {_WIDTHLESS}")


def listing(names: Sequence[str]) -> str:
    """The names joined by commas; a long list is cut short."""
    cut = len(names) - _LISTED
    more = f", ... ({cut} more)" if cut > 0 else ""
    return ", ".join(names[:_LISTED]) + more


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`; did you mean 'crop'?` where a known name is close, else nothing."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_keys(keys: Iterable[object], known: Sequence[str], where: str) -> None:
    """Refuse a key that nothing reads.

    Raises:
        SettingsError: a key is unknown; the message lists the known ones.
    """
    for key in keys:
        if key not in known:
            raise SettingsError(
                f"{where}: unknown key {str(key)!r}{did_you_mean(str(key), known)} "
                f"(known keys: {', '.join(known)})"
            )
