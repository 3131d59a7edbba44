"""Settings are checked once, where they enter."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches

from repairkit.core.errors import SettingsError
from repairkit.core.game import GameFacts


def check_whole(name: str, value: int, *, least: int) -> None:
    """Refuse what is not a whole number of at least `least`.

    Raises:
        SettingsError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingsError(f"{name} is {value!r}; give a whole number of at least {least}")


def check_real(name: str, value: float, *, least: float, below: float = math.inf) -> None:
    """Refuse what is not a number in [least, below).

    Raises:
        SettingsError: it is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not least <= value < below:
        limit = "" if below == math.inf else f" and below {below:g}"
        raise SettingsError(f"{name} is {value!r}; give a finite number from {least:g}{limit}")


def check_positive(name: str, value: float, *, below: float = math.inf) -> None:
    """Refuse what is not a number in (0, below).

    Raises:
        SettingsError: it is not.
    """
    check_real(name, value, least=0.0, below=below)
    if value == 0:
        raise SettingsError(f"{name} is {value!r}; give a number greater than 0")


def check_bounded(facts: GameFacts, method: str, value_range: float | None) -> None:
    """Refuse metrics whose range is not known, for methods whose intervals follow from it.

    Args:
        facts: of the game.
        method: for the message.
        value_range: of one marginal of the first metric, where it was given.

    Raises:
        SettingsError: there is one.
    """
    for number, (name, width) in enumerate(zip(facts.metrics, facts.score_widths, strict=True)):
        if not math.isfinite(width) and not (number == 0 and value_range is not None):
            raise SettingsError(
                f"{method} bounds values by the range of metric {name}, which is not known; set "
                f"{name.partition(':')[2] or name}.score_range = (low, high) beside the function, "
                "or use --method regression"
            )


def unknown(kind: str, name: str, known: Iterable[str], more: str = "") -> SettingsError:
    """The error for a name that is not known: what is, and what was probably meant."""
    names = list(known)
    close = get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return SettingsError(f"unknown {kind} {name!r}{hint} choose one of {', '.join(names)}{more}")
