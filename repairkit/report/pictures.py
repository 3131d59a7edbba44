"""Arrays to small pictures that a page can carry."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repairkit.core.suite import Array

_LARGEST = 112
_SMALLEST = 56
_LOSSLESS_BYTES = 3000


@dataclass(frozen=True)
class Picture:
    """A picture as a data URI, and the size of what it shows, in the model's pixels."""

    uri: str
    width: int
    height: int


def draw_picture(pixels: Array) -> Picture | None:
    """A thumbnail of an image of shape (height, width, channels); None where it is no picture.

    Bytes (uint8) are shown as they are; of other numbers the least becomes black and the greatest
    white. Three channels are red, green and blue; any other number of channels is averaged.
    """
    if pixels.ndim != 3 or min(pixels.shape) < 1 or max(pixels.shape[:2]) < 2:
        return None
    shown = pixels if pixels.dtype == np.uint8 else _stretched(pixels)
    shown = shown if shown.shape[2] == 3 else shown.mean(axis=2).round().astype(np.uint8)[..., None]
    height, width = shown.shape[:2]
    image = Image.fromarray(shown if shown.shape[2] == 3 else shown[..., 0])
    longest = max(height, width)
    factor = min(1.0, _LARGEST / longest)
    if longest < _SMALLEST:  # enlarged by whole pixels, so that nothing is made up
        factor = float(-(-_SMALLEST // longest))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    way = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    return Picture(_data_uri(image.resize(size, way)), width, height)


def _stretched(pixels: Array) -> NDArray[np.uint8]:
    values = pixels.astype(np.float64)
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    spread = (values - low) / (high - low if high > low else 1.0)
    filled = np.nan_to_num(spread, nan=0.0, posinf=1.0, neginf=0.0)
    return (255 * np.clip(filled, 0, 1)).round().astype(np.uint8)


def _data_uri(image: Image.Image) -> str:
    content, kind = _encoded(image, "PNG"), "png"
    if len(content) > _LOSSLESS_BYTES:
        content, kind = _encoded(image, "JPEG"), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _encoded(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, quality=82, optimize=True)
    return stream.getvalue()
