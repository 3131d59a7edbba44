"""What the model's image input looks like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from repairkit.core.errors import SettingsError

# Position of (channels, height, width) in a shape without its batch axis.
_AXES = {"nchw": (0, 1, 2), "nhwc": (2, 0, 1)}
_IMAGE_RANK = 3


@dataclass(frozen=True)
class InputSpec:
    """The model's image input, without its batch axis.

    `layout` is `nchw`, `nhwc`, or `other` for an input whose rank is not 4: arrays are then only
    passed through. `shape` holds None where the model leaves a size open, e.g. `(3, None, None)`.
    """

    layout: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    @property
    def channels(self) -> int | None:
        return self._size(0)

    @property
    def height(self) -> int | None:
        return self._size(1)

    @property
    def width(self) -> int | None:
        return self._size(2)

    def _size(self, which: int) -> int | None:
        return self.shape[_AXES[self.layout][which]] if self.layout in _AXES else None

    def with_layout(self, layout: str | None) -> InputSpec:
        """The same input read in `layout`; None leaves it as it is.

        Raises:
            SettingsError: the input has no three axes that could be laid out.
        """
        if layout is None or layout == self.layout:
            return self
        if len(self.shape) != _IMAGE_RANK:
            raise SettingsError(
                f"layout {layout} needs a model input of rank 4 and this one has rank "
                f"{len(self.shape) + 1}; leave layout out and give --data as a ready .npz"
            )
        return replace(self, layout=layout)


@dataclass(frozen=True)
class FurtherInput:
    """An input that the model takes beside its images.

    `shape` is as declared, None where a size is open. Where `per_image`, its first axis is the
    images'.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]
    per_image: bool

    @property
    def single(self) -> tuple[int | None, ...]:
        """The shape for one image."""
        return (1, *self.shape[1:]) if self.per_image else self.shape


def describe_shape(shape: tuple[int | None, ...]) -> str:
    """`(3, None, 224)` as `3 x ? x 224`."""
    return " x ".join("?" if size is None else str(size) for size in shape) or "a single number"


def is_tabular(spec: InputSpec) -> bool:
    """Whether the model takes a row of numbers, and no image."""
    return len(spec.shape) == 1
