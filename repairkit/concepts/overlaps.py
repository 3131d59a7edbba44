"""How far the places where units are active and the places where concepts are seen coincide.

The statistic is that of Network Dissection (Bau, Zhou, Khosla, Oliva & Torralba, CVPR 2017, section
2.2): a unit is active where its response, drawn bilinearly to the size of the mask, lies above the
level that half a per cent of all its positions exceed; its score for a concept is the intersection
over union of active places and mask, summed over images before dividing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.concepts.concept_set import ConceptMasks

Maps = NDArray[np.floating]
"""Responses of units to one image, (n_units, height, width)."""


class TopValues:
    """The level that a share of all values of each unit exceeds, exactly, in one pass.

    With N values of a unit in all, at most floor(share x N) of them lie above its level; it is the
    quantile `numpy.quantile(values, 1 - share, method="inverted_cdf")`.

    Args:
        n_units: rows of the values.
        n_values: N, known before the first value comes.
        share: of the values that are to lie above the level.
    """

    def __init__(self, n_units: int, n_values: int, share: float) -> None:
        self._kept = int(share * n_values + 1e-9) + 1
        self._top = np.full((n_units, self._kept), -np.inf, np.float32)

    def add(self, values: NDArray[np.floating]) -> None:
        """More values, (n_units, any number)."""
        both = np.concatenate([self._top, values.astype(np.float32, copy=False)], axis=1)
        self._top = np.partition(both, -self._kept, axis=1)[:, -self._kept :]

    def levels(self) -> NDArray[np.float32]:
        """The level of each unit, (n_units,), once all values are in."""
        return np.asarray(self._top.min(axis=1))


def to_grid(maps: Maps, grid: tuple[int, int]) -> NDArray[np.float32]:
    """Maps drawn bilinearly to another size, with the centres of cells kept in place."""
    height, width = maps.shape[1:]
    if (height, width) == grid:
        return maps.astype(np.float32, copy=False)
    rows, columns = _weights(height, grid[0]), _weights(width, grid[1])
    return np.asarray(rows @ maps.astype(np.float32, copy=False) @ columns.T)


def _weights(n_from: int, n_to: int) -> NDArray[np.float32]:
    """What each of `n_from` cells gives to each of `n_to`, (n_to, n_from)."""
    places = np.clip((np.arange(n_to) + 0.5) * n_from / n_to - 0.5, 0, n_from - 1)
    below = np.floor(places).astype(np.intp)
    above = np.minimum(below + 1, n_from - 1)
    weights = np.zeros((n_to, n_from), np.float32)
    rows = np.arange(n_to)
    np.add.at(weights, (rows, below), 1 - (places - below))
    np.add.at(weights, (rows, above), places - below)
    return weights


@dataclass(frozen=True, eq=False)
class Counts:
    """Cells of some images: what units and concepts share, and what each has.

    Attributes:
        shared: (n_units, n_concepts), cells that are active and in the mask.
        active: (n_units,), cells that are active.
        masked: (n_concepts,), cells in the mask.
    """

    shared: NDArray[np.int64]
    active: NDArray[np.int64]
    masked: NDArray[np.int64]

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union, (n_units, n_concepts); 0 where both are empty."""
        union = self.active[:, None] + self.masked[None] - self.shared
        return np.asarray(self.shared / np.maximum(union, 1))


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Of each unit and the one concept that was chosen for it, image by image.

    Attributes:
        shared: (n_units, n_images), cells that are active and in the mask.
        union: (n_units, n_images), cells that are one or both.
        by_chance: (n_units,), cells shared on average where masks are those of other images.
    """

    shared: NDArray[np.int32]
    union: NDArray[np.int32]
    by_chance: NDArray[np.float64]

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each pair, (n_units,)."""
        return np.asarray(self.shared.sum(axis=1) / np.maximum(self.union.sum(axis=1), 1))

    def chance(self) -> NDArray[np.float64]:
        """What the same maps reach beside masks of images drawn anew, (n_units,)."""
        both = self.union.sum(axis=1) + self.shared.sum(axis=1)
        return np.asarray(self.by_chance / np.maximum(both - self.by_chance, 1))


class Overlaps:
    """Gathers counts of some images, one image after the other.

    Args:
        masks: of all images.
        levels: of the units, (n_units,): a unit is active above its level.
        chosen: (n_units,), the concept of each unit whose counts are kept image by image, or None.
        n_images: how many images come.
    """

    def __init__(
        self,
        masks: ConceptMasks,
        levels: NDArray[np.floating],
        n_images: int,
        chosen: NDArray[np.intp] | None = None,
    ) -> None:
        n_units, n_concepts = len(levels), len(masks.concepts)
        n_cells = masks.grid[0] * masks.grid[1]
        self._masks, self._levels, self._chosen = masks, levels.astype(np.float32), chosen
        self._shared = np.zeros((n_units, n_concepts), np.int64)
        self._active = np.zeros(n_units, np.int64)
        self._masked = np.zeros(n_concepts, np.int64)
        self._n_seen = 0
        if chosen is not None:
            self._pairs = np.zeros((2, n_units, n_images), np.int32)
            self._cells = np.zeros((n_units, n_cells), np.int32)
            self._mask_cells = np.zeros((n_concepts, n_cells), np.int32)

    def add(self, image: int, maps: Maps) -> None:
        """The maps of one image, by its position among the masks."""
        grid = self._masks.grid
        flat = to_grid(maps, grid).reshape(len(maps), -1)
        active = flat > self._levels[:, None]
        known = self._masks.images[image]
        cells = known.cells
        sizes = active.sum(axis=1)
        shared = np.zeros((len(maps), len(self._masked)), np.int64)
        for concept, mask in zip(known.concepts.tolist(), cells, strict=True):
            shared[:, concept] += active[:, mask].sum(axis=1)
        masked = np.zeros(len(self._masked), np.int64)
        np.add.at(masked, known.concepts, cells.sum(axis=1))
        self._shared += shared
        self._active += sizes
        self._masked += masked
        if self._chosen is not None:
            units = np.arange(len(maps))
            both = shared[units, self._chosen]
            self._pairs[0, :, self._n_seen] = both
            self._pairs[1, :, self._n_seen] = sizes + masked[self._chosen] - both
            self._cells += active
            np.add.at(self._mask_cells, known.concepts, cells.astype(np.int32))
        self._n_seen += 1

    def counts(self) -> Counts:
        """Over all images so far."""
        return Counts(self._shared, self._active, self._masked)

    def pairs(self) -> PairCounts:
        """Of the chosen concepts."""
        assert self._chosen is not None
        n = max(self._n_seen, 1)
        both = (self._cells.astype(np.float64) * self._mask_cells[self._chosen]).sum(axis=1) / n
        return PairCounts(self._pairs[0, :, :n], self._pairs[1, :, :n], both)


def resampled_iou(
    pairs: PairCounts,
    shown: NDArray[np.bool_],
    *,
    n_draws: int,
    seed: int,
    level: float = 0.95,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ends of a percentile interval over images, for the IoU of each pair, (n_units,) each.

    Images are drawn with replacement (Efron 1979), those that show the concept of the pair and
    those that do not apart, so that every draw has as many of either.

    Args:
        pairs: the counts.
        shown: (n_units, n_images), whether an image shows the concept of the unit.
        n_draws: how often images are drawn.
        seed: of the draws.
        level: of the interval.
    """
    n_units, n_images = pairs.shared.shape
    ends = np.zeros((2, n_units))
    tail = (1 - level) / 2
    _, first, kinds = np.unique(shown, axis=0, return_index=True, return_inverse=True)
    for kind, example in enumerate(first.tolist()):
        rng = np.random.default_rng((seed, 0xB0))
        times = np.zeros((n_draws, n_images), np.float32)
        for side in (True, False):
            members = np.flatnonzero(shown[example] == side)
            if len(members):
                even = np.full(len(members), 1 / len(members))
                times[:, members] = rng.multinomial(len(members), even, n_draws)
        units = np.flatnonzero(kinds.reshape(-1) == kind)
        shared, union = (
            times @ counts[units].T.astype(np.float32) for counts in (pairs.shared, pairs.union)
        )
        ends[:, units] = np.quantile(shared / np.maximum(union, 1), [tail, 1 - tail], axis=0)
    return ends[0], ends[1]
