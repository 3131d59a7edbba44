"""A CSV or Parquet table of numbers: a row per sample, with its label and whatever else is known.

The model takes some of the columns, in its own order. All columns are attributes too, so that a
feature such as age can make the groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from repairkit.core.arrays import Array
from repairkit.core.errors import DataError, SettingsError
from repairkit.data.dataset import LoadedImages, Records, digest_array
from repairkit.data.names import did_you_mean, listing
from repairkit.data.pixels.images import ReadyImages
from repairkit.data.pixels.spec import InputSpec
from repairkit.data.sources.tables import Table, numeric_if_all_numbers
from repairkit.data.text import clean_column, text_column, typed_column

_KEPT = ("label", "split")


def read_rows(
    path: Path,
    table: Table,
    spec: InputSpec,
    *,
    features: Sequence[str] = (),
    groups: Sequence[str] = (),
    with_labels: bool = True,
) -> Records:
    """Rows whose `label` and `split` columns mean what they do in a manifest.

    Args:
        path: of the table, for messages.
        table: as it was read; an empty cell of a column of numbers is a missing value, NaN.
        spec: of the model's input.
        features: names or patterns of the columns that the model takes, in its order; if empty,
            all columns of numbers, without those of `groups` where that gives the model's number.
        groups: the columns by which rows are grouped.
        with_labels: false where no `label` column is needed.

    Raises:
        DataError: a column is missing or of another kind, or they are not as many as the model
            takes.
        SettingsError: `features` names a column that the table lacks, or one twice.
    """
    texts = {name: clean_column(column) for name, column in table.columns.items()}
    columns = {name: typed_column(c) if c.dtype.kind == "U" else c for name, c in texts.items()}
    if with_labels and "label" not in columns:
        raise DataError(
            f"{path}: has no column label; found {listing(list(columns))}"
            f"{did_you_mean('label', list(columns))}; name the column that is to be predicted label"
        )
    if spec.dtype.kind not in "fiu":
        raise DataError(f"{path}: holds numbers and the model takes {spec.dtype}")
    taken = {name: _numbers(column) for name, column in texts.items()}
    names = _feature_names(path, columns, taken, spec, features, groups)

    def locate(index: int) -> str:
        return f"{path}, row {table.row_numbers[index]}"

    split = table.columns.get("split")
    note = f"the model's {len(names)} inputs are the columns {listing(names)}, in this order"
    return Records(
        labels=table.columns["label"] if with_labels else None,
        locate=locate,
        load=lambda: _load({name: taken[name] for name in names}, spec, locate),
        split=None if split is None else text_column(split),
        attributes={name: column for name, column in columns.items() if name not in _KEPT},
        notes=(note,),
    )


def _numbers(column: Array) -> Array:
    """A column of text as numbers however they are written, NaN where it is empty, else as it is.

    For what the model takes: there, `007` is 7.
    """
    if column.dtype.kind != "U":
        return column
    texts = column
    given = texts != ""
    numbers = numeric_if_all_numbers(texts[given])
    if numbers.dtype.kind == "U" and given.any():
        return column
    if given.all():
        return numbers
    padded = np.full(len(texts), np.nan)
    if given.any():
        padded[given] = numbers
    return padded


def _feature_names(
    path: Path,
    columns: Mapping[str, Array],
    taken: Mapping[str, Array],
    spec: InputSpec,
    features: Sequence[str],
    groups: Sequence[str],
) -> list[str]:
    """The columns that the model takes: those of plain numbers, else all that could be numbers.

    A column without any value counts last: it is a missing value in every row.
    """
    wanted = spec.shape[0]
    if features:
        names = _named(path, list(columns), features)
        found = f"--features names {len(names)} columns"
    else:
        names = [n for n, c in columns.items() if n not in _KEPT and c.dtype.kind in "fiub"]
        found = f"{len(names)} columns hold numbers"
        others = [name for name in names if name not in groups]
        if len(names) != wanted and (wanted is None or len(others) == wanted):
            names = others
        lenient = [n for n, c in taken.items() if n not in _KEPT and c.dtype.kind in "fiub"]
        filled = [n for n in lenient if columns[n].dtype.kind != "U" or (columns[n] != "").any()]
        for other in (filled, lenient):
            if len(names) != wanted == len(other):
                names = other
    if not names or wanted not in (None, len(names)):
        raise DataError(
            f"{path}: {found} beside label and split ({listing(names) or 'none'}) and the model "
            f"takes {wanted or 'some'}; name those that it takes, in its order, with --features or "
            "as features in repairkit.toml"
        )
    for name in names:
        if taken[name].dtype.kind not in "fiub":
            raise DataError(f"{path}: the column {name!r} holds text; the model takes numbers")
    return names


def _named(path: Path, known: Sequence[str], features: Sequence[str]) -> list[str]:
    """The columns that names and patterns stand for; those of a pattern in the table's order."""
    names: list[str] = []
    for feature in features:
        found = [feature] if feature in known else [n for n in known if fnmatchcase(n, feature)]
        if not found:
            raise SettingsError(
                f"{path}: has no column {feature!r}{did_you_mean(feature, known)}; correct features"
            )
        names += found
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(f"features names {listing(twice)} more than once; name each once")
    return names


def _load(
    columns: Mapping[str, Array], spec: InputSpec, locate: Callable[[int], str]
) -> LoadedImages:
    """Rows in the model's type; a missing value stays NaN where the type has it.

    Raises:
        DataError: a value is infinite, or cannot be held by the model's type.
    """
    exact = np.stack([column.astype(np.float64) for column in columns.values()], axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = exact.astype(spec.dtype)
    missing = np.isnan(exact) & (spec.dtype.kind == "f")
    kept = np.isfinite(rows) if spec.dtype.kind == "f" else rows == exact
    wrong = np.argwhere(~(kept | missing))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise DataError(
            f"{locate(row)}: {list(columns)[column]} is {exact[row, column]}, which the model's "
            f"{spec.dtype} cannot hold; correct it"
        )
    digest = hashlib.sha256()
    digest_array(digest, rows)
    n_missing = int(missing.sum())
    notes = (f"{n_missing} values are missing; the model gets NaN for them",) if n_missing else ()
    return LoadedImages(ReadyImages(rows, spec.dtype), digest.hexdigest(), notes)
