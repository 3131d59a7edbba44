"""Between pictures, whose colours reach from -1 to 1, and what the model takes; colours to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors
from repairkit.core.suite import Array, Suite
from repairkit.data import preprocessing as prep
from repairkit.data.dataset import Dataset
from repairkit.dreams.pictures import Floats, Palette, measured_palette, plain_palette

_FIRST_TO_LAST, _LAST_TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_COLOUR_IMAGES, _COLOUR_PIXELS = 64, 20_000
_DARK = 64


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
        return (2, 3) if self.channels_first else (1, 2)

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


def settle_pixels(
    spec: prep.InputSpec,
    preprocessing: prep.Preprocessing,
    dataset: Dataset,
    given: tuple[float, float] | None,
) -> PixelInput:
    """The pixel range: as given, from the data, or from the preprocessing.

    Args:
        spec: the model's input.
        preprocessing: of the job.
        dataset: the images; there may be none.
        given: the darkest and the brightest pixel, if the user said so.

    Raises:
        SettingsError: the model takes no images, or the range is empty.
    """
    spec = spec.with_layout(preprocessing.layout)
    if spec.layout not in prep.LAYOUTS:
        raise errors.SettingsError(
            f"the model takes {prep.describe_shape(spec.shape)} for each image, and a dream is a "
            "picture of height, width and colours; give a model of images"
        )
    if dataset.further:
        raise errors.SettingsError(
            f"the data feeds {', '.join(dataset.further)} with each image, and a dream has no such "
            "row; give constants with --input"
        )
    n_colours = spec.channels
    if n_colours is None and len(dataset.images):
        shape = dataset.images.batch(np.arange(1)).shape
        n_colours = int(shape[1 if spec.layout == "nchw" else 3])
    if n_colours is None:
        raise errors.SettingsError(
            "the model leaves the number of colours open; give images with --data"
        )
    ends = _ends(spec, preprocessing, dataset, given, n_colours)
    low, high = (
        np.array(np.broadcast_to(end, n_colours), np.float64) for end in (ends.low, ends.high)
    )
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise errors.SettingsError(
            "the pixel range is empty or endless; its lower end must be below its upper: give "
            "--range LOW,HIGH"
        )
    return PixelInput(
        low=low,
        high=high,
        channels_first=spec.layout == "nchw",
        dtype=spec.dtype,
        reversed_colours=preprocessing.color == "bgr",
        origin=ends.origin,
    )


def _ends(
    spec: prep.InputSpec,
    preprocessing: prep.Preprocessing,
    dataset: Dataset,
    given: tuple[float, float] | None,
    n_colours: int,
) -> prep.InputEnds:
    """The darkest and the brightest pixel; see `prep.pixel_ends`, which needs images or a range."""
    images = dataset.images
    if given is not None or len(images):
        ends = prep.pixel_ends(images, spec, preprocessing, given)
        if given is None and isinstance(images, prep.PixelImages):
            brightest = int(images.pixels[:_COLOUR_IMAGES].max(initial=0))
            if 0 < brightest < _DARK:  # such as scans whose pixels reach from 0 to 16
                origin = f"pixels of 0 to {brightest}, preprocessed"
                return prep.InputEnds(ends.low, images.table[:, brightest], origin)
        return ends
    same = prep.Preprocessing(
        scale=preprocessing.scale, mean=preprocessing.mean, std=preprocessing.std
    )
    if same == prep.Preprocessing() and spec.dtype.kind in "iu":
        limits = np.iinfo(spec.dtype)
        low, high = np.array(limits.min), np.array(limits.max)
        return prep.InputEnds(low, high, f"all that {spec.dtype} holds")
    table = prep.value_table(preprocessing, n_colours, spec.dtype)
    origin = "8-bit pixels, preprocessed; no images were given"
    return prep.InputEnds(table[:, 0], table[:, -1], origin)


def settle_palette(suite: Suite, pixels: PixelInput) -> Palette:
    """The colours of the images of a suite; plain ones where there are none."""
    few = suite.thinned(_COLOUR_IMAGES)
    if not len(few):
        return plain_palette(len(pixels.low))
    seen = pixels.pictures(few.batch(np.arange(len(few)))).reshape(-1, len(pixels.low))
    return measured_palette(seen[:: max(1, len(seen) // _COLOUR_PIXELS)])
