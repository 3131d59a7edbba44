"""What concepts are: names with numbers, and where in each image they are seen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Region = tuple[int, NDArray[np.bool_]]
"""The position of a concept in the set's list, and its mask, (height, width)."""


@dataclass(frozen=True)
class Concept:
    """Something that a unit may detect; `number` is its value in index masks, 1 or more."""

    number: int
    name: str
    category: str


@dataclass(frozen=True, eq=False)
class ImageMasks:
    """The regions of one image on the grid: `concepts` (k,), and `packed` bits of (k, cells)."""

    concepts: NDArray[np.intp]
    packed: NDArray[np.uint8]
    n_cells: int

    @classmethod
    def of(cls, regions: Sequence[Region], n_cells: int) -> ImageMasks:
        """Masks on the grid, each (grid height, grid width); those without a cell are left out."""
        kept = [(concept, mask) for concept, mask in regions if mask.any()]
        numbers = np.array([concept for concept, _ in kept], np.intp)
        flat = np.zeros((len(kept), n_cells), bool)
        for row, (_, mask) in zip(flat, kept, strict=True):
            row[:] = mask.reshape(-1)
        return cls(numbers, np.packbits(flat, axis=1), n_cells)

    @property
    def cells(self) -> NDArray[np.bool_]:
        """(k, n_cells), true where the concept is seen."""
        return np.unpackbits(self.packed, axis=1, count=self.n_cells).astype(bool)


@dataclass(frozen=True, kw_only=True, eq=False)
class ConceptMasks:
    """The masks of all images of a concept set, on one grid.

    Attributes:
        concepts: in the order of their positions.
        grid: height and width in cells.
        images: the masks of each image.
    """

    concepts: tuple[Concept, ...]
    grid: tuple[int, int]
    images: tuple[ImageMasks, ...]

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """In how many images each concept is seen, (n_concepts,)."""
        return np.asarray(self.shown.sum(axis=0))

    @cached_property
    def shown(self) -> NDArray[np.bool_]:
        """Whether each image shows each concept, (n_images, n_concepts)."""
        shown = np.zeros((len(self.images), len(self.concepts)), bool)
        for row, image in zip(shown, self.images, strict=True):
            row[image.concepts] = True
        return shown

    @property
    def shares(self) -> NDArray[np.float64]:
        """The share of all cells that each concept covers, (n_concepts,)."""
        cells = np.zeros(len(self.concepts))
        for image in self.images:
            np.add.at(cells, image.concepts, image.cells.sum(axis=1))
        return cells / max(1, len(self.images) * self.grid[0] * self.grid[1])

    @property
    def digest(self) -> str:
        """SHA-256 over concepts, grid and masks, in hexadecimal."""
        digest = hashlib.sha256(repr((self.concepts, self.grid)).encode())
        for image in self.images:
            digest.update(image.concepts.astype("<i8").tobytes() + b"/" + image.packed.tobytes())
        return digest.hexdigest()


def halves(masks: ConceptMasks, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Images in two parts: those that choose and those that are held out.

    Each concept is shared evenly: an image belongs to the rarest concept that it shows, and the
    images of each concept are dealt out in turn, in an order drawn from `seed`.
    """
    rng = np.random.default_rng(seed)
    homes = [_home(image, masks.counts) for image in masks.images]
    drawn = rng.permutation(len(homes))
    order = sorted(drawn.tolist(), key=lambda position: homes[position])
    first = rng.integers(2)
    chosen = order[first::2]
    held_out = order[1 - first :: 2]
    return np.sort(np.array(chosen, np.intp)), np.sort(np.array(held_out, np.intp))


def _home(image: ImageMasks, counts: NDArray[np.int64]) -> int:
    if not len(image.concepts):
        return -1
    return int(min(image.concepts.tolist(), key=lambda concept: (counts[concept], concept)))
