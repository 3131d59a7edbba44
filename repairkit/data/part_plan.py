"""Which images each part is to get: what was asked for, and the defaults for what was not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from repairkit.core.errors import SettingsError
from repairkit.core.process.text import clean
from repairkit.data.names import did_you_mean, listing

PART_NAMES = ("calibration", "selection", "test")
TEST_SHARE = 0.3
NO_IMAGES = "none"
_ROUNDING = 1e-9


@dataclass(frozen=True)
class PartPlan:
    """Which images each part gets: `all`, a value of the split column, or a share in (0, 1].

    The test part may also be `none`. Shares are of the images that no named part holds. Text like
    `"0.3"` is a share, unless the split column has that value. A part left open (None) takes the
    split that bears its name, where there is one. Else the test part is a share of `TEST_SHARE`,
    the selection part what other shares leave, and the calibration part all images that are not
    test.
    """

    calibration: str | float | None = None
    selection: str | float | None = None
    test: str | float | None = None


@dataclass(frozen=True)
class Choice:
    """The images of a part: a share, a value of the split column, none, or all.

    `beside_test` says that all images are meant but those of the test part.
    """

    share: float | None = None
    split: str | None = None
    none: bool = False
    beside_test: bool = False

    @property
    def drawn(self) -> bool:
        """Whether it takes a part of the images by lot."""
        return self.share is not None and self.share < 1

    def __str__(self) -> str:
        if self.none:
            return "none"
        if self.beside_test:
            return "all images that are not test"
        if self.split is not None:
            return f"split {self.split!r}"
        return f"a share of {self.share:g}" if self.drawn else "all images"


def choose_parts(plan: PartPlan, splits: list[str]) -> dict[str, Choice]:
    """What each part is to hold, by its name.

    Args:
        plan: what was asked for.
        splits: the values of the split column; empty where there is none.

    Raises:
        SettingsError: the plan names no split, or shares more than there is.
    """
    given = {name: getattr(plan, name) for name in PART_NAMES}
    choices = {name: _choice(name, wish, splits) for name, wish in given.items()}
    missing = [name for name in ("selection", "test") if choices[name] is None]
    told = [choice for name, choice in choices.items() if given[name] is not None and choice]
    if splits and missing and all(choice.none for choice in told):
        none = ", or --test none" if "test" in missing else ""
        raise SettingsError(
            f"the split column has no {' and no '.join(missing)}; it has {listing(splits)}; "
            f"say which part is which with --{', --'.join(missing)} all|NAME|SHARE{none}"
        )
    left = max(0.0, 1 - _total(choices))
    if choices["test"] is None:
        choices["test"] = Choice(min(TEST_SHARE, left) if left > _ROUNDING else TEST_SHARE)
        left = max(0.0, 1 - _total(choices))
    if choices["selection"] is None:
        rest = left if left > _ROUNDING else 1 - TEST_SHARE
        choices["selection"] = Choice(1.0 if rest > 1 - _ROUNDING else rest)
    beside_test = Choice(beside_test=True)
    found = {name: choice or beside_test for name, choice in choices.items()}
    total = _total(found)
    if total > 1 + _ROUNDING:
        raise SettingsError(
            f"the shares of the parts add up to {total:g}; give at most 1 in all, or all for a "
            "part that may overlap the others"
        )
    return found


def _total(choices: Mapping[str, Choice | None]) -> float:
    return math.fsum(choice.share or 0.0 for choice in choices.values() if choice is not None)


def _choice(name: str, wish: str | float | None, splits: list[str]) -> Choice | None:
    """What a part was asked to hold; None where it was left open and no split bears its name."""
    if wish is None:
        return Choice(split=name) if name in splits else None
    if isinstance(wish, str):
        word = clean(wish).lower()
        if word in splits:
            return Choice(split=word)
        if word == "all":
            return Choice()
        if word == NO_IMAGES and name == "test":
            return Choice(none=True)
    try:
        share = float("nan") if isinstance(wish, bool) else float(wish)
    except ValueError:
        words = "all, none, a share" if name == "test" else "all, a share"
        found = f"a split ({listing(splits)})" if splits else "the data has no split column"
        raise SettingsError(
            f"--{name} is {wish!r}; expected {words} like 0.4, or "
            f"{found}{did_you_mean(str(wish), splits)}"
        ) from None
    if not 0 < share <= 1:
        instead = ", or none for no test part" if name == "test" else ""
        raise SettingsError(
            f"--{name} is {wish!r}; expected a share above 0 and at most 1{instead}"
        )
    return Choice(share=share)
