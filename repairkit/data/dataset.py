"""What was read: images, what is known of each, and a digest that names the data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repairkit.core.suite import Annotations, Array, ImageSource


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images, annotations and, where the data has one, the split each image belongs to.

    `split` is (n_images,). `digest` is the SHA-256, in hexadecimal, of all that was read, and does
    not depend on its place. `notes` are sentences that a user should see. `reading` says how labels
    were read, `left_out` which parts of the source were not read and why. Where `labelled` is
    false, no labels were read, and those of `annotations` are all 0.
    `further` and `constants` are for the model's other inputs, by name: a row per image, or one
    array for all. `paths` are those of image files, as the source has them; empty without files.
    """

    images: ImageSource
    annotations: Annotations
    split: NDArray[np.str_] | None
    digest: str
    notes: tuple[str, ...] = ()
    reading: str = ""
    left_out: tuple[str, ...] = ()
    labelled: bool = True
    further: Mapping[str, ImageSource] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class LoadedImages:
    """Images in memory, the digest of what they were read from, and notes on the reading."""

    images: ImageSource
    digest: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Records:
    """What a folder, manifest or archive says of its images, before any image is decoded.

    `labels`, `split` and `attributes` are (n_images,), as they came; `labels` are None where none
    were asked for. `locate` names an image's place in the source for messages. `class_names` is
    given where the source itself numbers its classes. `load` reads the images: labels are checked
    first, because that is quick. `left_out` says what was not read and why. `paths` are those of
    image files, in a manifest as it writes them, in a folder relative to it.
    """

    labels: Array | None
    locate: Callable[[int], str]
    load: Callable[[], LoadedImages]
    split: Array | None = None
    attributes: Mapping[str, Array] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    further: Mapping[str, ImageSource] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    paths: tuple[str, ...] = ()


def digest_records(records: Records, images_digest: str) -> str:
    """SHA-256 in hexadecimal over images, labels, split and attributes."""
    digest = hashlib.sha256(images_digest.encode())
    columns = dict(sorted(records.attributes.items()))
    if records.labels is not None:
        columns = {"label": records.labels, **columns}
    if records.split is not None:
        columns["/split"] = records.split
    columns |= {f"/constant {name}": array for name, array in records.constants.items()}
    for name, source in records.further.items():
        columns[f"/input {name}"] = source.batch(np.arange(len(source)))
    for name, column in columns.items():
        digest.update(f"\n{name}\n".encode())
        digest_array(digest, column)
    return digest.hexdigest()


def copies_note(digests: Sequence[str]) -> tuple[str, ...]:
    """A note on images whose digests are equal."""
    n_copies = len(digests) - len(set(digests))
    if not n_copies:
        return ()
    return (f"{n_copies} image(s) are copies of another one; copies can fall into different parts",)


def digest_array(digest: hashlib._Hash, array: Array) -> None:
    """Feed an array's type, shape and values; text counts by value, whatever its stored width."""
    if array.dtype.kind == "U":
        digest.update(json.dumps(array.tolist()).encode())
        return
    digest.update(f"{array.dtype.str} {array.shape}\n".encode())
    for row in array if array.ndim > 1 else (array,):
        digest.update(row.tobytes())
