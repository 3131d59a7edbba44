"""A folder with one sub-folder per class, as torchvision's ImageFolder and Keras take it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from repairkit.core.errors import DataError
from repairkit.data.dataset import Records
from repairkit.data.decoding import ImageFile
from repairkit.data.files import load_files
from repairkit.data.names import did_you_mean, listing
from repairkit.data.preprocessing import Preprocessing
from repairkit.data.spec import InputSpec

# As torchvision.datasets.folder.IMG_EXTENSIONS.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip
_PART_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def read_folder(
    folder: Path,
    spec: InputSpec,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    n_classes: int | None = None,
    *,
    with_labels: bool = True,
) -> Records:
    """Images by class folder, in sorted order; nested folders count, hidden ones do not.

    Classes are numbered by `class_names`, or by their sorted folder names where none are given.
    Folders named by numbers, of which there are fewer than the model has classes (`n_classes`), are
    taken for class numbers. Without labels every image in the folder counts, at any depth.

    Raises:
        DataError: there is no class folder or no image, or a folder is none of `class_names`.
    """
    if not with_labels:
        return _unlabelled(folder, spec, preprocessing)
    classes = sorted(entry.name for entry in _visible(folder) if entry.is_dir())
    if not classes:
        raise DataError(
            f"{folder}: holds no sub-folder; expected one sub-folder of images per class, "
            "or give a .csv manifest"
        )
    _refuse_part_folders(folder, classes)
    for name in classes:
        if class_names and name not in class_names:
            raise DataError(
                f"{folder / name}: {name!r} is none of the classes ({listing(class_names)})"
                f"{did_you_mean(name, class_names)}; rename the folder or correct classes"
            )
    members = {name: list(_image_paths(folder / name)) for name in classes}
    paths = [path for name in classes for path in members[name]]
    if not paths:
        raise DataError(f"{folder}: holds no image ({', '.join(IMAGE_SUFFIXES)}); add some")
    files = [ImageFile(path, str(path)) for path in paths]
    numbered = not class_names and n_classes is not None and _are_numbers(classes, n_classes)
    if numbered:
        labels = np.array([int(name) for name in classes for _ in members[name]])
    else:
        labels = np.array([name for name in classes for _ in members[name]])
    return Records(
        labels=labels,
        locate=lambda index: files[index].place,
        load=lambda: load_files(files, spec, preprocessing),
        class_names=() if numbered else tuple(class_names) or tuple(classes),
        notes=tuple(_notes(folder, members, named=bool(class_names))),
    )


def _unlabelled(folder: Path, spec: InputSpec, preprocessing: Preprocessing) -> Records:
    files = [ImageFile(path, str(path)) for path in _image_paths(folder)]
    if not files:
        raise DataError(f"{folder}: holds no image ({', '.join(IMAGE_SUFFIXES)}); add some")
    return Records(
        labels=None,
        locate=lambda index: files[index].place,
        load=lambda: load_files(files, spec, preprocessing),
    )


def _are_numbers(classes: Sequence[str], n_classes: int) -> bool:
    return len(classes) < n_classes and all(name.isdecimal() for name in classes)


def _visible(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); check its permissions"
        ) from error


def _image_paths(folder: Path) -> Iterator[Path]:
    # Links are followed as torchvision does, but never in a circle.
    seen = {folder.resolve()}
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = Path(parent)
        fresh = [name for name in sorted(folders) if (here / name).resolve() not in seen]
        folders[:] = [name for name in fresh if not name.startswith(".")]
        seen.update((here / name).resolve() for name in folders)
        for name in sorted(names):
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith("."):
                yield here / name


def _refuse_part_folders(folder: Path, classes: Sequence[str]) -> None:
    if not {name.lower() for name in classes} <= _PART_FOLDERS:
        return
    if all(entry.is_dir() for name in classes for entry in _visible(folder / name)):
        raise DataError(
            f"{folder}: its sub-folders ({listing(classes)}) look like parts and not like classes; "
            f"give one of them, as {folder / classes[-1]}"
        )


def _notes(folder: Path, members: dict[str, list[Path]], *, named: bool) -> Iterator[str]:
    empty = [name for name, paths in members.items() if not paths]
    if empty:
        yield f"no image in the class folder(s) {listing(empty)}"
    n_loose = sum(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in _visible(folder))
    if n_loose:
        yield f"{n_loose} image(s) lie beside the class folders and were left out"
    if named:
        return
    classes = list(members)
    pairs = [f"{number} = {name}" for number, name in enumerate(classes)]
    yield f"classes were numbered by sorted folder name: {listing(pairs)}"
    if all(name.isdecimal() for name in classes) and classes != [str(i) for i in range(len(pairs))]:
        yield (
            "folder names are numbers that differ from the class numbers they were given; "
            "set classes if the model numbers them otherwise"
        )
