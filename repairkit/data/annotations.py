"""Labels to class numbers or targets, and columns to groups of images.

Labels are read in one way, whatever their source. A label is compared as text: `1`, `1.0` in a
column of numbers and the folder `1` are the same label. In this order:

1. Every label is one of the class names: they are names.
2. Every label is a whole number: they are class numbers, from 0 on.
3. Every label is true or false: false is 0 and true is 1.
4. No class names are known: labels are names, numbered in sorted order, and a note says so.

Groups are the values of one column, or of several crossed; `label` is one of the columns.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.process.text import clean, did_you_mean, listing
from repairkit.data import tables

Locate = Callable[[int], str]
"""The position of an image to its place in the source, for messages."""
TRUTH = {"false": 0, "true": 1}
HOW_NUMBERS = "labels are class numbers"
HOW_TRUTH = "labels are false (0) and true (1)"
HOW_NUMBERED = "labels are names, numbered in sorted order"


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels (n_images,): int64 class numbers or float64 targets; class names where known.

    `reading` says how they were read.
    """

    values: suite.Array
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    reading: str = ""


def read_targets(raw: suite.Array, locate: Locate) -> Labels:
    """Targets of a regressor from numbers or text, (n_images,).

    Raises:
        DataError: a label is no finite number; `locate` names its image.
    """
    raw = tables.clean_column(raw)
    numbers = tables.numeric_if_all_numbers(raw) if raw.dtype.kind == "U" else raw
    if numbers.dtype.kind not in "fiub":
        index = next((i for i, text in enumerate(raw) if not _is_number(text)), 0)
        raise errors.DataError(
            f"{locate(index)}: label {raw[index]!s} is no number; a regressor needs a number for "
            "every image"
        )
    values = numbers.astype(np.float64)
    _check_finite(values, locate)
    return Labels(values, reading="labels are targets of a regressor")


def read_classes(
    raw: suite.Array, class_names: Sequence[str], n_classes: int | None, locate: Locate
) -> Labels:
    """Class numbers from numbers or from names, (n_images,); see the head of this module.

    Raises:
        DataError: a label is missing, unknown, no whole number or beyond the classes, or labels
            could be names as well as numbers.
    """
    if raw.dtype.kind not in "Ufiub":
        raise errors.DataError(
            f"{locate(0)}: label has type {raw.dtype}; expected class numbers or names"
        )
    texts = _texts(raw, locate)
    notes = _respelt(raw, texts)
    names = tuple(clean(name) for name in class_names)
    known, labels = set(names), set(texts)
    unknown = [i for i, text in enumerate(texts) if text not in known]
    if known and not unknown:
        values = _mapped(texts, {name: number for number, name in enumerate(names)})
        return Labels(values, names, notes, "labels are names of the classes")
    if all(tables.whole_number(text) is not None for text in labels):
        if known & labels:
            raise errors.DataError(
                f"{locate(unknown[0])}: label {texts[unknown[0]]} is none of the classes "
                f"({listing(names)}), and others are: numbers are names for every image or class "
                "numbers for every image; correct the label or classes"
            )
        limit = n_classes if n_classes is not None else len(names) or None
        return Labels(_class_numbers(texts, limit, locate), names, notes, HOW_NUMBERS)
    if known:
        index = unknown[0]
        raise errors.DataError(
            f"{locate(index)}: label {texts[index]!r} is none of the classes ({listing(names)})"
            f"{did_you_mean(texts[index], names)}; correct the label or classes"
        )
    if {text.lower() for text in labels} <= set(TRUTH):
        values = _mapped([text.lower() for text in texts], TRUTH)
        return Labels(values, tuple(TRUTH), notes, HOW_TRUTH)
    return _numbered_by_sorting(texts, n_classes, locate, notes)


def _texts(raw: suite.Array, locate: Locate) -> list[str]:
    """Labels as text; refuses what is missing and numbers that are no class numbers."""
    if raw.dtype.kind == "f":
        _check_whole(raw, raw, locate)
    texts = tables.as_texts(raw)
    if "" in texts:
        raise errors.DataError(f"{locate(texts.index(''))}: the label is missing; give one")
    if raw.dtype.kind == "U":
        written = np.array(texts, dtype=np.str_)
        numbers = tables.typed_column(written)
        if numbers.dtype.kind == "f":
            _check_whole(numbers, written, locate)
    return texts


def _mapped(texts: Sequence[str], numbers: dict[str, int]) -> NDArray[np.int64]:
    return np.array([numbers[text] for text in texts], dtype=np.int64)


def _respelt(raw: suite.Array, texts: Sequence[str]) -> tuple[str, ...]:
    n_other = tables.n_respelt(raw.tolist(), texts) if raw.dtype.kind == "U" else 0
    if not n_other:
        return ()
    return (
        f"{n_other} labels were read without blanks around them and with composed letters (NFC), "
        "so that spellings which look alike are one",
    )


def _numbered_by_sorting(
    texts: Sequence[str], n_classes: int | None, locate: Locate, notes: tuple[str, ...]
) -> Labels:
    class_names = tuple(sorted(set(texts)))
    numbers = {name: number for number, name in enumerate(class_names)}
    values = _mapped(texts, numbers)
    n_names = len(class_names)
    if n_classes is not None and n_names > n_classes:
        index = int(np.argmax(values >= n_classes))
        raise errors.DataError(
            f"{locate(index)}: label {texts[index]} is one of {n_names} names and the "
            f"model has {n_classes} classes; give their names in its order as classes"
        )
    refuse_padded(class_names, n_classes, locate)
    pairs = [f"{number} = {name}" for number, name in enumerate(class_names)]
    note = f"labels were numbered by sorted name: {listing(pairs)}; set classes for another order"
    return Labels(values, class_names, (*notes, note), HOW_NUMBERED)


def refuse_padded(names: Sequence[str], n_classes: int | None, locate: Locate) -> None:
    """Refuse codes such as `03` and `07` that do not name every class: their order says nothing.

    Raises:
        DataError: the names are such codes.
    """
    padded = bool(names) and all(name.lstrip("+-").isdecimal() for name in names)
    if n_classes is not None and len(names) < n_classes and padded:
        raise errors.DataError(
            f"{locate(0)}: the labels {listing(list(names))} are {len(names)} codes and no plainly "
            f"written numbers, and the model has {n_classes} classes; give the codes of all in its "
            "order as classes, or write class numbers without zeros in front"
        )


def _class_numbers(texts: Sequence[str], limit: int | None, locate: Locate) -> NDArray[np.int64]:
    numbers = {text: tables.whole_number(text) or 0 for text in set(texts)}
    top = np.iinfo(np.int64).max if limit is None else limit - 1
    index = next((i for i, text in enumerate(texts) if not 0 <= numbers[text] <= top), None)
    if index is None:
        return _mapped(texts, numbers)
    allowed = f"0 to {top}" if limit is not None else "0 and up"
    remedy = "correct the label, or number classes from 0"
    present = sorted(set(numbers.values()))
    if limit is not None and len(present) == limit:
        listed = listing([str(number) for number in present]).replace(", ", ",")
        remedy += f"; if they are names, give them in the model's order: --classes={listed}"
    raise errors.DataError(
        f"{locate(index)}: label {numbers[texts[index]]} is outside the classes {allowed}; {remedy}"
    )


def _check_whole(numbers: suite.Array, shown: suite.Array, locate: Locate) -> None:
    _check_finite(numbers, locate)
    broken = numbers != np.rint(numbers)
    if broken.any():
        index = int(broken.argmax())
        raise errors.DataError(
            f"{locate(index)}: label {shown[index]} is no whole class number; correct it, or "
            "choose a metric for regression"
        )


def _check_finite(values: suite.Array, locate: Locate) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        index = int(bad.argmax())
        raise errors.DataError(
            f"{locate(index)}: label is {values[index]}; expected a finite number, give one"
        )


def _is_number(text: object) -> bool:
    return tables.numeric_if_all_numbers(np.array([str(text)])).dtype.kind != "U"


CROSS = " × "  # noqa: RUF001 - a cross is what is meant, and an x could stand in a name
LABEL = "label"
AUTO = "auto"
"""In place of a column: groups are found (`jobs.setup.slicing`). A column of this name is one."""
_SHOWN = 8


def columns_to_group(
    annotations: suite.Annotations, wanted: Sequence[str]
) -> dict[str, suite.Array]:
    """The columns that may make groups: the attributes, and `label`, the names of the classes.

    An attribute of that name, which only an archive can have, stands for itself.

    Args:
        annotations: of the images.
        wanted: the columns by which images are to be grouped.

    Raises:
        DataError: `label` is wanted, and the labels are targets of a regressor.
    """
    columns = dict(annotations.attributes)
    if annotations.labels.dtype.kind in "iu":
        names = [annotations.class_name(label) for label in annotations.labels.tolist()]
        columns.setdefault(LABEL, np.array(names, np.str_))
    if LABEL in map(clean, wanted) and LABEL not in columns:
        raise errors.DataError(
            "images cannot be grouped by 'label': the labels are targets of a regressor, which are "
            "no classes; name another column with --group"
        )
    return columns


def empty_crosses(
    attributes: Mapping[str, suite.Array], columns: Sequence[str], names: Collection[str]
) -> tuple[str, ...]:
    """A note on combinations of values that no image has.

    Args:
        attributes: of the images.
        columns: that are crossed.
        names: of the groups that occur.
    """
    values = [sorted(set(tables.as_texts(attributes[clean(column)]))) for column in columns]
    n_crosses = math.prod(map(len, values))
    n_empty = n_crosses - len(names)
    if len(columns) < 2 or not n_empty:
        return ()
    crosses = map(CROSS.join, product(*values))
    shown = list(islice((name for name in crosses if name not in names), _SHOWN))
    more = f" and {n_empty - len(shown):,} more" if n_empty > len(shown) else ""
    return (
        f"{n_empty:,} of the {n_crosses:,} groups by {CROSS.join(columns)} have no image: "
        f"{', '.join(map(repr, shown))}{more}",
    )


def cross_groups(
    attributes: Mapping[str, suite.Array], columns: Sequence[str], locate: Locate
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Group numbers (n_images,), and the sorted names of the groups that occur.

    `columns` holds at least one name.

    Raises:
        DataError: a column is unknown or has no value for an image, or two groups have one name.
    """
    texts = [_column_texts(attributes, column, locate) for column in columns]
    named = {values: CROSS.join(values) for values in zip(*texts, strict=True)}
    common, n_called = Counter(named.values()).most_common(1)[0] if named else ("", 0)
    if n_called > 1:
        raise errors.DataError(
            f"{n_called} groups would be called {common!r}; rename values that hold {CROSS!r}"
        )
    crossed = np.array([named[values] for values in zip(*texts, strict=True)])
    names, groups = np.unique(crossed, return_inverse=True)
    return groups.astype(np.int64), tuple(names.tolist())


def _column_texts(attributes: Mapping[str, suite.Array], column: str, locate: Locate) -> list[str]:
    column = clean(column)
    if column not in attributes:
        known = list(attributes)
        columns = f"the data has {listing(known)}" if known else "the data has no attributes"
        raise errors.DataError(
            f"unknown group column {column!r}: {columns}{did_you_mean(column, known)}; "
            "groups name columns, for several as race,sex"
        )
    texts = tables.as_texts(attributes[column])
    if "" in texts:
        raise errors.DataError(
            f"{locate(texts.index(''))}: no value for {column!r}, by which images are grouped; "
            "fill it in or remove the image"
        )
    return texts
