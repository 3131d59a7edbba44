"""Groups of images: the values of one column, or of several crossed; `label` is one of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice, product

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.errors import DataError
from repairkit.core.process.text import clean
from repairkit.core.suite import Annotations
from repairkit.data.names import did_you_mean, listing
from repairkit.data.text import as_texts

CROSS = " × "  # noqa: RUF001 - a cross is what is meant, and an x could stand in a name


LABEL = "label"
_SHOWN = 8


def columns_to_group(annotations: Annotations, wanted: Sequence[str]) -> dict[str, Array]:
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
        raise DataError(
            "images cannot be grouped by 'label': the labels are targets of a regressor, which are "
            "no classes; name another column with --group"
        )
    return columns


def empty_crosses(
    attributes: Mapping[str, Array], columns: Sequence[str], names: Collection[str]
) -> tuple[str, ...]:
    """A note where values that occur in several columns never occur together.

    Args:
        attributes: of the images.
        columns: that are crossed.
        names: of the groups that occur.
    """
    values = [sorted(set(as_texts(attributes[clean(column)]))) for column in columns]
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
    attributes: Mapping[str, Array],
    columns: Sequence[str],
    locate: Callable[[int], str],
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Group numbers (n_images,), and the sorted names of the groups that occur.

    `columns` holds at least one name.

    Raises:
        DataError: a column is unknown or has no value for an image, or two groups have one name.
    """
    texts = [_texts(attributes, column, locate) for column in columns]
    named = {values: CROSS.join(values) for values in zip(*texts, strict=True)}
    common, n_called = Counter(named.values()).most_common(1)[0] if named else ("", 0)
    if n_called > 1:
        raise DataError(
            f"{n_called} groups would be called {common!r}; rename values that hold {CROSS!r}"
        )
    crossed = np.array([named[values] for values in zip(*texts, strict=True)])
    names, groups = np.unique(crossed, return_inverse=True)
    return groups.astype(np.int64), tuple(names.tolist())


def _texts(attributes: Mapping[str, Array], column: str, locate: Callable[[int], str]) -> list[str]:
    column = clean(column)
    if column not in attributes:
        known = list(attributes)
        found = f"the data has {listing(known)}" if known else "the data has no attributes"
        raise DataError(
            f"unknown group column {column!r}: {found}{did_you_mean(column, known)}; "
            "groups name columns, for several as race,sex"
        )
    texts = as_texts(attributes[column])
    if "" in texts:
        raise DataError(
            f"{locate(texts.index(''))}: no value for {column!r}, by which images are grouped; "
            "fill it in or remove the image"
        )
    return texts
