"""Labels as they came to class numbers, or to targets for a regressor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import DataError
from repairkit.data.names import did_you_mean, listing
from repairkit.data.tables import numeric_if_all_numbers

Locate = Callable[[int], str]


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels (n_images,): int64 class numbers or float64 targets; class names where known."""

    values: NDArray[Any]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_targets(raw: NDArray[Any], locate: Locate) -> Labels:
    """Targets of a regressor from numbers or text, (n_images,).

    Raises:
        DataError: a label is no finite number; `locate` names its image.
    """
    numbers = numeric_if_all_numbers(raw) if raw.dtype.kind == "U" else raw
    if numbers.dtype.kind not in "fiub":
        index = next((i for i, text in enumerate(raw) if not _is_number(text)), 0)
        raise DataError(
            f"{locate(index)}: label {raw[index]!s} is no number; a regressor needs a number for "
            "every image"
        )
    values = numbers.astype(np.float64)
    _refuse_not_finite(values, locate)
    return Labels(values)


def read_classes(
    raw: NDArray[Any], class_names: Sequence[str], n_classes: int | None, locate: Locate
) -> Labels:
    """Class numbers from numbers or from names, (n_images,).

    Names are numbered by `class_names`, or in sorted order where there are none. Text that holds
    only whole numbers is taken for class numbers, unless all of it stands in `class_names`.

    Raises:
        DataError: a label is missing, unknown, no whole number or beyond the classes.
    """
    if raw.dtype.kind == "U":
        _refuse_empty(raw, locate)
        if class_names and set(raw.tolist()) <= set(class_names):
            return _named(raw, class_names, locate)
        numbers = numeric_if_all_numbers(raw)
        if numbers.dtype.kind == "U":
            if class_names:
                return _named(raw, class_names, locate)
            return _numbered_by_sorting(raw, n_classes, locate)
        raw = numbers
    limit = n_classes if n_classes is not None else len(class_names) or None
    return Labels(_class_numbers(raw, limit, locate), tuple(class_names))


def _named(raw: NDArray[Any], class_names: Sequence[str], locate: Locate) -> Labels:
    numbers = {name: number for number, name in enumerate(class_names)}
    for index, name in enumerate(raw.tolist()):
        if name not in numbers:
            raise DataError(
                f"{locate(index)}: label {name!r} is none of the classes "
                f"({listing(list(class_names))}){did_you_mean(name, list(class_names))}; correct "
                "the label or classes"
            )
    values = np.array([numbers[name] for name in raw.tolist()], dtype=np.int64)
    return Labels(values, tuple(class_names))


def _numbered_by_sorting(raw: NDArray[Any], n_classes: int | None, locate: Locate) -> Labels:
    names, values = np.unique(raw, return_inverse=True)
    class_names = tuple(names.tolist())
    if n_classes is not None and len(class_names) > n_classes:
        index = int(np.argmax(values >= n_classes))
        raise DataError(
            f"{locate(index)}: label {raw[index]!s} is one of {len(class_names)} names and the "
            f"model has {n_classes} classes; give their names in its order as classes"
        )
    pairs = [f"{number} = {name}" for number, name in enumerate(class_names)]
    note = f"labels were numbered by sorted name: {listing(pairs)}; set classes for another order"
    return Labels(values.astype(np.int64), class_names, (note,))


def _class_numbers(raw: NDArray[Any], limit: int | None, locate: Locate) -> NDArray[np.int64]:
    if raw.dtype.kind not in "fiub":
        raise DataError(f"{locate(0)}: label has type {raw.dtype}; expected class numbers or names")
    if raw.dtype.kind == "f":
        _refuse_not_finite(raw, locate)
        broken = raw != np.rint(raw)
        if broken.any():
            index = int(broken.argmax())
            raise DataError(
                f"{locate(index)}: label {raw[index]} is no whole class number; correct it, or "
                "choose a metric for regression"
            )
    top = np.iinfo(np.int64).max if limit is None else limit - 1
    outside = (raw < 0) | (raw > top)
    if outside.any():
        index = int(outside.argmax())
        allowed = f"0 to {top}" if limit is not None else "0 and up"
        raise DataError(
            f"{locate(index)}: label {raw[index]:.0f} is outside the classes {allowed}; correct "
            "the label, or number classes from 0"
        )
    return raw.astype(np.int64)


def _refuse_empty(raw: NDArray[Any], locate: Locate) -> None:
    empty = np.char.strip(raw) == ""
    if empty.any():
        raise DataError(f"{locate(int(empty.argmax()))}: the label is missing; give one")


def _refuse_not_finite(values: NDArray[Any], locate: Locate) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        index = int(bad.argmax())
        raise DataError(
            f"{locate(index)}: label is {values[index]}; expected a finite number, give one"
        )


def _is_number(text: Any) -> bool:
    return numeric_if_all_numbers(np.array([str(text)])).dtype.kind != "U"
