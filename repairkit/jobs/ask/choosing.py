"""Which of the images of a run a question is about: a condition, a class, numbers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.process.text import clean, did_you_mean, listing
from repairkit.core.suite import Annotations, Array, Indices
from repairkit.data.where import images_where
from repairkit.formats.rows_file import KeptRows

_NUMBERS = re.compile(r"\s*\d+\s*(-\s*\d+\s*)?(,\s*\d+\s*(-\s*\d+\s*)?)*")
_SEPARATORS = re.compile(r"[\s,]+")
_MOST_BYTES = 64 * 2**20
_MOST_DIGITS = 12
_SHOWN = 5
LABEL = "label"


@dataclass(frozen=True, kw_only=True)
class ImageChoice:
    """The images that a question is about: those for which all that is given holds.

    Attributes:
        where: a condition on columns, see `data.where`; none if empty.
        class_name: a class, by name or number; any if None.
        images: numbers such as `3,17,40-60`, or the path of a file of such numbers, or the numbers
            themselves; images are counted from 0 in the order of the data. All if None.
    """

    where: str = ""
    class_name: str | None = None
    images: str | Path | Sequence[int] | None = None

    @property
    def words(self) -> str:
        """The choice in words; empty where all images are meant."""
        parts = [self.where] if self.where else []
        if self.class_name is not None:
            parts.append(f"class {self.class_name}")
        if self.images is not None:
            named = (
                self.images
                if isinstance(self.images, str | Path)
                else listing([str(number) for number in self.images])
            )
            parts.append(f"images {named}")
        return ", ".join(parts)


def choose_images(choice: ImageChoice, rows: KeptRows, part: str) -> Indices | None:
    """Positions of the images among those scored, in their order; None for all.

    Raises:
        SettingsError: a condition, a class or a number makes no sense.
        DataError: an image was not scored, or none is left.
    """
    about = rows.scored.annotations
    kept = np.ones(len(about), bool)
    if choice.where:
        kept &= images_where(choice.where, columns_of(about))
    if choice.class_name is not None:
        kept &= about.labels == _class_number(choice.class_name, about, rows.document["n_classes"])
    if choice.images is not None:
        kept &= _numbered(_numbers_of(choice.images), rows, part)
    if not kept.any():
        raise DataError(
            f"{choice.words}: none of the {len(kept)} scored images of the {part} part is such a "
            "one; ask of others"
        )
    return None if not choice.words else np.flatnonzero(kept)


def columns_of(about: Annotations) -> dict[str, Array]:
    """The columns of a condition: the attributes, and `label`."""
    labels: Array = about.labels
    if labels.dtype.kind in "iu":
        labels = np.array([about.class_name(label) for label in labels.tolist()], np.str_)
    return {LABEL: labels, **about.attributes}


def _class_number(wanted: str, about: Annotations, n_classes: int) -> int:
    names = [clean(name) for name in about.class_names]
    name = clean(wanted)
    if about.labels.dtype.kind not in "iu":
        raise SettingsError("--class: the labels are targets of a regressor; use --where label")
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < max(n_classes, int(about.labels.max()) + 1):
        return int(name)
    known = f" or one of: {listing(names)}" if names else ""
    raise SettingsError(
        f"--class {wanted!r}: there is no such class{did_you_mean(name, names)}; use a number from "
        f"0 to {n_classes - 1}{known}"
    )


def _numbers_of(images: str | Path | Sequence[int]) -> NDArray[np.int64]:
    if not isinstance(images, str | Path):
        return np.array(list(images), np.int64)
    if isinstance(images, str) and _NUMBERS.fullmatch(images):
        words = images.split(",")
    else:
        words = _words_of(Path(images))
    spans = [word.strip().partition("-") for word in words]
    if any(max(len(first), len(last)) > _MOST_DIGITS for first, _, last in spans):
        raise SettingsError("--images: a number has too many digits; count images from 0")
    ends = [(int(first), int(last or first)) for first, _, last in spans]
    if sum(last - first for first, last in ends) > _MOST_BYTES:
        raise SettingsError("--images: a range is too long; count images from 0")
    return np.concatenate([np.arange(first, last + 1) for first, last in ends])


def _words_of(path: Path) -> list[str]:
    """The numbers and ranges in a file, as text."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise SettingsError(f"--images {path}: is too large to be a list of image numbers")
        words = [word for word in _SEPARATORS.split(path.read_text(encoding="utf-8-sig")) if word]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise SettingsError(
            f"--images {path}: is neither numbers such as 3,17,40-60 nor a file of such numbers "
            f"({reason})"
        ) from error
    wrong = next((word for word in words if not re.fullmatch(r"\d+(-\d+)?", word)), None)
    if wrong is not None or not words:
        problem = "it is empty" if wrong is None else f"found {wrong[:40]!r}"
        raise SettingsError(
            f"--images {path}: holds image numbers, one in a line, counted from 0 in the order of "
            f"the data; {problem}"
        )
    return words


def _numbered(numbers: NDArray[np.int64], rows: KeptRows, part: str) -> NDArray[np.bool_]:
    n_data, scored = rows.document["n_data"], rows.scored.numbers
    beyond = numbers[(numbers < 0) | (numbers >= n_data)]
    if len(beyond):
        raise SettingsError(
            f"--images: there is no image {beyond[0]}; the data has {n_data}, numbered from 0 to "
            f"{n_data - 1}"
        )
    missing = numbers[~np.isin(numbers, scored)]
    if len(missing):
        shown = ", ".join(map(str, missing[:_SHOWN].tolist()))
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise DataError(
            f"--images: no row saw image {shown}{more}: the run scored {len(scored)} images of the "
            f"{part} part, and these are not among them; score with --selection all --keep-rows to "
            "ask of every image"
        )
    return np.isin(scored, numbers)
