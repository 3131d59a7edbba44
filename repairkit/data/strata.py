"""Draws parts so that each label and group is found in every part at its share.

Each stratum (a label within a group) is rounded by largest remainder, so no count is off by a whole
image. What rounding owes to a part is carried along, first within the group and then over all, so
that many small strata do not add up to one large error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from repairkit.core import attacked, errors
from repairkit.core.suite import Annotations, Array, Indices, Suite

_MAX_BINS = 10
_IMAGES_PER_BIN = 10
_TINY = 1e-9
_SPLIT = 1  # a stream of the seed

CONFIRMATION_SHARE = 1 / 3
"""Of the selection images, where a part of them confirms."""

Counts = NDArray[np.intp]
Quotas = NDArray[np.float64]


def draw_shares(
    labels: Array,
    groups: NDArray[np.int64] | None,
    shares: Sequence[float],
    rng: Generator,
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


def label_bins(labels: Array) -> NDArray[np.int64]:
    """The stratum of each label, (n_images,): the label itself, or for targets their quantile."""
    if labels.dtype.kind != "f":
        return np.unique(labels, return_inverse=True)[1].astype(np.int64)
    n_bins = min(_MAX_BINS, max(1, len(labels) // _IMAGES_PER_BIN))
    inner = np.arange(1, n_bins) / n_bins
    edges: Array = np.quantile(labels, inner) if len(labels) else inner
    return np.searchsorted(edges, labels, side="right").astype(np.int64)


def round_counts(size: int, quotas: Quotas, owed: Quotas) -> Counts:
    """Whole counts that add up to `size`, each less than 1 from `size * quotas`.

    The last quota is what stays unused. Parts that would go without any image come first, where
    there are enough images for all; then the largest remainder, counting what a part is `owed`.
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
    members: NDArray[np.intp], bins: NDArray[np.int64], rng: Generator
) -> list[NDArray[np.intp]]:
    order = rng.permutation(len(members))
    order = order[np.argsort(bins[order], kind="stable")]
    starts = np.flatnonzero(np.diff(bins[order])) + 1
    strata = np.split(members[order], starts)
    # Strata of one image each would else fall into the same parts for every seed.
    return [strata[index] for index in rng.permutation(len(strata))]


def strata_of(about: Annotations) -> NDArray[np.int64]:
    """What folds hold their shares of: group, class and whether an attack made it, (n_images,)."""
    groups = np.zeros(len(about), np.int64) if about.groups is None else about.groups
    made = (
        attacked.adversarial(about) if attacked.is_attacked(about) else np.zeros(len(about), bool)
    )
    labels = label_bins(about.labels)
    # Groups first: folds dealt out in this order hold their share of each group as a whole.
    return np.asarray((groups * (labels.max() + 1) + labels) * 2 + made, np.int64)


@dataclass(frozen=True)
class Halves:
    """The selection images that choose, those that confirm, and their positions in the part."""

    choosing: Suite
    confirmation: Suite
    positions: tuple[Indices, Indices]


def split_selection(suite: Suite, share: float, seed: int) -> Halves:
    """Share out the selection images by label and group, with the seed of the job.

    Args:
        suite: the selection images.
        share: of them, those that confirm.
        seed: of the job.

    Raises:
        TargetNotMetError: a group has too few images to choose on some and confirm on others.
    """
    about = suite.annotations
    rng = np.random.default_rng([seed, _SPLIT])
    drawn = attacked.with_twins(
        about, draw_shares(about.labels, about.groups, [1 - share, share], rng)
    )
    halves = [np.flatnonzero(drawn == half) for half in (0, 1)]
    groups = np.zeros(len(suite), np.int64) if about.groups is None else about.groups
    for half in halves:
        missing = set(groups.tolist()) - set(groups[half].tolist())
        if missing:
            of_group = (
                "" if about.groups is None else f" of group {about.group_names[min(missing)]!r}"
            )
            raise errors.TargetNotMetError(
                f"no repair: too few of the {len(suite)} selection images{of_group} to choose on "
                "some and confirm on others; give more of them; nothing was written"
            )
    first, second = halves
    return Halves(
        suite.take(first, "choosing"), suite.take(second, "confirmation"), (first, second)
    )
