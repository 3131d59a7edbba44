"""Small moves of a picture: jitter, scale and rotation, as one linear map with its exact adjoint.

A dream that still excites after a small move shows what the filter sees, and no pattern that works
at one place alone (Olah, Mordvintsev & Schubert, "Feature visualization", Distill 2017, the section
on transformation robustness).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.dreams.pictures import Floats


@dataclass(frozen=True)
class MoveSizes:
    """The most that a picture is moved.

    Attributes:
        jitter: a shift, as a share of the picture's sides.
        scale: a change of size, as a share.
        rotation: in degrees.
    """

    jitter: float = 1 / 16
    scale: float = 0.05
    rotation: float = 5.0


@dataclass(frozen=True, eq=False)
class SmallMove:
    """A picture's pixels as weighted sums of four pixels of another; 0 comes in from outside.

    Attributes:
        places: of the four pixels, flat, (4, height * width).
        weights: their weights, (4, height * width).
    """

    places: NDArray[np.intp]
    weights: Floats

    def moved(self, waves: Floats) -> Floats:
        """The moved waves, (n, height, width, n_colours)."""
        flat = waves.reshape(len(waves), -1, waves.shape[-1])
        taken = sum(
            weight[:, None] * flat[:, place]
            for place, weight in zip(self.places, self.weights, strict=True)
        )
        return np.asarray(taken).reshape(waves.shape)

    def moved_back(self, waves: Floats) -> Floats:
        """The adjoint of `moved`: each pixel's share goes back to where it came from."""
        flat = waves.reshape(len(waves), -1, waves.shape[-1]).transpose(1, 0, 2)
        result = np.zeros_like(flat)
        for place, weight in zip(self.places, self.weights, strict=True):
            np.add.at(result, place, weight[:, None, None] * flat)
        return np.ascontiguousarray(result.transpose(1, 0, 2)).reshape(waves.shape)


def random_move(height: int, width: int, sizes: MoveSizes, rng: np.random.Generator) -> SmallMove:
    """A move within these sizes, about the middle, by bilinear interpolation."""
    down, right, grow, turn = rng.uniform(-1, 1, 4)
    angle, factor = np.deg2rad(sizes.rotation * turn), 1 + sizes.scale * grow
    rows, columns = np.mgrid[:height, :width].reshape(2, -1)
    middle = np.array([[(height - 1) / 2], [(width - 1) / 2]])
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / factor
    shift = sizes.jitter * np.array([[down * height], [right * width]])
    source = turned @ (np.stack([rows, columns]) - middle) + middle + shift
    first = np.floor(source).astype(np.intp)
    share = source - first
    places, weights = [], []
    for row in (0, 1):
        for column in (0, 1):
            at_row, at_column = first[0] + row, first[1] + column
            inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
            along_rows = share[0] if row else 1 - share[0]
            along_columns = share[1] if column else 1 - share[1]
            weights.append(inside * along_rows * along_columns)
            places.append(np.where(inside, at_row * width + at_column, 0))
    return SmallMove(np.stack(places), np.stack(weights))
