"""Data that a caller holds in memory: arrays, or a DataFrame with a row for each image or sample.

Arrays are read as those of an `.npz` are, and a DataFrame as a Parquet file of the same columns. So
digests, parts and results are the same as those of such files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from repairkit.core import errors, suite
from repairkit.core.process.text import first_line, listing
from repairkit.data.tables import Table, plain_column

ARRAYS = "arrays given in Python"
FRAME = "a DataFrame given in Python"
NAMES = (ARRAYS, FRAME)
"""What stands in place of a path, in messages and in `run.json`."""
_RESERVED = ("x", "y", "split", "label", "path", "file_name")
_EXPECTED = (
    "expected a path, (x, y), (x, y, groups), a mapping of arrays with x and y, or a DataFrame "
    "with the columns path and label"
)


@dataclass(frozen=True, eq=False, repr=False)
class GivenData:
    """Arrays by name, or a table; `groups` are the columns that were given as groups."""

    arrays: Mapping[str, suite.Array] | None = None
    table: Table | None = None
    groups: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ARRAYS if self.table is None else FRAME

    def __repr__(self) -> str:
        return f"GivenData: {self} ({listing([*self.columns, *self._images])})"

    @property
    def columns(self) -> Mapping[str, suite.Array]:
        """The columns of the table, or the arrays with a value for each image, by name."""
        if self.table is not None:
            return self.table.columns
        known = self.arrays or {}
        return {name: array for name, array in known.items() if name not in self._images}

    @property
    def _images(self) -> list[str]:
        known = self.arrays or {}
        return [name for name, array in known.items() if name == "x" or array.ndim != 1]


class Frame(Protocol):
    """A DataFrame of pandas."""

    @property
    def columns(self) -> Any:
        """The names of the columns."""
        ...

    @property
    def iloc(self) -> Any:
        """Rows by position."""
        ...


Data: TypeAlias = Path | GivenData
GivenAs: TypeAlias = (
    str | PathLike[str] | tuple[Any, ...] | Mapping[str, Any] | suite.Array | GivenData | Frame
)
"""Every form in which a function of the API takes data."""


def as_data(data: GivenAs) -> Data:
    """The path of data, or what was given in place of one.

    Args:
        data: a path; a tuple (x, y) or (x, y, groups), where groups are columns by name, a
            DataFrame or one column; arrays by the names that an `.npz` would have; or a DataFrame.

    Raises:
        DataError: it is nothing of these.
    """
    if isinstance(data, GivenData | Path):
        return data
    if isinstance(data, str | PathLike):
        return Path(data)
    if _is_frame(data):
        return GivenData(table=Table(_columns(data), _numbers(data), typed=True))
    if isinstance(data, Mapping):
        return GivenData({str(name): _array(str(name), value) for name, value in data.items()})
    if isinstance(data, tuple) and len(data) in (2, 3):
        return _of_tuple(*data)
    if isinstance(data, np.ndarray):
        return GivenData({"x": _array("x", data)})
    kind = f"a tuple of {len(data)}" if isinstance(data, tuple) else type(data).__name__
    raise errors.DataError(f"data is {kind}; {_EXPECTED}")


def _of_tuple(x: object, y: object, groups: object = None) -> GivenData:
    columns = _groups(groups)
    if not _is_frame(x):
        arrays = {"x": _array("x", x), "y": _array("y", y), **columns}
        return GivenData(arrays, groups=tuple(columns))
    known, numbers = _columns(x), _numbers(x)
    twice = [name for name in (*columns, "label") if name in known]
    if twice:
        raise errors.DataError(f"x and y or groups both have a column {twice[0]!r}; rename one")
    further = {"label": _array("y", y), **columns}
    for name, column in further.items():
        if column.shape != (len(numbers),):
            raise errors.DataError(
                f"{FRAME}: {name} has shape {column.shape} and x holds {len(numbers)} rows; "
                "expected one value per row"
            )
    return GivenData(table=Table({**known, **further}, numbers, typed=True), groups=tuple(columns))


def _groups(groups: object) -> dict[str, suite.Array]:
    """The columns of groups by name; one without a name is called `group`."""
    if groups is None:
        return {}
    if _is_frame(groups):
        columns = _columns(groups)
    elif isinstance(groups, Mapping):
        columns = {str(name): _array(str(name), column) for name, column in groups.items()}
    else:
        name = str(getattr(groups, "name", None) or "group")
        column = _array(name, groups)
        if column.ndim != 1:
            raise errors.DataError(
                f"groups have shape {column.shape}; give one value per image, or a mapping of "
                "names to columns"
            )
        columns = {name: column}
    taken = [name for name in columns if name in _RESERVED]
    if taken:
        raise errors.DataError(
            f"groups have a column {taken[0]!r}, which has another meaning; rename it"
        )
    return columns


def _is_frame(value: object) -> bool:
    """Whether it is a DataFrame, told without an import of pandas."""
    return hasattr(value, "columns") and hasattr(value, "iloc")


def _numbers(frame: Any) -> range:
    """The numbers of the rows, from 1 on."""
    if not len(frame):
        raise errors.DataError(f"{FRAME}: has no rows; add one row per image")
    return range(1, len(frame) + 1)


def _columns(frame: Any) -> dict[str, suite.Array]:
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise errors.DataError(
            f"{FRAME}: names the column {listing(twice)} more than once; rename one"
        )
    return {
        name: _array(name, frame[given]) for name, given in zip(names, frame.columns, strict=True)
    }


def _array(name: str, value: object) -> suite.Array:
    """An array, without objects: missing values are NaN or empty text, as in a Parquet file."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise errors.DataError(
            f"{ARRAYS}: {name} is no array ({type(value).__name__}: {first_line(error)}); convert "
            "it with numpy.asarray"
        ) from error
    if array.dtype.kind in "OMT" and array.ndim == 1:
        column = plain_column(ARRAYS, name, [_known(each) for each in _objects(value)])
        array = array if column is None else column
    if array.dtype.kind not in "biufUSc":
        raise errors.DataError(
            f"{ARRAYS}: {name} holds {array.dtype} of shape {array.shape}; expected numbers or text"
        )
    return array


def _objects(value: Any) -> list[Any]:
    """The values of a column as Python's own objects; dates as those of `datetime`."""
    values = value.astype(object) if hasattr(value, "astype") else np.asarray(value, object)
    return list(values)


def _known(value: Any) -> Any:
    """A value, or None where it is missing: NaN and the missing values of pandas."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    return None if isinstance(value, float) and value != value else value
