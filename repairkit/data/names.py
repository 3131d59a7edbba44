"""Errors about names: what was found, what is known, and which one was probably meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from repairkit.core.errors import SettingsError

_LISTED = 12


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
    """Refuse a key that nobody would read.

    Raises:
        SettingsError: a key is unknown; the message lists the known ones.
    """
    for key in keys:
        if key not in known:
            raise SettingsError(
                f"{where}: unknown key {str(key)!r}{did_you_mean(str(key), known)} "
                f"(known keys: {', '.join(known)})"
            )
