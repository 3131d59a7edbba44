"""Images that are ready for the model, from stored pixels or from arrays; both only read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.suite import Indices


@dataclass(frozen=True, eq=False)
class PixelImages:
    """Stored 8-bit pixels, preprocessed batch by batch.

    `pixels` is uint8 (n_images, height, width, channels), channels in the model's order. `table` is
    (channels, 256): what each pixel value becomes, in the model's dtype. A table is exact, and
    quicker than arithmetic on every pixel.
    """

    pixels: NDArray[np.uint8]
    table: NDArray[np.generic]
    channels_first: bool

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Indices) -> Array:
        """Images of shape (len(indices), *model input without its batch axis), model's dtype."""
        height, width, channels = self.pixels.shape[1:]
        planes = np.empty((len(indices), channels, height, width), dtype=self.table.dtype)
        for image, index in zip(planes, indices, strict=True):
            stored = np.asarray(self.pixels[index])
            for channel, plane in enumerate(image):
                # "clip" is never needed: it spares numpy a buffered copy.
                np.take(self.table[channel], stored[..., channel], out=plane, mode="clip")
        return planes if self.channels_first else np.ascontiguousarray(planes.transpose(0, 2, 3, 1))

    def take(self, indices: Indices) -> PixelImages:
        """Some of the images, in this order, copied."""
        return PixelImages(np.asarray(self.pixels[indices]), self.table, self.channels_first)


@dataclass(frozen=True, eq=False)
class ReadyImages:
    """Arrays that are passed to the model as they are.

    `array` is (n_images, *model input without its batch axis); casting to `dtype` is known to keep
    its values.
    """

    array: Array
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return len(self.array)

    def batch(self, indices: Indices) -> Array:
        """Images of shape (len(indices), *model input without its batch axis), model's dtype."""
        return self.array[indices].astype(self.dtype, copy=False)

    def take(self, indices: Indices) -> ReadyImages:
        """Some of the images, in this order, copied."""
        return ReadyImages(np.asarray(self.array[indices]), self.dtype)
