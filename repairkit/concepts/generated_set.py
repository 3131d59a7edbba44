"""Drawn images, each with one region that shows one concept, on a cluttered ground.

Colours, orientations, frequencies, textures and shapes. Every concept covers about half a per cent
of all pixels, as much as a unit's most active half per cent of positions: a unit that is active in
just these places could reach an intersection over union near 1. The ground holds clouds of all
colours and grain, so that a unit without a preference finds its strongest places there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.concepts.concept_set import Concept

Plane = NDArray[np.float64]

BLOCKS = 24
"""Images of each concept, unless another number is asked for."""
_AREA = 0.125  # of an image that its region covers, on average
_CLOUDS, _COLOURED_CLOUDS, _GRAIN = 40.0, 35.0, 8.0  # standard deviations, of 255
_SIDE = 32  # of the images for which the periods below are

_COLOURS = {
    "red": (220, 30, 30), "orange": (240, 140, 20), "yellow": (235, 225, 40),
    "green": (40, 180, 50), "cyan": (40, 210, 215), "blue": (40, 60, 220),
    "purple": (150, 40, 190), "pink": (245, 150, 190), "brown": (115, 70, 30),
    "black": (15, 15, 15), "white": (245, 245, 245),
}  # fmt: skip
_GREYS = ("black", "white")
_ORIENTATIONS = {"vertical": 0.0, "rising": 45.0, "horizontal": 90.0, "falling": 135.0}
_MIDDLE_PERIOD = 4.5
_PERIODS = {"low frequency": 8.5, "high frequency": 2.4}


@dataclass(frozen=True, eq=False)
class DrawnSet:
    """Drawn images: `pixels` (n, height, width, channels), and the one region of each.

    `shown` (n,) is the position of the concept of each image, and `masks` (n, height, width) says
    where it is.
    """

    concepts: tuple[Concept, ...]
    pixels: NDArray[np.uint8]
    shown: NDArray[np.intp]
    masks: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Canvas:
    """An image being drawn: positions in pixels and within the region, and a unit of length."""

    rng: np.random.Generator
    rows: Plane
    columns: Plane
    across: Plane  # -1 to 1 within the region
    down: Plane
    unit: float

    @property
    def box(self) -> NDArray[np.bool_]:
        return (np.abs(self.down) <= 1) & (np.abs(self.across) <= 1)

    @property
    def oval(self) -> NDArray[np.bool_]:
        return self.down**2 + self.across**2 <= 4 / np.pi

    def grating(self, degrees: float, period: float) -> Plane:
        """Waves from -1 to 1 whose bars stand at `degrees` from upright."""
        angle = np.deg2rad(degrees + self.rng.uniform(-6, 6))
        length = period * self.unit * self.rng.uniform(0.9, 1.1)
        along = self.columns * np.cos(angle) + self.rows * np.sin(angle)
        waves: Plane = np.sin(2 * np.pi * along / length + self.rng.uniform(0, 2 * np.pi))
        return waves


def concepts_drawn(channels: int) -> tuple[Concept, ...]:
    """The concepts for images of one channel or of three; grey ones have no colours but two."""
    colours = _GREYS if channels == 1 else tuple(_COLOURS)
    named = [
        *((name, "colour") for name in colours),
        *((name, "orientation") for name in _ORIENTATIONS),
        *((name, "frequency") for name in _PERIODS),
        *((name, "texture") for name in _TEXTURES),
        *((name, "shape") for name in _SHAPES),
    ]
    return tuple(Concept(n, name, category) for n, (name, category) in enumerate(named, start=1))


def draw_concepts(size: tuple[int, int], channels: int, *, blocks: int, seed: int) -> DrawnSet:
    """Draw `blocks` images of every concept.

    Args:
        size: height and width of the images, 8 pixels or more.
        channels: 1 or 3.
        blocks: images of each concept.
        seed: the same seed gives the same pixels.
    """
    concepts = concepts_drawn(channels)
    rng = np.random.default_rng((seed, 0xC0))
    n_images = blocks * len(concepts)
    pixels = np.empty((n_images, *size, channels), np.uint8)
    masks = np.empty((n_images, *size), bool)
    shown = np.tile(np.arange(len(concepts)), blocks)
    for position, concept in enumerate(shown.tolist()):
        image, masks[position] = _draw(concepts[concept], size, rng)
        grey = image if channels == 3 else image @ np.array([[0.299], [0.587], [0.114]])
        pixels[position] = np.clip(np.rint(grey), 0, 255)
    return DrawnSet(concepts, pixels, shown, masks)


def _draw(
    concept: Concept, size: tuple[int, int], rng: np.random.Generator
) -> tuple[Plane, NDArray[np.bool_]]:
    ground = rng.uniform(80, 176)
    image = ground + _CLOUDS * clouds(rng, size, 1) + _COLOURED_CLOUDS * clouds(rng, size, 3)
    canvas = _place_region(size, rng)
    mask = canvas.box if rng.random() < 0.5 else canvas.oval
    if concept.category == "colour":
        image[mask] = np.array(_COLOURS[concept.name]) + rng.uniform(-12, 12, 3)
    elif concept.category == "shape":
        mask = _SHAPES[concept.name](canvas)
        image[mask] = ground + rng.choice([-1, 1]) * rng.uniform(50, 75)
    else:
        waves = _WAVES[concept.category](concept.name, canvas)
        image[mask] = (ground + rng.uniform(70, 100) * waves)[mask][:, None]
    return image + _GRAIN * rng.standard_normal(image.shape), mask


def _place_region(size: tuple[int, int], rng: np.random.Generator) -> _Canvas:
    height, width = size
    area = _AREA * height * width * rng.uniform(0.8, 1.2)
    aspect = np.exp(rng.uniform(-0.3, 0.3))
    tall, wide = min(np.sqrt(area * aspect), height - 1), min(np.sqrt(area / aspect), width - 1)
    rows, columns = np.mgrid[:height, :width].astype(np.float64) + 0.5
    row, column = rng.uniform(tall / 2, height - tall / 2), rng.uniform(wide / 2, width - wide / 2)
    return _Canvas(
        rng=rng,
        rows=rows,
        columns=columns,
        across=(columns - column) / (wide / 2),
        down=(rows - row) / (tall / 2),
        unit=float(np.sqrt(min(size) / _SIDE)),
    )


def clouds(
    rng: np.random.Generator, size: tuple[int, int], channels: int, power: float = 1.0
) -> Plane:
    """Noise whose amplitude falls as frequency to the `power`, as in photographs.

    Shape (height, width, channels), with mean 0 and standard deviation 1 in each channel (Field
    1987, "Relations between the statistics of natural images and the response properties of
    cortical cells").
    """
    frequencies = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None])
    frequencies[0, 0] = np.inf
    noise = np.fft.fft2(rng.standard_normal((channels, *size)))
    planes = np.fft.ifft2(noise * frequencies**-power).real
    planes /= planes.std(axis=(1, 2), keepdims=True)
    return np.asarray(np.moveaxis(planes, 0, 2))


def _checkered(canvas: _Canvas) -> Plane:
    period = canvas.unit * canvas.rng.uniform(4, 5)
    shift = canvas.rng.uniform(0, 2 * np.pi, 2)
    waves = (2 * np.pi * axis / period for axis in (canvas.rows, canvas.columns))
    signs = [np.sign(np.sin(wave + start)) for wave, start in zip(waves, shift, strict=True)]
    return 0.8 * np.asarray(signs[0] * signs[1])


def _dotted(canvas: _Canvas) -> Plane:
    period = canvas.unit * canvas.rng.uniform(5, 6)
    peaks = np.sin(np.pi * canvas.rows / period) ** 2 * np.sin(np.pi * canvas.columns / period) ** 2
    return np.asarray(canvas.rng.choice([-0.8, 0.8]) * np.where(peaks > 0.45, 1.0, -0.4))


def _noisy(canvas: _Canvas) -> Plane:
    return 0.6 * canvas.rng.standard_normal(canvas.rows.shape)


def _blotched(canvas: _Canvas) -> Plane:
    height, width = canvas.rows.shape
    return 0.8 * np.sign(clouds(canvas.rng, (height, width), 1, 0.7)[..., 0])


_TEXTURES: dict[str, Callable[[_Canvas], Plane]] = {
    "checkered": _checkered,
    "dotted": _dotted,
    "noisy": _noisy,
    "blotched": _blotched,
}


def _periodic(name: str, canvas: _Canvas) -> Plane:
    between = 22.5 + 45.0 * canvas.rng.integers(4)  # between the named orientations
    return canvas.grating(between, _PERIODS[name])


_WAVES: dict[str, Callable[[str, _Canvas], Plane]] = {
    "orientation": lambda name, canvas: canvas.grating(_ORIENTATIONS[name], _MIDDLE_PERIOD),
    "frequency": _periodic,
    "texture": lambda name, canvas: _TEXTURES[name](canvas),
}


def _triangle(canvas: _Canvas) -> NDArray[np.bool_]:
    within = np.abs(canvas.down) <= 1.4
    return np.asarray(within & (np.abs(canvas.across) <= (canvas.down + 1.4) / 2))


def _ring(canvas: _Canvas) -> NDArray[np.bool_]:
    radius = np.hypot(canvas.down, canvas.across)
    return np.asarray((radius <= 1.4) & (radius >= 0.8))


def _cross(canvas: _Canvas) -> NDArray[np.bool_]:
    down, across = np.abs(canvas.down), np.abs(canvas.across)
    return np.asarray(((down < 0.4) & (across < 1.4)) | ((across < 0.4) & (down < 1.4)))


_SHAPES: dict[str, Callable[[_Canvas], NDArray[np.bool_]]] = {
    "disc": lambda canvas: canvas.oval,
    "square": lambda canvas: canvas.box,
    "triangle": _triangle,
    "ring": _ring,
    "cross": _cross,
}


def regions_of(drawn: DrawnSet) -> Sequence[tuple[int, NDArray[np.bool_]]]:
    """The concept and the mask of each image, in order."""
    return list(zip(drawn.shown.tolist(), drawn.masks, strict=True))
