"""The three parts in which data is used: calibration, selection and test.

Calibration looks at no label, so its part may share images with the selection part. It shares none
with the test part unless the user asked for that.

A share is drawn so that each label and group is found in every part at that share. Each stratum (a
label within a group) is rounded by largest remainder, so no count is off by a whole image. What
rounding takes from a part is carried along, first within the group and then over all, so that many
small strata do not add up to one large error.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from repairkit.core import attacked, errors, marked, suite
from repairkit.core.process.text import clean, did_you_mean, listing
from repairkit.data.dataset import Dataset

PART_NAMES = ("calibration", "selection", "test")
TEST_SHARE = 0.3
NO_IMAGES = "none"
_ROUNDING = 1e-9


@dataclass(frozen=True)
class PartPlan:
    """Which images each part gets: `all`, a value of the split column, or a share in (0, 1].

    The test part may also be `none`. Shares are of the images that no named part holds. Text like
    `"0.3"` is a share, unless the split column has that value. A part left open (None) takes the
    split of its own name, where there is one. Otherwise the test part is a share of `TEST_SHARE`,
    the selection part what other shares leave, and the calibration part all images but the test
    part.
    """

    calibration: str | float | None = None
    selection: str | float | None = None
    test: str | float | None = None


@dataclass(frozen=True)
class Choice:
    """The images of a part: a share, a value of the split column, none, or all.

    With `all_but_test` it takes all images but those of the test part.
    """

    share: float | None = None
    split: str | None = None
    none: bool = False
    all_but_test: bool = False

    @property
    def drawn(self) -> bool:
        """Whether its images are drawn at random."""
        return self.share is not None and self.share < 1

    def __str__(self) -> str:
        if self.none:
            return "none"
        if self.all_but_test:
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
    asked = [choice for name, choice in choices.items() if given[name] is not None and choice]
    if splits and missing and all(choice.none for choice in asked):
        none = ", or --test none" if "test" in missing else ""
        raise errors.SettingsError(
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
    all_but_test = Choice(all_but_test=True)
    chosen = {name: choice or all_but_test for name, choice in choices.items()}
    total = _total(chosen)
    if total > 1 + _ROUNDING:
        raise errors.SettingsError(
            f"the shares of the parts add up to {total:g}; give at most 1 in all, or all for a "
            "part that may overlap the others"
        )
    return chosen


def _total(choices: Mapping[str, Choice | None]) -> float:
    return math.fsum(choice.share or 0.0 for choice in choices.values() if choice is not None)


def _choice(name: str, wish: str | float | None, splits: list[str]) -> Choice | None:
    """What a part was asked to hold; None where it was left open and no split has its name."""
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
        words = "all, none" if name == "test" else "all"
        expected = (
            f"{words}, a share like 0.4, or a split ({listing(splits)})"
            if splits
            else f"{words} or a share like 0.4, and no split, for the data has no split column"
        )
        raise errors.SettingsError(
            f"--{name} is {wish!r}; expected {expected}{did_you_mean(str(wish), splits)}"
        ) from None
    if not 0 < share <= 1:
        instead = ", or none for no test part" if name == "test" else ""
        raise errors.SettingsError(
            f"--{name} is {wish!r}; expected a share above 0 and at most 1{instead}"
        )
    return Choice(share=share)


_COUNTED = 12


@dataclass(frozen=True)
class Parts:
    """The parts, the pairs of them that share images, and one sentence on how they were chosen.

    A calibration part that was left open holds the selection images by design: that pair is not
    among `overlaps`. `means` says in words which images such a part holds; it is empty where the
    calibration part was named. The test part is empty where none was wanted. `digest` is the
    SHA-256, in hexadecimal, of the positions of all images by part. `n_unused` images are in no
    part. `left_open` are the parts that were not asked for and have no split of their name.
    `notes` are about images that a split column leaves out, and classes that a part lacks.
    """

    calibration: suite.Suite
    selection: suite.Suite
    test: suite.Suite
    overlaps: tuple[tuple[str, str], ...]
    summary: str
    means: str = ""
    digest: str = ""
    n_unused: int = 0
    left_open: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def split_parts(dataset: Dataset, plan: PartPlan, *, seed: int) -> Parts:
    """The parts of a data set; one seed gives one answer, and rows ascend within a part.

    Shares are disjoint and drawn by label and group.

    Raises:
        SettingsError: the plan names no split, or shares more than there is.
        DataError: a part would be empty, or without an image of some group.
    """
    if seed < 0:
        raise errors.SettingsError(f"seed is {seed}; expected a whole number, 0 or more")
    splits = [] if dataset.split is None else sorted(set(dataset.split.tolist()) - {""})
    choices = choose_parts(plan, splits)
    rows = _rows(dataset, choices, seed)
    for name, chosen in rows.items():
        _check_part(dataset, name, choices[name], chosen)
    by_design = {("calibration", "selection")} if choices["calibration"].all_but_test else set()
    overlaps = tuple(
        pair
        for pair in combinations(PART_NAMES, 2)
        if pair not in by_design and np.isin(rows[pair[0]], rows[pair[1]]).any()
    )
    whole = suite.Suite.whole("all", dataset.images, dataset.annotations, dataset.further)
    suites = {name: whole.take(chosen, name) for name, chosen in rows.items()}
    unused = ~np.isin(whole.indices, np.concatenate(list(rows.values())))
    means = _means_in_words(dataset, rows) if by_design else ""
    return Parts(
        **suites,
        overlaps=overlaps,
        summary=_sentence(dataset, choices, means, overlaps, seed),
        means=means,
        digest=_digest(rows),
        n_unused=int(unused.sum()),
        left_open=tuple(
            name for name in rows if getattr(plan, name) is None and choices[name].split is None
        ),
        notes=(*_unused_notes(dataset, unused), *_lacking_notes(dataset, rows)),
    )


def _digest(rows: Mapping[str, suite.Indices]) -> str:
    digest = hashlib.sha256()
    for name in PART_NAMES:
        digest.update(f"\n{name}\n".encode())
        digest.update(rows[name].astype("<i8").tobytes())
    return digest.hexdigest()


def _unused_notes(dataset: Dataset, unused: NDArray[np.bool_]) -> Iterator[str]:
    if dataset.split is None or not unused.any():
        return
    names, counts = np.unique(dataset.split[unused], return_counts=True)
    counted = zip(names.tolist(), counts.tolist(), strict=True)
    splits = listing([f"{name!r} ({n})" if name else f"none ({n})" for name, n in counted])
    yield f"{unused.sum()} of {len(unused)} images are in no part, because their split is {splits}"


def _lacking_notes(dataset: Dataset, rows: Mapping[str, suite.Indices]) -> Iterator[str]:
    """Classes of the data that the selection or test part lacks; means need no class."""
    labels = dataset.annotations.labels
    if not dataset.labelled or labels.dtype.kind not in "iu":
        return
    present = np.unique(labels)
    for name in ("selection", "test"):
        lacking = np.setdiff1d(present, labels[rows[name]])
        if len(rows[name]) and len(lacking):
            classes = listing([repr(dataset.annotations.class_name(n)) for n in lacking.tolist()])
            yield (
                f"the {name} part holds no image of {len(lacking)} of the {len(present)} classes "
                f"of the data: {classes}"
            )


def _rows(dataset: Dataset, choices: Mapping[str, Choice], seed: int) -> dict[str, suite.Indices]:
    annotations = dataset.annotations
    rows = {name: np.arange(len(annotations)) for name in PART_NAMES}
    free = np.ones(len(annotations), dtype=bool)
    for name, choice in choices.items():
        if choice.split is not None:
            chosen = dataset.split == choice.split
            rows[name] = np.flatnonzero(chosen)
            free &= ~chosen
        elif choice.none:
            rows[name] = rows[name][:0]
    pool = annotations.take(np.flatnonzero(free))
    shares = {name: choice.share for name, choice in choices.items() if choice.share is not None}
    rng = np.random.default_rng(seed)
    leading, place = attacked.leaders(pool)
    first = pool.take(leading)
    drawn = draw_shares(first.labels, cells_of(first), list(shares.values()), rng)[place]
    for position, name in enumerate(shares):
        rows[name] = np.flatnonzero(free)[drawn == position]
    if choices["calibration"].all_but_test:
        test = rows["test"]
        if choices["test"].none and dataset.split is not None:  # kept for a later test
            test = np.flatnonzero(dataset.split == "test")
        rows["calibration"] = _all_but_test(annotations, test)
    return rows


def _all_but_test(annotations: suite.Annotations, test: suite.Indices) -> suite.Indices:
    """All images that are not test; of those that were attacked or spoiled the clean ones alone.

    What was made from images must not affect what filters yield on calibration images. Where every
    clean image is test, all clean images are taken.
    """
    clean = ~attacked.made(annotations)
    clean |= not clean.any()
    chosen = clean.copy()
    chosen[test] = False
    return np.flatnonzero(chosen if chosen.any() else clean)


def _means_in_words(dataset: Dataset, rows: Mapping[str, suite.Indices]) -> str:
    """Which images a calibration part that was left open holds, in words."""
    about, n_images = dataset.annotations, len(rows["calibration"])
    n_clean = int((~attacked.made(about)).sum())
    kind = "clean images" if n_clean < len(about) else "images"
    return (
        f"all {n_clean:,} {kind}"
        if n_images == n_clean
        else f"the {n_images:,} {kind} that are not test"
    )


def _check_part(dataset: Dataset, name: str, choice: Choice, rows: suite.Indices) -> None:
    if choice.none:
        return
    about = dataset.annotations
    without = ", or use --test none" if name == "test" else ""
    if not len(rows):
        raise errors.DataError(
            f"the {name} part, {choice}, would hold no image of {len(about)}; "
            f"change --{name}{without}, or give more images"
        )
    if about.groups is None or choice.all_but_test:
        return
    n_groups = len(about.group_names)
    lacking = np.flatnonzero(np.bincount(about.groups[rows], minlength=n_groups) == 0)
    if len(lacking):
        in_all = np.bincount(about.groups, minlength=n_groups)
        groups = [repr(about.group_names[g]) for g in lacking]
        counts = ", ".join(f"{in_all[g]:,}" for g in lacking[:_COUNTED])
        one = len(groups) == 1
        which = groups[0] if one else f"{len(groups)} groups: {listing(groups)}"
        whose = "the group, which has" if one else "these, which have"
        raise errors.DataError(
            f"the {name} part, {choice}, holds no image of {'group ' if one else ''}{which}; "
            f"change --{name}{without}, or give more images of {whose} {counts} in all"
        )


def _sentence(
    dataset: Dataset,
    choices: Mapping[str, Choice],
    means: str,
    overlaps: tuple[tuple[str, str], ...],
    seed: int,
) -> str:
    named = any(choice.split is not None for choice in choices.values())
    contents = {name: str(choice) for name, choice in choices.items()}
    for name, choice in choices.items():
        if named and choice.share is not None and not choice.drawn:
            contents[name] = "all images in no named split"
    contents |= {"calibration": means} if means else {}
    sentence = ", ".join(f"{name}: {what}" for name, what in contents.items())
    if any(choice.drawn for choice in choices.values()):
        by = "label" if dataset.annotations.groups is None else "label and group"
        by += " and mark" if marked.is_marked(dataset.annotations) else ""
        rest = " of the images in no named split" if named else ""
        sentence += f"; shares{rest} drawn by {by} with seed {seed}"
    if overlaps:
        sentence += f"; overlapping: {', '.join(' and '.join(pair) for pair in overlaps)}"
    return sentence + "."


_MAX_BINS = 10
_IMAGES_PER_BIN = 10
_TINY = 1e-9
_SPLIT = 1  # a stream of the seed
_THIN = 9  # another

CONFIRMATION_SHARE = 1 / 3
"""The share of the selection images that confirm, where some do."""

Quotas = NDArray[np.float64]


def draw_shares(
    labels: suite.Array,
    groups: NDArray[np.int64] | None,
    shares: Sequence[float],
    rng: np.random.Generator,
) -> NDArray[np.intp]:
    """The drawn share of each image, (n_images,): its position in `shares`; beyond them, unused.

    `shares` add up to at most 1. Float labels are stratified by quantiles.
    """
    bins = label_bins(labels)
    group_of = np.zeros(len(bins), dtype=np.int64) if groups is None else groups
    quotas = np.array([*shares, max(0.0, 1.0 - sum(shares))])
    drawn = np.empty(len(bins), dtype=np.intp)
    owed = np.zeros_like(quotas)
    for group in np.unique(group_of):
        members = np.flatnonzero(group_of == group)
        owed_in_group = np.zeros_like(quotas)
        for stratum in _shuffled_strata(members, bins[members], rng):
            counts = round_counts(len(stratum), quotas, owed + owed_in_group)
            owed_in_group += len(stratum) * quotas - counts
            drawn[stratum] = np.repeat(np.arange(len(quotas)), counts)
        owed += owed_in_group
    return drawn


def label_bins(labels: suite.Array) -> NDArray[np.int64]:
    """The stratum of each label, (n_images,): the label itself, or for targets their quantile."""
    if labels.dtype.kind != "f":
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)
    n_bins = min(_MAX_BINS, max(1, len(labels) // _IMAGES_PER_BIN))
    inner = np.arange(1, n_bins) / n_bins
    edges: suite.Array = np.quantile(labels, inner) if len(labels) else inner
    return np.searchsorted(edges, labels, side="right").astype(np.int64)


def round_counts(size: int, quotas: Quotas, owed: Quotas) -> NDArray[np.intp]:
    """Whole counts that add up to `size`, each less than 1 from `size * quotas`.

    The last quota is what stays unused. Parts that would get no image come first, where there are
    enough images for all; then the largest remainder, counting what a part is `owed`.
    """
    exact = size * quotas
    counts = np.floor(exact + _TINY).astype(np.intp)
    remainders = exact - counts
    without = (counts == 0) & (size >= len(quotas) - 1)
    without[-1] = False
    order = np.lexsort((-(remainders + owed), ~without, remainders <= _TINY))
    counts[order[: size - counts.sum()]] += 1
    return counts


def _shuffled_strata(
    members: NDArray[np.intp], bins: NDArray[np.int64], rng: np.random.Generator
) -> list[NDArray[np.intp]]:
    order = rng.permutation(len(members))
    order = order[np.argsort(bins[order], kind="stable")]
    starts = np.flatnonzero(np.diff(bins[order])) + 1
    strata = np.split(members[order], starts)
    # Otherwise strata of one image each would fall into the same parts for every seed.
    return [strata[index] for index in rng.permutation(len(strata))]


def thin(images: suite.Suite, most: int, seed: int) -> suite.Suite:
    """All images, or `most` of them drawn evenly over labels and groups."""
    if len(images) <= most:
        return images
    about = images.annotations
    rng = np.random.default_rng([seed, _THIN])
    drawn = draw_shares(about.labels, about.groups, [most / len(images)], rng)
    return images.take(np.flatnonzero(drawn == 0))


def cells_of(about: suite.Annotations) -> NDArray[np.int64] | None:
    """The group of each image and whether it is to be fixed, as one number; None without either."""
    if not marked.is_marked(about):
        return about.groups
    marks = marked.marks_of(about)
    if about.groups is None:
        return marks
    return np.asarray(marks * (about.groups.max(initial=0) + 1) + about.groups)


def strata_of(about: suite.Annotations) -> NDArray[np.int64]:
    """The stratum of each image, (n_images,): its cell, its class, whether it was made."""
    cells = cells_of(about)
    groups = np.zeros(len(about), np.int64) if cells is None else cells
    labels = label_bins(about.labels)
    # Groups first: folds filled in this order hold their share of each group as a whole.
    return np.asarray((groups * (labels.max() + 1) + labels) * 2 + attacked.made(about), np.int64)


@dataclass(frozen=True)
class Halves:
    """The selection images that choose, those that confirm, and their positions in the part."""

    choosing: suite.Suite
    confirmation: suite.Suite
    positions: tuple[suite.Indices, suite.Indices]


def split_selection(selection: suite.Suite, share: float, seed: int) -> Halves:
    """Share out the selection images by label and group, with the seed of the job.

    Args:
        selection: the selection images.
        share: of them, those that confirm.
        seed: of the job.

    Raises:
        TargetNotMetError: a group has too few images to choose on some and confirm on others.
    """
    about = selection.annotations
    rng = np.random.default_rng([seed, _SPLIT])
    drawn = attacked.with_twins(
        about, draw_shares(about.labels, cells_of(about), [1 - share, share], rng)
    )
    choosing, confirming = (np.flatnonzero(drawn == half) for half in (0, 1))
    groups = np.zeros(len(selection), np.int64) if about.groups is None else about.groups
    for half in (choosing, confirming):
        missing = set(groups.tolist()) - set(groups[half].tolist())
        if missing:
            of_group = (
                "" if about.groups is None else f" of group {about.group_names[min(missing)]!r}"
            )
            raise errors.TargetNotMetError(
                f"no repair: too few of the {len(selection)} selection images{of_group} to choose "
                "on some and confirm on others; give more of them; nothing was written"
            )
    return Halves(
        choosing=selection.take(choosing, "choosing"),
        confirmation=selection.take(confirming, "confirmation"),
        positions=(choosing, confirming),
    )
