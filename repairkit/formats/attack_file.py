"""The `.npz` of an attack: clean and adversarial images, and how they were made.

It is data like any other: `x` in the model's own scale, `y` the true labels, `split` the part that
an image belongs to, and columns with a number for each image: `adversarial` (0 or 1), `target` (the
class that the attack wants; -1 for a calibration image, which is not attacked) and `image` (its
position in the data that was attacked, shared by a clean image and the one made from it).
Calibration images are clean: an attack must not change what filters yield on them. A file has
calibration images only where some were in neither the selection nor the test part; otherwise means
are over the clean images that are not test. The array `attack`, without an axis, holds the record
of the attack as JSON.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from repairkit.core import attacked, errors, suite
from repairkit.formats.documents import fault_of

KIND = "repairkit attack"
RECORD = "attack"
TAKEN = ("x", "y", "split", attacked.ADVERSARIAL, attacked.TARGET, attacked.IMAGE, RECORD)
"""Names of arrays that no column of the attacked data may have."""


class Adversary(TypedDict):
    """The model that the attack follows, and how much it knows of the attacked model."""

    name: str | None
    knowledge: str
    parity: NotRequired[float | None]
    framework: NotRequired[str]


class PixelEnds(TypedDict):
    """The darkest and the brightest pixel, of all channels or of each, in the model's input."""

    low: list[float]
    high: list[float]
    channel_axis: int


class AttackRecord(TypedDict):
    """How the images of an attack were made, with the settings of its method."""

    method: str
    epsilon: float
    source: Adversary
    pixel_range: PixelEnds
    n_steps: NotRequired[int]
    step_size: NotRequired[float]
    random_start: NotRequired[bool]
    n_queries: NotRequired[int]
    first_share: NotRequired[float]
    figures: NotRequired[dict[str, Any]]


_OF_METHOD = {
    "pgd": ("n_steps", "step_size", "random_start"),
    "square": ("n_queries", "first_share"),
}


@dataclass(frozen=True, kw_only=True)
class AttackedImages:
    """Images and what is known of each; every array but `x` is (n_images,)."""

    x: suite.Array
    y: NDArray[np.int64]
    split: NDArray[np.str_]
    adversarial: NDArray[np.uint8]
    target: NDArray[np.int64]
    image: NDArray[np.int64]
    attributes: Mapping[str, suite.Array]


def check_columns(columns: Mapping[str, suite.Array]) -> None:
    """Refuse data whose columns an attack file could not keep.

    Raises:
        DataError: the data was attacked already, or has a column of a name that is taken.
    """
    if {attacked.ADVERSARIAL, attacked.TARGET} <= set(columns):
        raise errors.DataError(
            "the data holds adversarial images already; attack the images that they were made from"
        )
    clash = sorted(set(columns) & set(TAKEN))
    if clash:
        raise errors.DataError(
            f"the data has a column {clash[0]!r}, a name that an attack's file has a meaning for; "
            "rename it"
        )


def attack_archive(images: AttackedImages, record: Mapping[str, Any]) -> bytes:
    """What the file holds."""
    arrays: dict[str, Any] = {
        "x": images.x,
        "y": images.y,
        "split": images.split,
        attacked.ADVERSARIAL: images.adversarial,
        attacked.TARGET: images.target,
        attacked.IMAGE: images.image,
        RECORD: np.array(json.dumps(record, ensure_ascii=True, allow_nan=False)),
        **{n: c.astype(str) if c.dtype == object else c for n, c in images.attributes.items()},
    }
    stored = io.BytesIO()
    np.savez(stored, **arrays)
    return stored.getvalue()


def attack_record(path: Path, stored: suite.Array | None) -> AttackRecord:
    """The record of an attack, from the array of that name in the file at `path`.

    Raises:
        DataError: there is none, or it lacks what a repeated attack needs.
    """
    if stored is not None and stored.ndim == 0 and stored.dtype.kind == "U":
        try:
            record = json.loads(str(stored))
        except (ValueError, RecursionError):
            record = None
        if not fault_of(record, AttackRecord) and _is_whole(record):
            whole: AttackRecord = record
            return whole
    raise errors.DataError(
        f"{path}: was not written by repairkit attack; make adversarial images with it first"
    )


def _is_whole(record: AttackRecord) -> bool:
    """Whether the settings of the method are there, and the range of the pixels makes sense."""
    needed = _OF_METHOD.get(record["method"])
    ends = record["pixel_range"]
    return (
        needed is not None
        and set(needed) <= set(record)
        and ends["channel_axis"] in (0, 2)
        and bool(ends["low"])
        and bool(ends["high"])
    )
