"""CSV and Parquet tables as data: a manifest with an image per row, or a table of numbers.

In a table of numbers the model takes some of the columns, in its own order. All columns are
attributes too, so that a feature such as age can make the groups.
"""

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from repairkit.core import errors, suite
from repairkit.core.process.text import clean, did_you_mean, listing
from repairkit.data import tables
from repairkit.data.dataset import LoadedImages, Records, digest_array
from repairkit.data.images import ImageFile, load_files
from repairkit.data.preprocessing import InputSpec, Preprocessing, ReadyImages

PARQUET_SUFFIXES = (".parquet", ".pq")
CSV_SUFFIXES = (".csv", ".tsv")
_PATH_COLUMNS = ("path", "file_name")


def with_label(
    path: Path | str, table: tables.Table, label: str | None
) -> tuple[tables.Table, tuple[str, ...]]:
    """The table with the column `label` as its labels; see `named_label`."""
    columns, notes = named_label(path, table.columns, label, usual="label")
    return replace(table, columns=columns), notes


def named_label(
    path: Path | str, columns: Mapping[str, suite.Array], label: str | None, *, usual: str
) -> tuple[dict[str, suite.Array], tuple[str, ...]]:
    """The columns with another one as labels, and a note where that takes the place of one.

    The column that is named stays under its own name too, as an attribute.

    Args:
        path: of the data, for messages.
        columns: all, by name.
        label: the column that holds the labels; the usual one if None.
        usual: the name of the labels' column where no other is named.

    Raises:
        DataError: there is no such column.
    """
    if label in (None, usual):
        return dict(columns), ()
    name, known = clean(label), {clean(name): name for name in columns}
    if name not in known:
        raise errors.DataError(
            f"{path}: has no column {name!r}{did_you_mean(name, list(known))}; found "
            f"{listing(list(known))}; correct --label (label in repairkit.toml)"
        )
    note = f"the column {usual!r}, as the labels are those of the column {name!r}"
    notes = (note,) if usual in columns else ()
    return {**columns, usual: columns[known[name]]}, notes


def read_manifest(
    manifest: Path,
    table: tables.Table,
    spec: InputSpec,
    preprocessing: Preprocessing,
    *,
    with_labels: bool = True,
) -> Records:
    """Images named by `path` (or `file_name`), relative to the manifest's folder, and `label`.

    A `split` column is the split; every other column is an attribute, see `typed_column`. Without
    labels no `label` column is needed.

    Raises:
        DataError: the file cannot be read, or a column or a path is missing.
    """
    path_column = _path_column(manifest, table, with_labels=with_labels)
    files = _image_files(manifest, table, path_column)
    attributes = {
        name: column if table.typed else tables.typed_column(tables.clean_column(column))
        for name, column in table.columns.items()
        if name not in (path_column, "label", "split")
    }
    labels = table.columns["label"] if with_labels else None
    split = table.columns.get("split")
    return Records(
        labels=labels,
        locate=_place_of_row(manifest, table),
        load=lambda: load_files(files, spec, preprocessing),
        split=None if split is None else tables.text_column(split),
        attributes=attributes,
        notes=tuple(_repeated(files, None if labels is None else tables.as_texts(labels))),
        paths=tuple(map(str, table.columns[path_column].tolist())),
    )


def read_table(path: Path) -> tables.Table:
    """A CSV or Parquet file, told apart by its suffix."""
    return (
        tables.read_parquet(path)
        if path.suffix.lower() in PARQUET_SUFFIXES
        else tables.read_csv(path)
    )


def _place_of_row(path: Path, table: tables.Table) -> Callable[[int], str]:
    return lambda index: f"{path}, row {table.row_numbers[index]}"


def _path_column(manifest: Path, table: tables.Table, *, with_labels: bool) -> str:
    names = list(table.columns)
    path_column = next((name for name in _PATH_COLUMNS if name in names), None)
    missing = [] if path_column else ["path (or file_name)"]
    missing += [] if "label" in names or not with_labels else ["label"]
    if path_column is None or missing:
        wanted = "path" if path_column is None else "label"
        raise errors.DataError(
            f"{manifest}: has no column {' and no column '.join(missing)}; found "
            f"{listing(names)}{did_you_mean(wanted, names)}; name the columns in the first row, "
            "separated by commas, or the column of the labels with --label"
        )
    return path_column


def _image_files(manifest: Path, table: tables.Table, path_column: str) -> list[ImageFile]:
    files, place_of = [], _place_of_row(manifest, table)
    for index, name in enumerate(table.columns[path_column]):
        place = place_of(index)
        if not clean(str(name)):
            raise errors.DataError(f"{place}: {path_column} is empty; name an image")
        if "\0" in str(name):
            raise errors.DataError(f"{place}: {path_column} holds a zero byte; remove it")
        files.append(ImageFile(_existing(manifest.parent, str(name)), f"{place}: {name}"))
    return files


def _existing(folder: Path, name: str) -> Path:
    """The file of that name; else one whose name is the same in another system's spelling."""
    first = folder / name
    for spelt in _spellings(name):
        try:
            if (folder / spelt).exists():
                return folder / spelt
        except OSError:  # such as a name that is too long, reported when it is opened
            break
    return first


def _spellings(name: str) -> Iterator[str]:
    yield name
    for plain in dict.fromkeys((name, name.strip(), clean(name))):
        for slashed in dict.fromkeys((plain, plain.replace("\\", "/"))):
            yield slashed
            yield unicodedata.normalize("NFC", slashed)
            yield unicodedata.normalize("NFD", slashed)


def _repeated(files: list[ImageFile], labels: list[str] | None) -> Iterator[str]:
    """A note where several rows name one file."""
    seen: dict[Path, set[str]] = {}
    for file, label in zip(files, labels or [""] * len(files), strict=True):
        seen.setdefault(file.path, set()).add(label)
    n_again = len(files) - len(seen)
    if n_again:
        n_torn = sum(len(given) > 1 for given in seen.values())
        torn = f"; {n_torn} of these images have rows with different labels" if n_torn else ""
        yield f"{n_again} rows name an image that an earlier row names too{torn}"


_KEPT = ("label", "split")


def read_rows(
    path: Path,
    table: tables.Table,
    spec: InputSpec,
    *,
    features: Sequence[str] = (),
    groups: Sequence[str] = (),
    no_features: Sequence[str] = (),
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
        no_features: columns that the model does not take, unless `features` names them.
        with_labels: false where no `label` column is needed.

    Raises:
        DataError: a column is missing or of another kind, or the model takes another number.
        SettingsError: `features` names a column that the table lacks, or one twice.
    """
    texts = {name: tables.clean_column(column) for name, column in table.columns.items()}
    columns = {name: tables.typed_column(column) for name, column in texts.items()}
    _check_columns(path, list(columns), spec, with_labels=with_labels)
    taken = {name: _numbers(column) for name, column in texts.items()}
    no_input = (*_KEPT, *map(clean, no_features))
    names = _feature_names(path, columns, taken, spec, features, groups, no_input)
    locate = _place_of_row(path, table)
    split = table.columns.get("split")
    note = f"the model's {len(names)} inputs are the columns {listing(names)}, in this order"
    return Records(
        labels=table.columns["label"] if with_labels else None,
        locate=locate,
        load=lambda: _load({name: taken[name] for name in names}, spec, locate),
        split=None if split is None else tables.text_column(split),
        attributes={name: column for name, column in columns.items() if name not in _KEPT},
        notes=(note,),
    )


def _check_columns(path: Path, names: Sequence[str], spec: InputSpec, *, with_labels: bool) -> None:
    if with_labels and "label" not in names:
        raise errors.DataError(
            f"{path}: has no column label; found {listing(names)}{did_you_mean('label', names)}; "
            "name the column that is to be predicted label"
        )
    if spec.dtype.kind not in "fiu":
        raise errors.DataError(f"{path}: holds numbers and the model takes {spec.dtype}")


def _numbers(column: suite.Array) -> suite.Array:
    """A column of text as numbers however they are written, NaN where it is empty, else as it is.

    For what the model takes: there, `007` is 7.
    """
    if column.dtype.kind != "U":
        return column
    given = column != ""
    numbers = tables.numeric_if_all_numbers(column[given])
    if numbers.dtype.kind == "U" and given.any():
        return column
    if given.all():
        return numbers
    padded = np.full(len(column), np.nan)
    if given.any():
        padded[given] = numbers
    return padded


def _feature_names(
    path: Path,
    columns: Mapping[str, suite.Array],
    taken: Mapping[str, suite.Array],
    spec: InputSpec,
    features: Sequence[str],
    groups: Sequence[str],
    no_input: Sequence[str],
) -> list[str]:
    """The columns that the model takes: those of plain numbers, else all that could be numbers.

    A column without any value counts last: it is a missing value in every row.
    """
    wanted = spec.shape[0]
    if features:
        names = _named(path, list(columns), features)
        offered = f"--features names {len(names)} columns"
    else:
        names = [n for n, c in columns.items() if n not in no_input and c.dtype.kind in "fiub"]
        offered = f"{len(names)} columns hold numbers"
        others = [name for name in names if name not in groups]
        if len(names) != wanted and (wanted is None or len(others) == wanted):
            names = others
        lenient = [n for n, c in taken.items() if n not in no_input and c.dtype.kind in "fiub"]
        filled = [n for n in lenient if columns[n].dtype.kind != "U" or (columns[n] != "").any()]
        for other in (filled, lenient):
            if len(names) != wanted == len(other):
                names = other
    if not names or wanted not in (None, len(names)):
        raise errors.DataError(
            f"{path}: {offered} beside label and split ({listing(names) or 'none'}) and the model "
            f"takes {wanted or 'some'}; name those that it takes, in its order, with --features or "
            "as features in repairkit.toml"
        )
    for name in names:
        if taken[name].dtype.kind not in "fiub":
            raise errors.DataError(
                f"{path}: the column {name!r} holds text; the model takes numbers"
            )
    return names


def _named(path: Path, known: Sequence[str], features: Sequence[str]) -> list[str]:
    """The columns that names and patterns stand for; those of a pattern in the table's order."""
    names: list[str] = []
    for feature in features:
        matching = [feature] if feature in known else [n for n in known if fnmatchcase(n, feature)]
        if not matching:
            raise errors.SettingsError(
                f"{path}: has no column {feature!r}{did_you_mean(feature, known)}; correct features"
            )
        names += matching
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise errors.SettingsError(
            f"features names {listing(twice)} more than once; name each once"
        )
    return names


def _load(
    columns: Mapping[str, suite.Array], spec: InputSpec, locate: Callable[[int], str]
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
        raise errors.DataError(
            f"{locate(row)}: {list(columns)[column]} is {exact[row, column]}, which the model's "
            f"{spec.dtype} cannot hold; correct it"
        )
    digest = hashlib.sha256()
    digest_array(digest, rows)
    n_missing = int(missing.sum())
    notes = (f"{n_missing} values are missing; the model gets NaN for them",) if n_missing else ()
    return LoadedImages(ReadyImages(rows, spec.dtype), digest.hexdigest(), notes)
