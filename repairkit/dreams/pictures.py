"""How numbers become a picture: waves of low frequency, decorrelated colours, a fixed contrast.

A picture is `middle + half_range * tanh(background + contrast * wave / rms(wave))`. The wave is a
sum of 2-D Fourier functions, each scaled by its frequency to the power of `-falloff`, along colour
axes that natural images use independently of each other (Olah, Mordvintsev & Schubert, "Feature
visualization", Distill 2017, the section on preconditioning).

Every wave is brought to one root mean square. So dreams are compared at equal contrast, and the
best wave of a linear filter is the filter's own kernel, not a picture of extremes alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CONTRAST = 0.6
"""The root mean square of a wave before the squash; about that of photographs, of a range of 2."""
_MOST_OFF_MIDDLE = 0.8
_LEAST_SHARE = 0.2
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Palette:
    """The colours of pictures, in a pixel range of -1 to 1.

    Attributes:
        background: of a picture without a wave, (n_colours,).
        axes: (n_colours, n_colours); column j is what number j adds to the colours. Their lengths
            are the spreads along uncorrelated axes, the longest 1.
    """

    background: Floats
    axes: Floats

    @property
    def lengths(self) -> Floats:
        """Of the axes, (n_colours,)."""
        lengths: Floats = np.linalg.norm(self.axes, axis=0)
        return lengths

    @property
    def before_squash(self) -> Floats:
        """What gives the background when it is squashed; not at the ends, where nothing changes."""
        middle = np.clip(self.background, -_MOST_OFF_MIDDLE, _MOST_OFF_MIDDLE)
        before: Floats = np.arctanh(middle)
        return before

    @property
    def blank(self) -> Floats:
        """The colour of a picture without a wave, (n_colours,)."""
        return _tanh(self.before_squash)


def plain_palette(n_colours: int) -> Palette:
    """Brightness first, then differences of colours with half its spread; the middle behind.

    The axes are the cosines of length `n_colours`; of three colours these are, but for signs, the
    axes that Ohta, Kanade & Sakai found for photographs ("Color information for region
    segmentation", 1980).
    """
    places = (np.arange(n_colours)[:, None] + 0.5) * np.arange(n_colours)
    axes = np.cos(np.pi * places / n_colours)
    axes /= np.linalg.norm(axes, axis=0)
    axes[:, 1:] *= 0.5
    return Palette(np.zeros(n_colours), axes)


def measured_palette(pixels: Floats) -> Palette:
    """The mean and the principal axes of pixels, (n_pixels, n_colours) in -1 to 1.

    No axis is shorter than a fifth of the longest: a filter may look at a rare colour.
    """
    mean = pixels.mean(axis=0)
    spread, axes = np.linalg.eigh(np.atleast_2d(np.cov(pixels, rowvar=False)))
    lengths = np.sqrt(np.maximum(spread[::-1], 0.0))
    if lengths[0] < _TINY:
        return Palette(np.clip(mean, -1, 1), plain_palette(pixels.shape[1]).axes)
    shares = np.maximum(lengths / lengths[0], _LEAST_SHARE)
    return Palette(np.clip(mean, -1, 1), axes[:, ::-1] * shares)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of one size, each from `size` numbers; arrays are (n, height, width, n_colours).

    Attributes:
        rows: orthonormal waves along the height, (height, n).
        columns: along the width, (width, n).
        palette: the colours.
        places: the numbers' places in (rows, columns, colours), flat, (size,).
        scales: of each number's wave, (size,).
    """

    rows: Floats
    columns: Floats
    palette: Palette
    places: NDArray[np.intp]
    scales: Floats

    @property
    def size(self) -> int:
        """Numbers that make a picture."""
        return len(self.places)

    @property
    def weights(self) -> Floats:
        """The size of the wave of each number at 1, (size,); these waves are orthogonal."""
        lengths = self.palette.lengths
        weights: Floats = self.scales * lengths[self.places % len(lengths)]
        return weights

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and colours of a picture."""
        return len(self.rows), len(self.columns), len(self.palette.background)

    def waves(self, numbers: Floats) -> Floats:
        """The waves that numbers, (n, size), stand for; linear."""
        grid = np.zeros((len(numbers), self.rows.shape[1], self.columns.shape[1], self.shape[2]))
        grid.reshape(len(numbers), -1)[:, self.places] = numbers * self.scales
        mixed = grid @ self.palette.axes.T
        tall = np.tensordot(self.rows, mixed, axes=(1, 1))  # (height, n, columns, colours)
        whole = np.tensordot(tall, self.columns, axes=(2, 1))  # (height, n, colours, width)
        return np.ascontiguousarray(whole.transpose(1, 0, 3, 2))

    def numbers(self, waves: Floats) -> Floats:
        """The adjoint of `waves`, whose product with numbers is that of `waves` with waves."""
        narrow = np.tensordot(waves, self.rows, axes=(1, 0))  # (n, width, colours, rows)
        grid = np.tensordot(narrow, self.columns, axes=(1, 0))  # (n, colours, rows, columns)
        mixed = grid.transpose(0, 2, 3, 1) @ self.palette.axes
        return mixed.reshape(len(waves), -1)[:, self.places] * self.scales

    def developed(self, waves: Floats) -> Floats:
        """Pictures in -1 to 1 from waves, at the one contrast."""
        return _tanh(self.palette.before_squash + CONTRAST * waves / _rms(waves))

    def undeveloped(self, waves: Floats, gradients: Floats) -> Floats:
        """Gradients with respect to waves, from those with respect to `developed(waves)`."""
        rms = _rms(waves)
        slopes = gradients * (1 - self.developed(waves) ** 2) * CONTRAST / rms
        along = (slopes * waves).mean(axis=(1, 2, 3), keepdims=True) / rms**2
        inner: Floats = slopes - along * waves
        return inner


def _rms(waves: Floats) -> Floats:
    rms: Floats = np.sqrt((waves**2).mean(axis=(1, 2, 3), keepdims=True)) + _TINY
    return rms


def _tanh(numbers: Floats) -> Floats:
    squashed: Floats = np.tanh(numbers)
    return squashed


def low_pictures(
    height: int, width: int, palette: Palette, *, most: int, falloff: float = 1.0
) -> Pictures:
    """Pictures of the lowest frequencies.

    Args:
        height: of a picture.
        width: of a picture.
        palette: its colours.
        most: numbers of a picture. A shorter colour axis gets fewer, since photographs vary more
            slowly in colour than in brightness.
        falloff: the exponent of the frequency by which waves are scaled down.
    """
    rows, row_waves = _fourier(height)
    columns, column_waves = _fourier(width)
    cycles = np.hypot(row_waves[:, None], column_waves)[..., None]
    lengths = palette.lengths
    order = np.argsort((cycles / lengths).reshape(-1), kind="stable")
    places = np.sort(order[:most])
    scales = np.maximum(np.broadcast_to(cycles, (*cycles.shape[:2], len(lengths))), 1.0) ** -falloff
    used_rows, used_columns, _ = np.unravel_index(places, scales.shape)
    tall, wide = int(used_rows.max()) + 1, int(used_columns.max()) + 1
    grid = np.unravel_index(places, scales.shape)
    return Pictures(
        rows=rows[:, :tall],
        columns=columns[:, :wide],
        palette=palette,
        places=np.ravel_multi_index(grid, (tall, wide, len(lengths))),
        scales=scales.reshape(-1)[places] * math.sqrt(height * width),
    )


def _fourier(n: int) -> tuple[Floats, Floats]:
    """Orthonormal sines and cosines over `n` places, (n, n), and the cycles of each, (n,)."""
    places, cycles = np.arange(n), (np.arange(n) + 1) // 2
    angles = 2 * np.pi * places[:, None] * cycles / n
    waves = np.where(np.arange(n) % 2 == 1, np.cos(angles), np.sin(angles))
    waves[:, 0] = 1.0
    waves /= np.linalg.norm(waves, axis=0)
    return waves, cycles.astype(np.float64)
