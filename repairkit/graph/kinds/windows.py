"""What a convolution sees of each image on the average over positions.

A mean over the positions of a convolution is linear in this average, whatever steps and padding
the windows have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from repairkit.core.arrays import Array
from repairkit.graph.index import attribute

Pads = tuple[tuple[int, int], ...] | Literal["upper", "lower"]


@dataclass(frozen=True)
class Windows:
    """Size, steps and padding of the windows, a number for each spatial axis.

    `pads` are numbers before and behind, or `upper` or `lower` where the output is to be as large
    as the input and an odd one goes there.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads

    def means(self, features: Array) -> NDArray[np.float64]:
        """What a window sees on the average over positions: (n, channels, *size)."""
        spatial = features.shape[2:]
        steps = list(zip(self.size, self.strides, self.dilations, strict=True))
        pads = self.pads
        if isinstance(pads, str):
            wanted = [
                -(-n // s) * s - s + d * (k - 1) + 1
                for n, (k, s, d) in zip(spatial, steps, strict=True)
            ]
            both = [max(w - n, 0) for w, n in zip(wanted, spatial, strict=True)]
            less = [(p // 2, p - p // 2) for p in both]
            pads = tuple(less if pads == "upper" else [(behind, before) for before, behind in less])
        padded = np.pad(features, [(0, 0), (0, 0), *pads])
        counts = [
            (n - d * (k - 1) - 1) // s + 1
            for n, (k, s, d) in zip(padded.shape[2:], steps, strict=True)
        ]
        means = np.empty((*features.shape[:2], *self.size))
        over = tuple(range(2, features.ndim))
        for place in np.ndindex(*self.size):
            seen = [
                slice(i * d, i * d + (count - 1) * s + 1, s)
                for i, count, (_, s, d) in zip(place, counts, steps, strict=True)
            ]
            every: tuple[Any, ...] = (slice(None), slice(None), *seen)
            means[(slice(None), slice(None), *place)] = padded[every].mean(over, dtype=np.float64)
        return means


def windows_of(node: NodeProto, size: tuple[int, ...]) -> Windows:
    """The windows of a `Conv` whose kernel has that spatial size."""

    def numbers(name: str, otherwise: int, n: int) -> tuple[int, ...]:
        found = attribute(node, name)
        return (otherwise,) * n if found is None else tuple(found.ints)

    ends = numbers("pads", 0, 2 * len(size))
    pads: Pads = tuple(zip(ends[: len(size)], ends[len(size) :], strict=True))
    padding = attribute(node, "auto_pad")
    if padding is not None and padding.s.startswith(b"SAME"):
        pads = "upper" if padding.s == b"SAME_UPPER" else "lower"
    elif padding is not None and padding.s == b"VALID":
        pads = ((0, 0),) * len(size)
    return Windows(size, numbers("strides", 1, len(size)), numbers("dilations", 1, len(size)), pads)
