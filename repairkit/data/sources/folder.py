"""A folder with one sub-folder per class, as torchvision's ImageFolder and Keras take it."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from repairkit.core.errors import DataError
from repairkit.core.process.text import clean, did_you_mean, listing
from repairkit.data.annotations import TRUTH
from repairkit.data.dataset import Records
from repairkit.data.images import ImageFile, load_files
from repairkit.data.preprocessing import InputSpec, Preprocessing
from repairkit.data.tables import whole_number

# As torchvision.datasets.folder.IMG_EXTENSIONS.
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip
# From this many classes on, text order differs from the order of numbers.
_FEWEST_ODD = 11
_PART_FOLDERS = {"train", "training", "val", "valid", "validation", "test", "testing"}


def read_folder(
    folder: Path,
    spec: InputSpec,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    *,
    with_labels: bool = True,
) -> Records:
    """Images by class folder, in sorted order; nested folders count, hidden ones do not.

    Folders are named by labels, and labels are read as from any source (`read_classes`): by
    `class_names`, as class numbers where all are whole numbers, else by their sorted names.
    Without labels every image in the folder counts, at any depth.

    Raises:
        DataError: there is no class folder or no image, or a folder is none of `class_names`.
    """
    skipped = _Skipped()
    if not with_labels:
        return _unlabelled(folder, list(_image_paths(folder, skipped)), spec, preprocessing)
    folders = sorted(entry.name for entry in _visible(folder) if entry.is_dir())
    numbered = all(whole_number(clean(name)) is not None for name in folders)
    numbered = numbered or all(clean(name).lower() in TRUTH for name in folders)
    _check_folders(folder, folders, () if numbered else class_names)
    members: dict[str, list[Path]] = {clean(name): [] for name in folders}
    for name in folders:
        members[clean(name)] += _image_paths(folder / name, skipped)
    classes = sorted(members)
    paths = [path for name in classes for path in members[name]]
    named = bool(class_names) or numbered
    return replace(
        _unlabelled(folder, paths, spec, preprocessing),
        labels=np.array([name for name in classes for _ in members[name]]),
        class_names=tuple(class_names) or (() if numbered else tuple(classes)),
        notes=tuple(_notes(members, len(folders), named=named)),
        left_out=tuple(_left_out(folder, skipped)),
    )


def class_of_each_image(folder: Path) -> list[str]:
    """The class folder of every image, as text; no image is read.

    Raises:
        DataError: there is no class folder.
    """
    folders = sorted(entry.name for entry in _visible(folder) if entry.is_dir())
    _check_folders(folder, folders, ())
    return [clean(name) for name in folders for _ in _image_paths(folder / name, _Skipped())]


def _unlabelled(
    folder: Path, paths: Sequence[Path], spec: InputSpec, preprocessing: Preprocessing
) -> Records:
    """The images of these files, without labels."""
    if not paths:
        raise DataError(f"{folder}: holds no image ({', '.join(IMAGE_SUFFIXES)}); add some")
    files = [ImageFile(path, str(path)) for path in paths]
    return Records(
        labels=None,
        locate=lambda index: files[index].place,
        load=lambda: load_files(files, spec, preprocessing),
        paths=tuple(path.relative_to(folder).as_posix() for path in paths),
    )


@dataclass
class _Skipped:
    """Counts of what is no image: files by suffix, and hidden entries."""

    suffixes: Counter[str] = field(default_factory=Counter)
    n_hidden: int = 0


def _visible(folder: Path) -> list[Path]:
    try:
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be listed ({error.strerror}); check its permissions"
        ) from error


def _image_paths(folder: Path, skipped: _Skipped) -> Iterator[Path]:
    # Links are followed, as in torchvision, but no folder is read twice.
    seen = {folder.resolve()}
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = Path(parent)
        fresh = [name for name in sorted(folders) if (here / name).resolve() not in seen]
        folders[:] = [name for name in fresh if not name.startswith(".")]
        skipped.n_hidden += len(fresh) - len(folders)
        seen.update((here / name).resolve() for name in folders)
        for name in sorted(names):
            if name.startswith("."):
                skipped.n_hidden += 1
            elif name.lower().endswith(IMAGE_SUFFIXES):
                yield here / name
            else:
                skipped.suffixes[Path(name).suffix.lower() or "no suffix"] += 1


def _check_folders(folder: Path, names: Sequence[str], class_names: Sequence[str]) -> None:
    """Refuse a folder without class folders; where `class_names` are given, all must be of these.

    Raises:
        DataError: there is none, they are named like parts, or one has the name of no class.
    """
    if not names:
        raise DataError(
            f"{folder}: holds no sub-folder; expected one sub-folder of images per class, "
            "or give a .csv manifest"
        )
    like_parts = {name.lower() for name in names} <= _PART_FOLDERS
    if like_parts and all(e.is_dir() for name in names for e in _visible(folder / name)):
        raise DataError(
            f"{folder}: its sub-folders ({listing(names)}) look like parts and not like classes; "
            f"give one of them, as {folder / names[-1]}"
        )
    for name in names if class_names else ():
        if clean(name) not in class_names:
            raise DataError(
                f"{folder / name}: {name!r} is none of the classes ({listing(class_names)})"
                f"{did_you_mean(name, class_names)}; rename the folder or correct classes"
            )


def _left_out(folder: Path, skipped: _Skipped) -> Iterator[str]:
    """What lies in the folder and is not read, with counts."""
    try:
        entries = list(folder.iterdir())
    except OSError:  # reported before
        entries = []
    n_hidden = skipped.n_hidden + sum(entry.name.startswith(".") for entry in entries)
    loose = [e for e in entries if not e.name.startswith(".") and not e.is_dir()]
    n_loose = sum(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in loose)
    if n_loose:
        yield f"{n_loose} image(s) lie beside the class folders and were left out"
    if skipped.suffixes:
        kinds = [f"{suffix} ({n})" for suffix, n in sorted(skipped.suffixes.items())]
        yield (
            f"{skipped.suffixes.total()} file(s) in the class folders are no images by their "
            f"suffix and were left out: {listing(kinds)}"
        )
    if n_hidden:
        yield f"{n_hidden} hidden file(s) or folder(s), named with a dot in front, were left out"


def _notes(members: dict[str, list[Path]], n_folders: int, *, named: bool) -> Iterator[str]:
    empty = [name for name, paths in members.items() if not paths]
    if empty:
        yield f"no image in the class folder(s) {listing(sorted(empty))}"
    if n_folders > len(members):
        yield (
            f"{n_folders} class folders are {len(members)} classes: names that look alike, but for "
            "blanks or the way in which letters are composed (NFC), are one"
        )
    classes = sorted(members)
    if not named:
        pairs = [f"{number} = {name}" for number, name in enumerate(classes)]
        yield f"classes were numbered by sorted folder name: {listing(pairs)}"
        return
    numbers = [whole_number(name) for name in classes]
    if None in numbers:
        return
    if numbers == list(range(len(numbers))) or len(numbers) < _FEWEST_ODD:
        return
    in_order = sorted(n for n in numbers if n is not None)
    if in_order == list(range(len(numbers))):
        yield (
            "class folders are named by class numbers, and 10 is class 10; torchvision and Keras "
            "number such folders as text (0, 1, 10, 11, ..., 2): if the model was trained so, give "
            "the names in that order as classes"
        )
