"""Concept images on disk: the layout, a strict reader, and a writer for drawn images.

A folder holds `images/NAME.png` (or another image format) and masks of the same names as PNG files:

- with `concepts.csv` (columns number, name, category): index masks, `masks/NAME.png` or
  `masks/LAYER/NAME.png`. A pixel is the number of a concept, 0 is none. Several layers hold
  concepts that overlap;
- without it: a mask for each concept, `masks/CONCEPT/NAME.png` or
  `masks/CATEGORY/CONCEPT/NAME.png`. A pixel that is not 0 shows the concept.

An image without a mask shows no concept. What fits neither form is refused.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from repairkit.concepts.concept_set import Concept, Region
from repairkit.concepts.generated_set import DrawnSet
from repairkit.core.errors import DataError
from repairkit.core.process.text import clean, decoded, first_line, listing
from repairkit.core.process.writing import Drafts

CONCEPTS_FILE, IMAGES, MASKS = "concepts.csv", "images", "masks"
COLUMNS = ("number", "name", "category")
_IMAGE_ENDINGS = {
    ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".jp2",
}  # fmt: skip
_MOST_IMAGES = 100_000
_MOST_MASKS = 1_000_000
_MOST_CONCEPTS = 65_535
_MOST_TABLE_BYTES = 16 << 20
_LYING = (5, 6, 7, 8)  # orientations of EXIF that swap height and width
_MASK_MODES = ("1", "L", "P", "I", "I;16", "I;16B")


@dataclass(frozen=True)
class _MaskFile:
    """A mask of an image; `concept` is the one that it shows, None for an index mask."""

    path: Path
    concept: int | None


@dataclass(frozen=True, eq=False)
class ConceptFolder:
    """What a folder of concept images holds; masks are read when they are asked for."""

    path: Path
    concepts: tuple[Concept, ...]
    images: tuple[Path, ...]
    masks: tuple[tuple[_MaskFile, ...], ...]

    def regions(self, position: int, fit: Callable[[Image.Image], Image.Image]) -> list[Region]:
        """The regions of an image.

        Args:
            position: of the image in `images`.
            fit: brings a mask to the size at which the model sees the image.

        Raises:
            DataError: the image or a mask cannot be read, a mask has another size than the image
                as it is shown, or holds a number that is no concept.
        """
        size = _shown_size(self.images[position])
        known = {concept.number: place for place, concept in enumerate(self.concepts)}
        regions: list[Region] = []
        for file in self.masks[position]:
            indices = np.asarray(fit(_read_mask(file.path, size)))
            if file.concept is not None:
                regions.append((file.concept, indices != 0))
                continue
            for number in np.unique(indices[indices != 0]).tolist():
                if number not in known:
                    raise DataError(
                        f"{file.path}: has pixels of {number} and {CONCEPTS_FILE} names no concept "
                        "of that number; add it, or write 0 where there is none"
                    )
                regions.append((known[number], indices == number))
        return regions


def read_concept_folder(path: Path) -> ConceptFolder:
    """Find images, masks and concepts of a folder; pixels are not read yet.

    Raises:
        DataError: it is missing, or is not laid out as this module says.
    """
    if not path.is_dir():
        fault = "is no folder" if path.exists() else "does not exist"
        raise DataError(f"{path}: {fault}; give a folder with {IMAGES} and {MASKS} to --concepts")
    images = _images(path / IMAGES)
    table = path / CONCEPTS_FILE
    stems = {image.stem: position for position, image in enumerate(images)}
    masks: list[list[_MaskFile]] = [[] for _ in images]
    if table.is_file():
        concepts = _read_table(table)
        found: list[tuple[Path, int | None]] = [(f, None) for f in _index_masks(path / MASKS)]
    else:
        concepts, found = _concepts_by_folder(path / MASKS)
    n_masks = 0
    for file, concept in found:
        if file.stem not in stems:
            raise DataError(
                f"{file}: is a mask and {IMAGES} has no image {file.stem!r}; give a mask the name "
                "of its image, or remove it"
            )
        masks[stems[file.stem]].append(_MaskFile(file, concept))
        n_masks += 1
    if not n_masks:
        raise DataError(
            f"{path / MASKS}: holds no mask; expected {MASKS}/NAME.png with {CONCEPTS_FILE}, or "
            f"{MASKS}/CONCEPT/NAME.png"
        )
    if n_masks > _MOST_MASKS:
        raise DataError(f"{path}: holds {n_masks} masks and at most {_MOST_MASKS} are read")
    return ConceptFolder(path, concepts, images, tuple(map(tuple, masks)))


def _images(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        raise DataError(f"{folder}: is missing; concept images lie in a sub-folder {IMAGES}")
    shown = (file for file in folder.iterdir() if not file.name.startswith("."))
    files = sorted(shown, key=lambda file: (file.stem, file.name))
    images = tuple(file for file in files if file.suffix.lower() in _IMAGE_ENDINGS)
    if not images:
        raise DataError(f"{folder}: holds no images; put PNG or JPEG files there")
    if len(images) > _MOST_IMAGES:
        raise DataError(f"{folder}: holds {len(images)} images and at most {_MOST_IMAGES} are read")
    twice = next((a.stem for a, b in pairwise(images) if a.stem == b.stem), None)
    if twice is not None:
        raise DataError(f"{folder}: two images are named {twice!r}; masks need names of their own")
    return images


def _png_files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.iterdir()):
        if file.name.startswith("."):
            continue
        if file.is_file() and file.suffix.lower() != ".png":
            raise DataError(f"{file}: is no PNG file; masks are PNG files, which lose nothing")
        if file.is_file():
            yield file


def _folders(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _index_masks(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: is missing; masks lie in a sub-folder {MASKS}")
    yield from _png_files(folder)
    for layer in _folders(folder):
        yield from _png_files(layer)


def _concepts_by_folder(
    folder: Path,
) -> tuple[tuple[Concept, ...], list[tuple[Path, int | None]]]:
    """Concepts named by their folders, and the masks of each."""
    if not folder.is_dir():
        raise DataError(f"{folder}: is missing; masks lie in a sub-folder {MASKS}")
    loose = next(_png_files(folder), None)
    if loose is not None:
        raise DataError(
            f"{loose}: is an index mask and there is no {CONCEPTS_FILE}; add it, with the columns "
            f"{', '.join(COLUMNS)}, or put the masks of each concept into a folder of its name"
        )
    homes: list[tuple[str, Path]] = []
    for first in _folders(folder):
        inner = _folders(first)
        homes += [(first.name, each) for each in inner] if inner else [("", first)]
    concepts = tuple(
        Concept(number, clean(home.name), clean(category))
        for number, (category, home) in enumerate(homes, start=1)
    )
    _check_concepts(concepts, folder)
    files: list[tuple[Path, int | None]] = [
        (file, place) for place, (_, home) in enumerate(homes) for file in _png_files(home)
    ]
    return concepts, files


def _read_table(path: Path) -> tuple[Concept, ...]:
    try:
        if path.stat().st_size > _MOST_TABLE_BYTES:
            raise DataError(f"{path}: is over {_MOST_TABLE_BYTES >> 20} MiB; name fewer concepts")
        rows = list(csv.DictReader(io.StringIO(decoded(path.read_bytes()), newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)}); expected a CSV") from error
    if not rows or not set(COLUMNS[:2]) <= set(rows[0]):
        raise DataError(
            f"{path}: expected rows with the columns {', '.join(COLUMNS)}; it has "
            f"{listing([str(name) for name in rows[0]]) if rows else 'no rows'}"
        )
    concepts = []
    for line, row in enumerate(rows, start=2):
        text, name = (str(row[column] or "").strip() for column in COLUMNS[:2])
        if not text.isdecimal() or not 1 <= int(text) <= _MOST_CONCEPTS:
            raise DataError(
                f"{path}: line {line} has the number {text!r}; expected 1 to {_MOST_CONCEPTS}, "
                "since 0 is no concept"
            )
        if not name:
            raise DataError(f"{path}: line {line} has no name; name every concept")
        concepts.append(Concept(int(text), clean(name), clean(str(row.get("category") or ""))))
    _check_concepts(concepts, path)
    return tuple(concepts)


def _check_concepts(concepts: list[Concept] | tuple[Concept, ...], where: Path) -> None:
    if len(concepts) > _MOST_CONCEPTS:
        raise DataError(f"{where}: names over {_MOST_CONCEPTS} concepts; name fewer")
    for what, values in (
        ("number", [str(concept.number) for concept in concepts]),
        ("name", [f"{concept.category}/{concept.name}".strip("/") for concept in concepts]),
    ):
        seen: set[str] = set()
        for value in values:
            if value in seen:
                raise DataError(f"{where}: two concepts have the {what} {value}; change one")
            seen.add(value)


def _read_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """A mask as an image of whole numbers, from grey, palette or 16 bits.

    Raises:
        DataError: it is damaged, no such PNG, or has another size than its image.
    """
    with (
        _refusals_named(path, "PNG"),
        path.open("rb") as file,
        Image.open(file, formats=("PNG",)) as mask,
    ):
        n_pixels, limit = mask.width * mask.height, Image.MAX_IMAGE_PIXELS
        if limit is not None and n_pixels > limit:
            raise DataError(f"{path}: declares over {limit} pixels; scale the mask down")
        if (mask.height, mask.width) != size:
            raise DataError(
                f"{path}: has {mask.height} x {mask.width} pixels and its image {size[0]} x "
                f"{size[1]}; a mask has the size of its image"
            )
        if mask.mode not in _MASK_MODES:
            raise DataError(
                f"{path}: is a PNG of mode {mask.mode}; a mask has one number a pixel (grey, "
                "palette or 16 bits)"
            )
        return Image.fromarray(np.asarray(mask).astype(np.int32))


@contextmanager
def _refusals_named(path: Path, what: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except DataError:
        raise
    except Exception as error:  # broken bytes can make Pillow raise any error
        raise DataError(f"{path}: is no {what} that can be read ({first_line(error)})") from error


def _shown_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file as it is shown: turned as its EXIF orientation says.

    Raises:
        DataError: the file is no image that can be read.
    """
    with _refusals_named(path, "image"), Image.open(path) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation) in _LYING
        return (image.width, image.height) if turned else (image.height, image.width)


def write_concept_folder(drafts: Drafts, path: Path, drawn: DrawnSet) -> None:
    """Add drawn images, their index masks and their table to the drafts of a folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((c.number, c.name, c.category) for c in drawn.concepts)
    drafts.write(path / CONCEPTS_FILE, text.getvalue().encode())
    width = len(str(len(drawn.pixels)))
    for position, (pixels, mask) in enumerate(zip(drawn.pixels, drawn.masks, strict=True)):
        concept = drawn.concepts[int(drawn.shown[position])]
        name = f"{position:0{width}d}-{concept.name.replace(' ', '-')}.png"
        drafts.write(
            path / IMAGES / name, _png(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        )
        drafts.write(path / MASKS / name, _png(mask.astype(np.uint8) * np.uint8(concept.number)))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
