"""Groups of images: the values of one attribute, or of several crossed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import DataError
from repairkit.core.text import clean
from repairkit.data.names import did_you_mean, listing
from repairkit.data.text import as_texts

CROSS = " × "  # noqa: RUF001 - a cross is what is meant, and an x could stand in a name


def cross_groups(
    attributes: Mapping[str, NDArray[Any]],
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


def _texts(
    attributes: Mapping[str, NDArray[Any]], column: str, locate: Callable[[int], str]
) -> list[str]:
    column = clean(column)
    if column not in attributes:
        known = list(attributes)
        found = f"the data has {listing(known)}" if known else "the data has no attributes"
        raise DataError(
            f"unknown group column {column!r}: {found}{did_you_mean(column, known)}; "
            "groups name attribute columns, for several as race,sex"
        )
    texts = as_texts(attributes[column])
    if "" in texts:
        raise DataError(
            f"{locate(texts.index(''))}: no value for {column!r}, by which images are grouped; "
            "fill it in or remove the image"
        )
    return texts
