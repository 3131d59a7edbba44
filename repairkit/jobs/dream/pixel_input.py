"""Between pictures, whose colours reach from -1 to 1, and what the model takes; colours to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors
from repairkit.core.suite import Array
from repairkit.data.preprocessing import InputSpec, Preprocessing, value_table
from repairkit.dreams.pictures import Floats, Palette, measured_palette, plain_palette
from repairkit.jobs.attack.attacking import pixel_range
from repairkit.jobs.setup.workbench import IMAGE_AXES, Bench

_FIRST_TO_LAST, _LAST_TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_COLOUR_IMAGES, _COLOUR_PIXELS = 64, 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class PixelInput:
    """How pictures become the model's input.

    Attributes:
        low: what the darkest pixel becomes, (n_colours,).
        high: what the brightest pixel becomes, (n_colours,).
        channels_first: whether the model takes them so.
        dtype: of the input; whole numbers are rounded to.
        reversed_colours: whether the model takes blue first.
        origin: where the range comes from, in words.
    """

    low: Floats
    high: Floats
    channels_first: bool
    dtype: np.dtype[Any]
    reversed_colours: bool
    origin: str

    @property
    def axes(self) -> tuple[int, int]:
        """Of height and width in a batch of inputs."""
        return IMAGE_AXES["nchw" if self.channels_first else "nhwc"]

    def inputs(self, pictures: Floats) -> Array:
        """What the model takes, from pictures (n, height, width, n_colours)."""
        values = self.low + (pictures + 1) / 2 * (self.high - self.low)
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        order = _LAST_TO_FIRST if self.channels_first else (0, 1, 2, 3)
        return np.ascontiguousarray(values.transpose(order).astype(self.dtype))

    def pictures(self, inputs: Array) -> Floats:
        """Pictures (n, height, width, n_colours) from what the model takes."""
        order = _FIRST_TO_LAST if self.channels_first else (0, 1, 2, 3)
        values = np.asarray(inputs).transpose(order).astype(np.float64)
        return (values - self.low) / (self.high - self.low) * 2 - 1

    def slopes(self, gradients: Array) -> Floats:
        """Gradients with respect to pictures, from those with respect to inputs."""
        order = _FIRST_TO_LAST if self.channels_first else (0, 1, 2, 3)
        return gradients.transpose(order).astype(np.float64) * (self.high - self.low) / 2

    def shown(self, picture: Floats) -> NDArray[np.uint8]:
        """A picture as (height, width, 1 or 3), red first; of other colours the mean is shown."""
        shown = picture[..., ::-1] if self.reversed_colours else picture
        if shown.shape[-1] not in (1, 3):
            shown = shown.mean(axis=-1, keepdims=True)
        return np.clip(np.rint((shown + 1) * 127.5), 0, 255).astype(np.uint8)


def settle_pixels(bench: Bench, given: tuple[float, float] | None) -> PixelInput:
    """The pixel range of a bench: as given, from the data, or from the preprocessing.

    Raises:
        SettingsError: the model takes no images, or the range is empty.
    """
    subject, preparation = bench.subject, bench.settings.preprocessing
    spec = subject.spec.with_layout(preparation.layout)
    if spec.layout not in IMAGE_AXES:
        raise errors.SettingsError(
            f"{subject.file.path}: takes {len(spec.shape)} axes for each image, and a dream is a "
            "picture of height, width and colours; give a model of images"
        )
    if bench.dataset.further:
        raise errors.SettingsError(
            f"the data feeds {', '.join(bench.dataset.further)} with each image, and a dream has "
            "no such row; give constants with --input"
        )
    n_colours = spec.channels or _first_shape(bench)[0 if spec.layout == "nchw" else 2]
    low, high, origin = _range(bench, spec, preparation, given, n_colours)
    return PixelInput(
        low=np.array(np.broadcast_to(low, n_colours), np.float64),
        high=np.array(np.broadcast_to(high, n_colours), np.float64),
        channels_first=spec.layout == "nchw",
        dtype=spec.dtype,
        reversed_colours=preparation.color == "bgr",
        origin=origin,
    )


def _first_shape(bench: Bench) -> tuple[int, ...]:
    if not len(bench.dataset.images):
        raise errors.SettingsError(
            "the model leaves the number of colours open; give images with --data"
        )
    return bench.dataset.images.batch(np.arange(1)).shape[1:]


def _range(
    bench: Bench,
    spec: InputSpec,
    preparation: Preprocessing,
    given: tuple[float, float] | None,
    n_colours: int,
) -> tuple[Array, Array, str]:
    """The darkest and the brightest pixel, and where they come from."""
    if given is not None or len(bench.dataset.images):
        box, origin = pixel_range(bench.dataset, bench.subject.spec, preparation, given)
        return np.ravel(box.low), np.ravel(box.high), origin
    same = Preprocessing(scale=preparation.scale, mean=preparation.mean, std=preparation.std)
    if same == Preprocessing() and spec.dtype.kind in "iu":
        limits = np.iinfo(spec.dtype)
        return np.array(limits.min), np.array(limits.max), f"all that {spec.dtype} holds"
    table = value_table(preparation, n_colours, spec.dtype)
    return table[:, 0], table[:, -1], "8-bit pixels, preprocessed; no images were given"


def settle_palette(bench: Bench, pixels: PixelInput) -> Palette:
    """The colours of the calibration images; plain ones where there are no images."""
    suite = bench.parts.calibration.thinned(_COLOUR_IMAGES)
    if not len(suite):
        return plain_palette(len(pixels.low))
    seen = pixels.pictures(suite.batch(np.arange(len(suite)))).reshape(-1, len(pixels.low))
    return measured_palette(seen[:: max(1, len(seen) // _COLOUR_PIXELS)])
