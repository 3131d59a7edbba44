"""The three parts in which data is used: calibration, selection and test."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.suite import Suite
from repairkit.core.text import clean
from repairkit.data.dataset import Dataset
from repairkit.data.names import did_you_mean, listing
from repairkit.data.strata import draw_shares

PART_NAMES = ("calibration", "selection", "test")
DEFAULT_SHARES = {"calibration": 0.2, "selection": 0.4, "test": 0.4}

_Rows = NDArray[np.intp]


@dataclass(frozen=True)
class PartPlan:
    """Which images each part gets: `all`, a value of the split column, or a share in (0, 1].

    Shares are of the images that no named part holds. Text like `"0.3"` is a share, unless the
    split column has that value. A part left open (None) takes the split that bears its name where
    there is a split column, else the share of `DEFAULT_SHARES`.
    """

    calibration: str | float | None = None
    selection: str | float | None = None
    test: str | float | None = None


@dataclass(frozen=True)
class Parts:
    """The parts, the pairs of them that share images, and one sentence on how they came about.

    `n_unused` images are in no part; `notes` say so where a split column left them out.
    """

    calibration: Suite
    selection: Suite
    test: Suite
    overlaps: tuple[tuple[str, str], ...]
    how: str
    n_unused: int = 0
    notes: tuple[str, ...] = ()


def split_parts(dataset: Dataset, plan: PartPlan, *, seed: int) -> Parts:
    """The parts of a data set; one seed gives one answer, and rows ascend within a part.

    Shares are disjoint and drawn by label and group.

    Raises:
        SettingsError: the plan names no split, or shares more than there is.
        DataError: a part would be empty, or without an image of some group.
    """
    if seed < 0:
        raise SettingsError(f"seed is {seed}; expected a whole number, 0 or more")
    choices = _choices(dataset, plan)
    rows = _rows(dataset, choices, seed)
    for name, chosen in rows.items():
        _check_part(dataset, name, choices[name], chosen)
    overlaps = tuple(
        (first, second)
        for first, second in combinations(PART_NAMES, 2)
        if np.intersect1d(rows[first], rows[second], assume_unique=True).size
    )
    suites = {
        name: Suite(name, dataset.images, dataset.annotations.take(chosen), chosen, dataset.further)
        for name, chosen in rows.items()
    }
    unused = np.ones(len(dataset.annotations), bool)
    for chosen in rows.values():
        unused[chosen] = False
    return Parts(
        **suites,
        overlaps=overlaps,
        how=_sentence(dataset, choices, overlaps, seed),
        n_unused=int(unused.sum()),
        notes=tuple(_unused_notes(dataset, unused)),
    )


def _unused_notes(dataset: Dataset, unused: NDArray[np.bool_]) -> Iterator[str]:
    if dataset.split is None or not unused.any():
        return
    names, counts = np.unique(dataset.split[unused], return_counts=True)
    counted = zip(names.tolist(), counts.tolist(), strict=True)
    told = listing([f"{name!r} ({n})" if name else f"none ({n})" for name, n in counted])
    yield f"{unused.sum()} of {len(unused)} images are in no part, for their split is {told}"


@dataclass(frozen=True)
class _Choice:
    """A part's share, or the value of its split; of neither, all images."""

    share: float | None = None
    split: str | None = None

    def __str__(self) -> str:
        if self.share is not None:
            return f"a share of {self.share:g}"
        return "all images" if self.split is None else f"split {self.split!r}"


def _choices(dataset: Dataset, plan: PartPlan) -> Mapping[str, _Choice]:
    splits = [] if dataset.split is None else sorted(set(dataset.split.tolist()) - {""})
    given = {name: getattr(plan, name) for name in PART_NAMES}
    untouched = [name for name in PART_NAMES if given[name] is None]
    wishes = {name: DEFAULT_SHARES[name] if w is None else w for name, w in given.items()}
    if splits:
        wishes |= {name: name for name in untouched if name in splits}
        missing = [name for name in PART_NAMES if name not in splits]
        if len(untouched) == len(PART_NAMES) and missing:
            raise SettingsError(
                f"the split column has no {' and no '.join(missing)}; it has {listing(splits)}; "
                f"say which part is which with --{', --'.join(missing)} all|NAME|SHARE"
            )
    choices = {name: _choice(name, wish, splits) for name, wish in wishes.items()}
    total = math.fsum(choice.share or 0.0 for choice in choices.values())
    if total > 1 + 1e-9:
        raise SettingsError(
            f"the shares of the parts add up to {total:g}; give at most 1 in all, or all for a "
            "part that may overlap the others"
        )
    return choices


def _choice(name: str, wish: str | float, splits: list[str]) -> _Choice:
    if isinstance(wish, str):
        if clean(wish).lower() in splits:
            return _Choice(split=clean(wish).lower())
        if wish.strip().lower() == "all":
            return _Choice()
    try:
        share = float("nan") if isinstance(wish, bool) else float(wish)
    except ValueError:
        found = f"a split ({listing(splits)})" if splits else "the data has no split column"
        raise SettingsError(
            f"--{name} is {wish!r}; expected all, a share like 0.4, or "
            f"{found}{did_you_mean(str(wish), splits)}"
        ) from None
    if not 0 < share <= 1:
        raise SettingsError(f"--{name} is {wish!r}; expected a share above 0 and at most 1")
    return _Choice(share=share)


def _rows(dataset: Dataset, choices: Mapping[str, _Choice], seed: int) -> dict[str, _Rows]:
    annotations = dataset.annotations
    rows = {name: np.arange(len(annotations)) for name in PART_NAMES}
    free = np.ones(len(annotations), dtype=bool)
    for name, choice in choices.items():
        if choice.split is not None:
            chosen = dataset.split == choice.split
            rows[name] = np.flatnonzero(chosen)
            free &= ~chosen
    pool = annotations.take(np.flatnonzero(free))
    shares = {name: choice.share for name, choice in choices.items() if choice.share is not None}
    rng = np.random.default_rng(seed)
    drawn = draw_shares(pool.labels, pool.groups, list(shares.values()), rng)
    for position, name in enumerate(shares):
        rows[name] = np.flatnonzero(free)[drawn == position]
    return rows


def _check_part(dataset: Dataset, name: str, choice: _Choice, rows: _Rows) -> None:
    if not len(rows):
        raise DataError(
            f"the {name} part, {choice}, would hold no image of {len(dataset.annotations)}; "
            f"change --{name} or give more images"
        )
    if dataset.annotations.groups is None:
        return
    counts = np.bincount(
        dataset.annotations.groups[rows], minlength=len(dataset.annotations.group_names)
    )
    if not counts.all():
        group = dataset.annotations.group_names[int(counts.argmin())]
        raise DataError(
            f"the {name} part, {choice}, holds no image of group {group!r}; change --{name}, "
            "or give more images of the group"
        )


def _sentence(
    dataset: Dataset,
    choices: Mapping[str, _Choice],
    overlaps: tuple[tuple[str, str], ...],
    seed: int,
) -> str:
    sentence = ", ".join(f"{name}: {choice}" for name, choice in choices.items())
    if any(choice.share is not None for choice in choices.values()):
        by = "label" if dataset.annotations.groups is None else "label and group"
        rest = " of the images in no named split" if any(c.split for c in choices.values()) else ""
        sentence += f"; shares{rest} drawn by {by} with seed {seed}"
    if overlaps:
        sentence += f"; overlapping: {', '.join(' and '.join(pair) for pair in overlaps)}"
    return sentence + "."
