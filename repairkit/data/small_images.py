"""Images made smaller as they are handed out, so that any source and preprocessing will do."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from repairkit.core.suite import Array, ImageSource, Indices


@dataclass(frozen=True, eq=False)
class SmallImages:
    """The images of a source at another size, in the dtype of the source.

    Preprocessing is linear in each pixel, but for rounding, so that it may come before.

    Attributes:
        source: of images with three axes each.
        size: (height, width) in pixels.
        layout: `nchw` or `nhwc`.
    """

    source: ImageSource
    size: tuple[int, int]
    layout: str

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: Indices) -> Array:
        """See `ImageSource`."""
        images = self.source.batch(indices)
        planes = images if self.layout == "nchw" else np.moveaxis(images, 3, 1)
        rows, columns = (
            triangle_weights(before, after)
            for before, after in zip(planes.shape[2:], self.size, strict=True)
        )
        small = rows @ (planes.astype(np.float32) @ columns.T)
        if images.dtype.kind in "iu":
            limits = np.iinfo(images.dtype)
            small = np.clip(np.rint(small), limits.min, limits.max)
        laid = small if self.layout == "nchw" else np.moveaxis(small, 1, 3)
        return np.ascontiguousarray(laid, dtype=images.dtype)


@cache
def triangle_weights(n_before: int, n_after: int) -> NDArray[np.float32]:
    """Weights of a bilinear resize with antialiasing, as Pillow's: (n_after, n_before).

    Each new pixel is a mean of the old ones around its centre, weighted by a triangle that is as
    wide as two new pixels.
    """
    scale = n_before / n_after
    centres = (np.arange(n_after) + 0.5) * scale
    places = np.arange(n_before) + 0.5
    width = max(scale, 1.0)
    weights = np.maximum(1 - np.abs(places - centres[:, None]) / width, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights.astype(np.float32)
