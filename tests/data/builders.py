"""Small files and inputs that the tests of data share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from repairkit.core.suite import Annotations, Array
from repairkit.data.dataset import Dataset
from repairkit.data.preprocessing import InputSpec, Preprocessing, ReadyImages

PLAIN = Preprocessing()


def spec(
    *shape: int | None, layout: str = "nchw", dtype: type[np.generic] = np.float32
) -> InputSpec:
    return InputSpec(layout, shape or (3, 8, 8), np.dtype(dtype))


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save_png(path: Path, pixels: Array, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def save_folder(folder: Path, counts: dict[str, int], size: tuple[int, ...] = (8, 8, 3)) -> Path:
    """A class folder per key with that many different images."""
    seed = 0
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            seed += 1
            save_png(folder / name / f"{index}.png", noise(*size, seed=seed))
    return folder


def save_manifest(path: Path, text: str, images: Sequence[str] = ("a.png", "b.png")) -> Path:
    path.write_text(text, encoding="utf-8")
    for seed, name in enumerate(images):
        save_png(path.parent / name, noise(8, 8, 3, seed=seed))
    return path


def dataset(
    labels: Sequence[Any],
    groups: Sequence[int] | None = None,
    split: Sequence[str] | None = None,
    *,
    attributes: Mapping[str, Array] | None = None,
    class_names: tuple[str, ...] = (),
) -> Dataset:
    """A data set in memory whose image i holds the number i."""
    names = () if groups is None else tuple(f"g{i}" for i in range(max(groups) + 1))
    return Dataset(
        ReadyImages(np.arange(len(labels), dtype=np.float32)[:, None], np.dtype(np.float32)),
        Annotations(
            labels=np.array(labels),
            groups=None if groups is None else np.array(groups),
            group_names=names,
            class_names=class_names,
            attributes=attributes or {},
        ),
        None if split is None else np.array(split),
        digest="0" * 64,
    )
