"""A CSV or Parquet manifest: one row per image, with its label and whatever else is known of it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

from repairkit.core.errors import DataError
from repairkit.core.process.text import clean
from repairkit.data.dataset import Records
from repairkit.data.names import did_you_mean, listing
from repairkit.data.pixels.decoding import ImageFile
from repairkit.data.pixels.preprocessing import Preprocessing
from repairkit.data.pixels.spec import InputSpec
from repairkit.data.sources.files import load_files
from repairkit.data.sources.tables import Table, read_csv, read_parquet
from repairkit.data.text import as_texts, clean_column, text_column, typed_column

PARQUET_SUFFIXES = (".parquet", ".pq")
CSV_SUFFIXES = (".csv", ".tsv")
_PATH_COLUMNS = ("path", "file_name")


def read_manifest(
    manifest: Path, spec: InputSpec, preprocessing: Preprocessing, *, with_labels: bool = True
) -> Records:
    """Images named by `path` (or `file_name`), relative to the manifest's folder, and `label`.

    A `split` column is the split; every other column is an attribute, see `typed_column`. Without
    labels no `label` column is needed.

    Raises:
        DataError: the file cannot be read, or a column or a path is missing.
    """
    is_parquet = manifest.suffix.lower() in PARQUET_SUFFIXES
    table = read_table(manifest)
    path_column = _path_column(manifest, table, with_labels=with_labels)
    files = _image_files(manifest, table, path_column)
    attributes = {
        name: column if is_parquet else typed_column(clean_column(column))
        for name, column in table.columns.items()
        if name not in (path_column, "label", "split")
    }
    labels = table.columns["label"] if with_labels else None
    split = table.columns.get("split")
    return Records(
        labels=labels,
        locate=lambda index: f"{manifest}, row {table.row_numbers[index]}",
        load=lambda: load_files(files, spec, preprocessing),
        split=None if split is None else text_column(split),
        attributes=attributes,
        notes=tuple(_repeated(files, None if labels is None else as_texts(labels))),
    )


def read_table(path: Path) -> Table:
    """A CSV or Parquet file, told apart by its suffix."""
    return read_parquet(path) if path.suffix.lower() in PARQUET_SUFFIXES else read_csv(path)


def _path_column(manifest: Path, table: Table, *, with_labels: bool) -> str:
    found = list(table.columns)
    path_column = next((name for name in _PATH_COLUMNS if name in found), None)
    missing = [] if path_column else ["path (or file_name)"]
    missing += [] if "label" in found or not with_labels else ["label"]
    if path_column is None or missing:
        wanted = "path" if path_column is None else "label"
        raise DataError(
            f"{manifest}: has no column {' and no column '.join(missing)}; found "
            f"{listing(found)}{did_you_mean(wanted, found)}; name the columns in the first row, "
            "separated by commas"
        )
    return path_column


def _image_files(manifest: Path, table: Table, path_column: str) -> list[ImageFile]:
    files = []
    for name, number in zip(table.columns[path_column], table.row_numbers, strict=True):
        if not clean(str(name)):
            raise DataError(f"{manifest}, row {number}: {path_column} is empty; name an image")
        if "\0" in str(name):
            raise DataError(f"{manifest}, row {number}: {path_column} holds a zero byte; remove it")
        path = _existing(manifest.parent, str(name))
        files.append(ImageFile(path, f"{manifest}, row {number}: {name}"))
    return files


def _existing(folder: Path, name: str) -> Path:
    """The file of that name; else one whose name is spelt as another system would."""
    first = folder / name
    for spelt in _spellings(name):
        try:
            if (folder / spelt).exists():
                return folder / spelt
        except OSError:  # such as a name that is too long, which is told when it is opened
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
    """What is to be said of rows that name one file."""
    seen: dict[Path, set[str]] = {}
    for file, label in zip(files, labels or [""] * len(files), strict=True):
        seen.setdefault(file.path, set()).add(label)
    n_again = len(files) - len(seen)
    if n_again:
        n_torn = sum(len(found) > 1 for found in seen.values())
        torn = f"; {n_torn} of these images have rows with different labels" if n_torn else ""
        yield f"{n_again} rows name an image that an earlier row names too{torn}"
