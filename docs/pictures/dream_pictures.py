"""Make the picture of dreams anew: filters of the packaged sample, and filters made by hand.

    .venv/bin/python docs/pictures/dream_pictures.py

Look at it before it is committed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

import repairkit
from tests.dreams.known_filters import kernels, known_model

ROOT = Path(__file__).parents[2]
TILE, GAP = 120, 8
SAMPLE = [*(f"conv2:{c}" for c in range(6)), *(f"conv3:{c}" for c in range(6))]
KNOWN = [f"seen:{c}" for c in range(3)]


def tile(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image as a square of `TILE` pixels in colour."""
    shown = Image.fromarray(image if image.shape[2] == 3 else image[..., 0]).convert("RGB")
    return np.asarray(shown.resize((TILE, TILE), Image.Resampling.NEAREST))


def row(tiles: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Tiles side by side on white."""
    gap = np.full((TILE, GAP, 3), 255, np.uint8)
    return np.concatenate([part for each in tiles for part in (each, gap)], axis=1)


def main() -> None:
    """Two rows of the sample's dreams; below, the kernels made by hand beside their dreams."""
    digits = ROOT / "samples" / "digits"
    sample = repairkit.dream(digits / "model.onnx", SAMPLE, digits / "digits.npz")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "known.onnx"
        onnx.save(known_model(), path)
        known = repairkit.dream(path, KNOWN)
    pairs = []
    for kernel, dream in zip(kernels(), known.dreams, strict=True):
        scaled = 127.5 + 127.5 * kernel / np.abs(kernel).max()
        pairs += [tile(scaled.round().astype(np.uint8)), tile(dream.image)]
    images = [tile(dream.image) for dream in sample.dreams]
    gap = np.full((GAP, row(pairs).shape[1], 3), 255, np.uint8)
    rows = [row(images[:6]), gap, row(images[6:]), gap, row(pairs)]
    picture = Image.fromarray(np.concatenate(rows)[:, :-GAP])
    picture.quantize(128, dither=Image.Dither.NONE).save(
        Path(__file__).with_name("dreams.png"), optimize=True
    )


if __name__ == "__main__":
    main()
