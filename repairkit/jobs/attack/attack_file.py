"""The `.npz` of an attack: clean and adversarial images, and how they were made.

It is data like any other: `x` in the model's own scale, `y` the true labels, `split` the part that
an image belongs to, and columns with a number for each image: `adversarial` (0 or 1), `target` (the
class that the attack wants; -1 for a calibration image, of which none was made) and `image` (its
position in the data that was attacked, shared by a clean image and the one made of it). Calibration
images are clean alone: what filters yield on them must not be drawn by an attack. A file has such
images where some were neither to choose nor to test; else means are of the clean images that are
not test. The array
`attack`, without an axis, holds the settings as JSON.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.attacked import IMAGE
from repairkit.core.errors import DataError
from repairkit.data.sources.archive import read_archive
from repairkit.jobs.output.files import write_bytes
from repairkit.metrics import ADVERSARIAL, TARGET

SETTINGS = "attack"
TAKEN = ("x", "y", "split", ADVERSARIAL, TARGET, IMAGE, SETTINGS)
"""Names of arrays that no column of the attacked data may have."""


@dataclass(frozen=True)
class AttackedImages:
    """Images and what is known of each; every array but `x` is (n_images,)."""

    x: Array
    y: NDArray[np.int64]
    split: NDArray[np.str_]
    adversarial: NDArray[np.uint8]
    target: NDArray[np.int64]
    image: NDArray[np.int64]
    attributes: Mapping[str, Array]


def check_columns(columns: Mapping[str, Array]) -> None:
    """Refuse data whose columns an attack file could not keep.

    Raises:
        DataError: the data was attacked already, or has a column of a name that is taken.
    """
    if {ADVERSARIAL, TARGET} <= set(columns):
        raise DataError(
            "the data holds adversarial images already; attack the images that they were made from"
        )
    clash = sorted(set(columns) & set(TAKEN))
    if clash:
        raise DataError(
            f"the data has a column {clash[0]!r}, a name that an attack's file has a meaning for; "
            "rename it"
        )


def write_attack_file(path: Path, images: AttackedImages, settings: Mapping[str, Any]) -> None:
    """Write the file whole or not at all.

    Raises:
        RunFolderError: it cannot be written.
    """
    arrays: dict[str, Any] = {
        "x": images.x,
        "y": images.y,
        "split": images.split,
        ADVERSARIAL: images.adversarial,
        TARGET: images.target,
        IMAGE: images.image,
        SETTINGS: np.array(json.dumps(settings, ensure_ascii=True, allow_nan=False)),
        **{name: _plain(column) for name, column in images.attributes.items()},
    }
    stored = io.BytesIO()
    np.savez(stored, **arrays)
    write_bytes(path, stored.getvalue())


def _plain(column: Array) -> Array:
    return column.astype(str) if column.dtype == object else column


def read_attack_settings(path: Path) -> dict[str, Any]:
    """How the images of an attack file were made.

    Raises:
        DataError: the file is none, or was not written by `repairkit attack`.
    """
    stored = read_archive(path).get(SETTINGS)
    if stored is not None and stored.ndim == 0 and stored.dtype.kind == "U":
        try:
            found = json.loads(str(stored))
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and _is_whole(found):
            return found
    raise DataError(
        f"{path}: was not written by repairkit attack; make adversarial images with it first"
    )


def _is_whole(told: Mapping[str, Any]) -> bool:
    """Whether settings hold what a repeated attack needs."""
    source, ends = told.get("source"), told.get("pixel_range")
    own = {"pgd": ("n_steps", "step_size", "random_start"), "square": ("n_queries", "first_share")}
    needed = ("epsilon", *own.get(str(told.get("method")), ("",)))
    numbers = [told.get(name) for name in needed]
    return (
        all(isinstance(number, int | float) for number in numbers)
        and isinstance(source, dict)
        and {"name", "knowledge"} <= set(source)
        and isinstance(ends, dict)
        and {"low", "high", "channel_axis"} <= set(ends)
        and ends["channel_axis"] in (0, 2)
        and all(isinstance(n, int | float) for side in ("low", "high") for n in _list(ends[side]))
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) and value else [None]
