"""CSV and Parquet files as named columns, and how the text of a cell, a name or a folder is read.

Two spellings that look alike are one: composed and decomposed letters (NFC), blanks at the ends, a
no-break space for a space, marks without width. All other spellings differ: `07`, `7` and `007` are
three codes, and so are `a` and `A`.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.process.text import clean, first_line, listing

_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_PLAIN_WHOLE = re.compile(r"(0|-?[1-9][0-9]*)(\.0*)?")
# An exponent with its sign, as programs write it: 12E3 is a code.
_PLAIN_NUMBER = re.compile(
    r"(?!-0\Z)-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-][0-9]+)?|-?\.[0-9]+([eE][+-][0-9]+)?"
    r"|[+-]?inf(inity)?|nan",
    re.IGNORECASE,
)
_MOST_DIGITS = 18


def clean_column(texts: suite.Array) -> suite.Array:
    """A column of text, cleaned; a column of another type as it is."""
    if texts.dtype.kind != "U":
        return texts
    cleaned = {text: clean(text) for text in set(texts.tolist())}
    if all(text == read for text, read in cleaned.items()):
        return texts
    return np.array([cleaned[text] for text in texts.tolist()], dtype=np.str_)


def as_text(value: Any) -> str:
    """One value as it would be written; a whole number without a point, empty where missing."""
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() else str(value)
    return clean(str(value))


def as_texts(column: suite.Array) -> list[str]:
    """A column of any type as text, see `as_text`."""
    return [as_text(value) for value in column.tolist()]


def text_column(column: suite.Array) -> suite.Array:
    """A column of any type as a column of text; one of text as it is."""
    if column.dtype.kind == "U":
        return column
    return np.array(as_texts(column), dtype=np.str_)


def whole_number(text: str) -> int | None:
    """The number that `7`, `-1` or `7.0` is; None for `07`, `+7`, `7e0` and all else."""
    match = _PLAIN_WHOLE.fullmatch(text) if len(text) <= _MOST_DIGITS else None
    return int(match[1]) if match is not None else None


def typed_column(texts: suite.Array) -> suite.Array:
    """A cleaned column of text as int64 or float64 where it holds plain numbers, else as it is.

    A column of another type stays as it is.

    An empty cell of a column of numbers is a missing value, NaN.

    A number is plain as a program writes it: no zero in front, no plus, an exponent only with its
    sign. Codes such as `007` or `12E3` stay text, and so does a column that writes one number in
    two ways (`1` and `1.0`): there the spelling tells values apart.
    """
    if texts.dtype.kind != "U":
        return texts
    values = texts.tolist()
    unique = set(values) - {""}
    if not unique or not all(_PLAIN_NUMBER.fullmatch(text) for text in unique):
        return texts
    numbers = {text: float(text) for text in unique}
    if len(set(map(_key, numbers.values()))) < len(unique):
        return texts
    if all(_PLAIN_INTEGER.fullmatch(text) for text in unique):
        if not all(len(text) <= _MOST_DIGITS for text in unique):
            # Beyond 2**53, different codes would become the same float.
            return texts
        if "" not in values:
            return np.array([int(text) for text in values], dtype=np.int64)
    return np.array([numbers.get(text, np.nan) for text in values])


def _key(number: float) -> str:
    return "nan" if number != number else repr(number + 0.0)


def n_respelt(before: Iterable[str], after: Iterable[str]) -> int:
    """How many texts were changed by reading."""
    return sum(one != other for one, other in zip(before, after, strict=True))


_MOST_BYTES = 128 << 20
_MOST_CELLS = 10_000_000
_MOST_TEXT_BYTES = 512 << 20
_MOST_ROWS = 10_000_000
_BATCH_ROWS = 512
_INTEGER = re.compile(r"[+-]?\d+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?|nan", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length, and for each row the number under which a user finds it.

    Columns are text (n_rows,), or for Parquet whatever type the file gives. Rows of a CSV are
    numbered by line, the header being 1; rows of a Parquet file from 1. `typed` says that columns
    have the types of their source, so that text is text even where it looks like a number.
    """

    columns: Mapping[str, suite.Array]
    row_numbers: Sequence[int]
    typed: bool = False


def read_csv(path: Path) -> Table:
    """A comma-separated file (tabs in a `.tsv`) with a header, in UTF-8 with or without a mark.

    Raises:
        DataError: it cannot be read, has no rows, or a row or the header is malformed.
    """
    _check_size(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows: list[list[str]] = []
    numbers: list[int] = []
    n_cells = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
            for row in reader:
                n_cells += len(row)
                if n_cells > _MOST_CELLS:
                    raise errors.DataError(
                        f"{path}: holds over {_MOST_CELLS} values; drop columns, or split it"
                    )
                if row:
                    rows.append(row)
                    numbers.append(reader.line_num)
    except UnicodeDecodeError as error:
        kind = "UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else error.reason
        raise errors.DataError(f"{path}: is not UTF-8 text ({kind}); save it as UTF-8") from error
    except csv.Error as error:
        raise errors.DataError(
            f"{path}, row {reader.line_num}: is no valid CSV ({error}); correct it"
        ) from error
    except OSError as error:
        raise errors.DataError(f"{path}: cannot be read ({error.strerror}); check it") from error
    if not rows:
        raise errors.DataError(
            f"{path}: is empty; expected a header with the columns path and label"
        )
    return _table(path, [clean(name) for name in rows[0]], rows[1:], numbers[1:])


def _table(path: Path, header: list[str], rows: list[list[str]], row_numbers: list[int]) -> Table:
    _check_header(path, [name for name in header if name])
    if not rows:
        raise errors.DataError(f"{path}: has a header and no rows; add one row per image")
    for row, number in zip(rows, row_numbers, strict=True):
        if len(row) != len(header):
            raise errors.DataError(
                f"{path}, row {number}: has {len(row)} values and the header names {len(header)} "
                "columns; correct the row (quote values that hold a comma)"
            )
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    # pandas writes its index under an empty name.
    columns.pop("", None)
    arrays = {name: _texts(path, name, values) for name, values in columns.items()}
    return Table(arrays, row_numbers)


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size
    except OSError:
        return  # reported when the file is opened
    if size > _MOST_BYTES:
        raise errors.DataError(
            f"{path}: has {size >> 20} MiB and at most {_MOST_BYTES >> 20} are read; drop columns, "
            "or split it"
        )


def _texts(path: Path | str, name: str, values: Sequence[str]) -> NDArray[np.str_]:
    """Text of one width; a single long value must not make all values too wide."""
    longest = max(map(len, values), default=0)
    if 4 * longest * len(values) > _MOST_TEXT_BYTES:
        raise errors.DataError(
            f"{path}: a value of {name} has {longest} characters, too many for {len(values)} rows; "
            "shorten it, or drop the column"
        )
    return np.array(values, dtype=np.str_)


def _check_header(path: Path, header: Sequence[str]) -> None:
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise errors.DataError(
            f"{path}: the header names {listing(twice)} more than once; rename one"
        )


def numeric_if_all_numbers(texts: suite.Array) -> suite.Array:
    """A column of text as int64 or float64 where every value is a number, else as it is."""
    if all(_INTEGER.fullmatch(text) for text in texts):
        try:
            return np.array([int(text) for text in texts], dtype=np.int64)
        except OverflowError:
            return np.array([float(text) for text in texts])
    if all(_NUMBER.fullmatch(text) for text in texts):
        return np.array([float(text) for text in texts])
    return texts


def read_parquet(path: Path) -> Table:
    """A Parquet file; nulls become empty text or NaN, and nested columns are left out.

    Raises:
        DataError: pyarrow is missing, or the file cannot be read or has no rows.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise errors.DataError(
            f"{path}: reading Parquet needs pyarrow, which is not installed; "
            "run: pip install 'repairkit[parquet]', or give a .csv"
        ) from error
    try:
        with parquet.ParquetFile(
            path, thrift_string_size_limit=_MOST_BYTES, thrift_container_size_limit=_MOST_ROWS
        ) as file:
            table = _bounded(path, file, pyarrow)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise errors.DataError(
            f"{path}: is no Parquet file that can be read ({first_line(error)}); write it anew"
        ) from error
    if not table.num_rows:
        raise errors.DataError(f"{path}: has no rows; add one row per image")
    columns = {
        clean(name): column
        for name in table.column_names
        if (column := plain_column(path, name, table.column(name).to_pylist())) is not None
    }
    return Table(columns, range(1, table.num_rows + 1), typed=True)


def _bounded(path: Path, file: Any, pyarrow: Any) -> Any:
    """The flat columns, read piece by piece: the size that a file declares may be wrong."""
    schema = file.schema_arrow
    _check_header(path, [clean(name) for name in schema.names])
    flat = [f.name for f in schema if not pyarrow.types.is_nested(f.type)]
    batches, n_bytes, n_cells = [], 0, 0
    for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=flat):
        n_bytes += sum(_text_bytes(column, pyarrow) for column in batch.columns)
        n_cells += batch.num_rows * max(1, batch.num_columns)
        if n_bytes > _MOST_TEXT_BYTES or n_cells > _MOST_CELLS:
            raise errors.DataError(
                f"{path}: holds more than a manifest can; drop columns, or split it"
            )
        batches.append(batch)
    return pyarrow.Table.from_batches(batches) if batches else schema.empty_table()


def _text_bytes(column: Any, pyarrow: Any) -> int:
    """The bytes of a column once each value stands for itself."""
    if not pyarrow.types.is_dictionary(column.type):
        return int(column.nbytes)
    longest = max((len(str(value)) for value in column.dictionary.to_pylist()), default=0)
    return longest * len(column)


def plain_column(path: Path | str, name: str, values: list[Any]) -> suite.Array | None:
    """Values of one type as an array; nulls become NaN or empty text. None for bytes."""
    kinds = {type(value) for value in values if value is not None}
    missing = any(value is None for value in values)
    if bytes in kinds:
        return None
    if kinds and kinds <= {bool, int} and not missing:
        return np.array(values)
    if kinds and kinds <= {int, float}:
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    if kinds and all(issubclass(kind, datetime) for kind in kinds):
        values = _days(values)
    return _texts(path, name, ["" if value is None else str(value) for value in values])


def _days(moments: list[Any]) -> list[Any]:
    """Days where every moment is a midnight, as pandas writes such a column to a CSV."""
    known = [moment for moment in moments if moment is not None]
    if any(moment.time() != time() or getattr(moment, "nanosecond", 0) for moment in known):
        return moments
    return [None if moment is None else moment.date() for moment in moments]
