"""The pixel range in the scale of the model's input.

Preprocessing is affine in each channel, so a ball around an image of pixels is a box around the
model's input, of another width in each channel. Attacks therefore work on the model's input itself:
the sign of a gradient, which is all that they take from it, is the same in both scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import DataError, SettingsError

Images = NDArray[np.floating[Any]]
"""Shape (n_images, *one image), in the scale of the model's input."""

# Of the pixel range: images may lie this much beyond it, by rounding.
_SLACK = 1e-5


@dataclass(frozen=True)
class PixelBox:
    """What the darkest and the brightest pixel become in the model's input.

    Attributes:
        low: of the darkest, broadcasts against one image.
        high: of the brightest, alike.
        channel_axis: of one image; 0 (NCHW) or 2 (NHWC).

    Raises:
        SettingsError: `low` is not below `high`.
    """

    low: Images
    high: Images
    channel_axis: int

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise SettingsError("the pixel range must be finite")
        if not (self.low < self.high).all():
            raise SettingsError("the pixel range is empty; its lower end must be below its upper")

    def around(self, images: Images, epsilon: float) -> tuple[Images, Images]:
        """The least and the greatest image within `epsilon` of each, and within the range.

        Args:
            images: see `Images`.
            epsilon: a share of the pixel range.
        """
        reach = epsilon * (self.high - self.low)
        least = np.maximum(images - reach, self.low).astype(images.dtype)
        greatest = np.minimum(images + reach, self.high).astype(images.dtype)
        return least, greatest

    def distance(self, images: Images, others: Images) -> float:
        """The greatest difference of two pixels, as a share of the pixel range."""
        return float((np.abs(images - others) / (self.high - self.low)).max(initial=0.0))

    def check(self, images: Images) -> None:
        """Refuse images that reach beyond the range.

        Raises:
            DataError: there is one.
        """
        slack = _SLACK * (self.high - self.low)
        if ((images < self.low - slack) | (images > self.high + slack)).any():
            raise DataError(
                f"the images hold values from {images.min():g} to {images.max():g} and the pixel "
                f"range is {self.low.min():g} to {self.high.max():g} in the model's input; give "
                "the range that they have with --range LOW,HIGH"
            )
