"""Labelled images that are judged together, what is known of each of them, and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""An array of any element type; its shape is stated where it is used."""

Precision = Literal["float32", "tf32", "float16"]
"""The number format in which a model is evaluated."""

IN_WORDS: Mapping[Precision, str] = {
    "float32": "32 bits",
    "tf32": "TF32",
    "float16": "half precision",
}

Indices = NDArray[np.intp]


class ImageSource(Protocol):
    """Images that are ready for the model, handed out in batches."""

    def __len__(self) -> int: ...

    def batch(self, indices: Indices) -> Array:
        """Images of shape (len(indices), *model input without its batch axis), model's dtype."""
        ...


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """What is known of each image; every array is (n_images,).

    `labels` are class numbers (int64), or targets (float64) for a regressor. `groups` are
    indices into `group_names`, or None where no group was named. `attributes` holds every further
    column as it came.
    """

    labels: Array
    groups: NDArray[np.int64] | None = None
    group_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    attributes: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def class_name(self, label: int) -> str:
        """The name of a class; its number where it has none."""
        named = 0 <= label < len(self.class_names)
        return self.class_names[label] if named else str(label)

    def take(self, indices: Indices) -> Annotations:
        return Annotations(
            labels=self.labels[indices],
            groups=None if self.groups is None else self.groups[indices],
            group_names=self.group_names,
            class_names=self.class_names,
            attributes={name: column[indices] for name, column in self.attributes.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Images and annotations of one part of the data (`calibration`, `selection`, `test`).

    `indices` are the positions of the images in `images`, so that parts share one source.
    `further` are what the model takes besides each image, by the names of its inputs.
    """

    name: str
    images: ImageSource
    annotations: Annotations
    indices: Indices
    further: Mapping[str, ImageSource] = field(default_factory=dict)

    @classmethod
    def whole(
        cls,
        name: str,
        images: ImageSource,
        annotations: Annotations,
        further: Mapping[str, ImageSource] | None = None,
    ) -> Suite:
        return cls(
            name=name,
            images=images,
            annotations=annotations,
            indices=np.arange(len(annotations)),
            further=further or {},
        )

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: Indices, name: str | None = None) -> Suite:
        """The images at `positions` of this suite, as a suite of its own."""
        return Suite(
            name=self.name if name is None else name,
            images=self.images,
            annotations=self.annotations.take(positions),
            indices=self.indices[positions],
            further=self.further,
        )

    def thinned(self, most: int) -> Suite:
        """All images, or `most` of them evenly over the suite."""
        if len(self) <= most:
            return self
        return self.take(np.linspace(0, len(self) - 1, most).round().astype(np.intp))

    def batch(self, positions: Indices) -> Array:
        """Images of shape (len(positions), *model input without its batch axis)."""
        return self.images.batch(self.indices[positions])

    def feeds(self, positions: Indices) -> dict[str, Array]:
        """What the model takes besides the images: a row per image, by the names of inputs."""
        rows = self.indices[positions]
        return {name: source.batch(rows) for name, source in self.further.items()}
