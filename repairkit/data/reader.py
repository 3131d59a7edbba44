"""Reads the data of a command: class folders, a manifest, an archive, or what lies in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.process.text import clean, listing
from repairkit.data import annotations
from repairkit.data import preprocessing as prep
from repairkit.data.dataset import Dataset, Records, digest_records
from repairkit.data.given import Data, GivenData
from repairkit.data.sources import arrays, corruptions, folder, manifest
from repairkit.data.tables import Table, as_texts, clean_column, text_column

_ADDRESSES = ("http:", "https:", "s3:", "gs:")


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """What a job asks of its data, and what it knows of the model that takes it.

    Attributes:
        spec: of the model's input.
        preprocessing: of image files and of arrays of pixels.
        groups: names of the columns to cross: attributes, and `label` for the classes.
        class_names: the classes in the model's order.
        features: the columns that a model of rows of numbers takes; see `read_rows`.
        n_classes: their number where it is known.
        regression: whether labels are targets, float64.
        label: the column of a manifest, or the array of an archive, that holds the labels; the
            usual one if None.
        with_labels: if false, no labels are read, so any folder of images will do.
        inputs: the model's other inputs; arrays of an archive and columns of a manifest with
            their names are for them.
        image_name: the name of the images' array where there is no `x`.
        corruptions: by which each image gets a spoiled copy; see `sources.corruptions`.
    """

    spec: prep.InputSpec
    preprocessing: prep.Preprocessing
    groups: Sequence[str] = ()
    class_names: Sequence[str] = ()
    features: Sequence[str] = ()
    n_classes: int | None = None
    regression: bool = False
    label: str | None = None
    with_labels: bool = True
    inputs: Sequence[prep.FurtherInput] = ()
    image_name: str = "x"
    corruptions: Sequence[str] = ()


def read_data(data: Data, request: DataRequest) -> Dataset:
    """Images that are ready for the model, and what is known of each.

    Raises:
        DataError: the data cannot be read, or contradicts the model or itself.
        SettingsError: preprocessing or class names do not fit the model.
    """
    class_names = tuple(clean(name) for name in request.class_names)
    _check_class_names(class_names, request.n_classes)
    spec = request.spec.with_layout(request.preprocessing.layout)
    request = replace(request, class_names=class_names, spec=spec)
    records, split_notes = _cleaned(_read_records(data, request))
    if request.corruptions:
        records = corruptions.with_corruptions(
            records, request.corruptions, spec, request.preprocessing
        )
    labels = _read_labels(str(data), records, request)
    numbers, names, empty = _grouped(records, labels, request.groups)
    loaded = records.load()
    more_notes = (*empty, *loaded.notes)
    if labels is None:
        labels = annotations.Labels(np.zeros(len(loaded.images), np.int64))
    return Dataset(
        images=loaded.images,
        annotations=suite.Annotations(
            labels=labels.values,
            groups=numbers,
            group_names=names,
            class_names=labels.class_names,
            attributes=records.attributes,
        ),
        split=records.split,
        digest=digest_records(records, loaded.digest),
        notes=(*records.notes, *records.left_out, *split_notes, *labels.notes, *more_notes),
        reading=labels.reading,
        left_out=records.left_out,
        labelled=request.with_labels,
        further=records.further,
        constants=records.constants,
        paths=records.paths,
    )


def _grouped(
    records: Records, labels: annotations.Labels | None, groups: Sequence[str]
) -> tuple[NDArray[np.int64] | None, tuple[str, ...], tuple[str, ...]]:
    """Group numbers, names and notes; without labels, by the other columns alone."""
    columns = records.attributes
    if annotations.AUTO in map(clean, groups) and annotations.AUTO not in columns:
        if len(groups) > 1:
            raise errors.SettingsError(
                "--group auto finds the groups itself and stands alone; leave out "
                f"{listing([name for name in groups if clean(name) != annotations.AUTO])}, or auto"
            )
        groups = ()
    if labels is not None:
        about = suite.Annotations(
            labels=labels.values, class_names=labels.class_names, attributes=columns
        )
        columns = annotations.columns_to_group(about, groups)
    elif annotations.LABEL not in columns:
        groups = [name for name in groups if clean(name) != annotations.LABEL]
    if not groups:
        return None, (), ()
    numbers, names = annotations.cross_groups(columns, groups, records.locate)
    return numbers, names, annotations.empty_crosses(columns, groups, names)


def _cleaned(records: Records) -> tuple[Records, tuple[str, ...]]:
    """Split and attributes as cleaned text, and notes on what that changed."""
    attributes = {name: clean_column(column) for name, column in records.attributes.items()}
    if records.split is None:
        return replace(records, attributes=attributes), ()
    written = [str(value) for value in records.split.tolist()]
    read = [text.lower() for text in as_texts(records.split)]
    changed = sorted({(a, b) for a, b in zip(written, read, strict=True) if a != b and b})
    notes: tuple[str, ...] = ()
    if changed and records.split.dtype.kind == "U":
        n_changed = sum(a != b for a, b in zip(written, read, strict=True) if b)
        respelt = listing([f"{a!r} as {b!r}" for a, b in changed])
        notes = (
            f"{n_changed} names of the split were read without blanks and capitals: {respelt}",
        )
    split = np.array(read, dtype=np.str_)
    return replace(records, attributes=attributes, split=split), notes


def _check_class_names(class_names: Sequence[str], n_classes: int | None) -> None:
    twice = sorted({name for name in class_names if class_names.count(name) > 1})
    if twice:
        raise errors.SettingsError(
            f"classes name {listing(twice)} more than once; name each class once"
        )
    if class_names and n_classes is not None and len(class_names) != n_classes:
        raise errors.SettingsError(
            f"classes holds {len(class_names)} names and the model has {n_classes} classes; "
            "name every class, in the model's order"
        )


def _read_records(data: Data, request: DataRequest) -> Records:
    if isinstance(data, GivenData):
        if data.table is not None:
            return _table_records(Path(str(data)), data.table, request)
        return _archive_records(str(data), dict(data.arrays or {}), request)
    suffix = data.suffix.lower()
    is_table = suffix in (*manifest.CSV_SUFFIXES, *manifest.PARQUET_SUFFIXES)
    if is_table and prep.is_tabular(request.spec):
        return _table_records(data, manifest.read_table(data), request)
    if not data.exists():
        if str(data).startswith(_ADDRESSES):
            raise errors.DataError(
                f"{data}: is an address, and --data takes files and folders; download it first"
            )
        raise errors.DataError(f"{data}: does not exist; check --data")
    if data.is_dir():
        if request.label is not None:
            raise errors.SettingsError(
                f"{data}: is a folder, whose sub-folders are the labels, and --label names the "
                f"column {request.label!r}; leave --label out"
            )
        return folder.read_folder(
            data,
            request.spec,
            request.preprocessing,
            request.class_names,
            with_labels=request.with_labels,
        )
    if is_table:
        return _table_records(data, manifest.read_table(data), request)
    if suffix == ".npz":
        return _archive_records(str(data), arrays.read_archive(data), request)
    raise errors.DataError(
        f"{data}: is of no kind that is read as data; expected a folder with one sub-folder per "
        "class, a .csv or .parquet manifest, or a .npz"
    )


def _table_records(path: Path, whole: Table, request: DataRequest) -> Records:
    """Of a manifest of images, or of rows of numbers where the model takes those."""
    spec, preprocessing = request.spec, request.preprocessing
    is_tabular = prep.is_tabular(spec)
    if is_tabular and preprocessing != prep.Preprocessing():
        raise errors.SettingsError(
            "the model takes rows of numbers, which are passed on as they are; leave out what "
            "prepares images (resize, crop, color, scale, mean, std, layout)"
        )
    table, notes = manifest.with_label(path, whole, request.label)
    if not is_tabular:
        records = manifest.read_manifest(
            path, table, spec, preprocessing, with_labels=request.with_labels
        )
        further = arrays.take_columns(records.attributes, request.inputs, str(path))
        return replace(records, further=further, left_out=notes)
    records = manifest.read_rows(
        path,
        table,
        spec,
        features=request.features,
        groups=request.groups,
        no_features=() if request.label is None else (request.label,),
        with_labels=request.with_labels,
    )
    return replace(records, left_out=notes)


def _read_labels(path: str, records: Records, request: DataRequest) -> annotations.Labels | None:
    class_names, n_classes = tuple(request.class_names), request.n_classes
    if records.labels is None:
        return None
    if request.regression:
        return annotations.read_targets(records.labels, records.locate)
    classes = class_names or records.class_names
    if n_classes is not None and not class_names and len(classes) > n_classes:
        raise errors.DataError(
            f"{path}: has {len(classes)} class folders ({listing(classes)}) and the model has "
            f"{n_classes} classes; remove the folders it does not know"
        )
    annotations.refuse_padded(classes if not class_names else (), n_classes, records.locate)
    labels = annotations.read_classes(records.labels, classes, n_classes, records.locate)
    named = labels.class_names
    if class_names or n_classes is None or not 0 < len(named) < n_classes:
        return labels
    note = (
        f"the data names {len(named)} classes and the model has {n_classes}: numbers are right "
        "only if the model's first classes are these; set classes to be sure"
    )
    return replace(labels, notes=(*labels.notes, note))


def _archive_records(path: str, every: Mapping[str, suite.Array], request: DataRequest) -> Records:
    image_name, with_labels = request.image_name, request.with_labels
    stored, notes = manifest.named_label(path, every, request.label, usual="y")
    if "x" not in stored and image_name in stored:
        stored["x"] = stored.pop(image_name)
    for name in ("x", "y") if with_labels else ("x",):
        if name not in stored:
            raise errors.DataError(
                f"{path}: has no array {name!r}; found {listing(sorted(stored)) or 'nothing'}; "
                "expected x (images) and y (labels)"
            )
    images = stored.pop("x")
    if images.ndim == 0 or not len(images):
        raise errors.DataError(f"{path}: x holds no image; give at least one")
    further, constants = arrays.take_arrays(
        stored, request.inputs, len(images), request.preprocessing, path
    )
    columns = {
        clean(name): _column(path, name, array, len(images))
        for name, array in sorted(stored.items())
        # An array without an axis is about the file, not about its images.
        if (array.ndim or name in ("y", "split"))
        and (with_labels or array.shape in ((len(images),), (len(images), 1)))
    }
    split = columns.pop("split", None)
    if split is not None and split.dtype.kind not in "Ufiub":
        raise errors.DataError(
            f"{path}: split holds {split.dtype}; expected the part of each image as text or number"
        )
    return Records(
        labels=columns.pop("y") if with_labels else None,
        locate=lambda index: f"{path}, image {index}",
        load=lambda: arrays.load_array(images, request.spec, request.preprocessing, f"{path}: x"),
        split=None if split is None else text_column(split),
        attributes=columns,
        left_out=notes,
        further=further,
        constants=constants,
    )


def _column(path: str, name: str, array: suite.Array, n_images: int) -> suite.Array:
    if array.shape == (n_images, 1):
        array = array[:, 0]
    if array.shape != (n_images,):
        raise errors.DataError(
            f"{path}: {name} has shape {prep.describe_shape(array.shape)} and x holds {n_images} "
            f"images; expected one value per image, shape {n_images}{_hint(name, array)}"
        )
    if array.dtype.kind != "S":
        return array
    try:
        return np.char.decode(array, "utf-8")
    except UnicodeDecodeError as error:
        raise errors.DataError(
            f"{path}: {name} holds bytes that are no UTF-8 text, such as {error.object!r}; save "
            "it as text: numpy.char.decode(column, ENCODING)"
        ) from error


def _hint(name: str, array: suite.Array) -> str:
    """What to do with one-hot labels; empty for others."""
    if name != "y" or array.ndim != 2 or array.dtype.kind not in "fiub":
        return ""
    one_hot = bool(((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all())
    return "; for rows with a single 1 that is y.argmax(axis=1)" if one_hot else ""
