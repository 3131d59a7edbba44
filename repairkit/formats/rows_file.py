"""Rows that a run kept: coalitions, the images they were tried on, and the model's outputs.

They lie in the folder `rows` of a run folder, a plain `.npy` file per column, so that NumPy alone
reads them, maps them into memory, and writes them piece by piece. `coalitions` holds a row of bits
for each coalition (`numpy.packbits`; one where a filter is present), `images` and `outputs` an
entry for each image of each row, in that order. `parts` says how entries belong to rows: (rows,
images of each row, round), where 0 images stand for all of them, in order. Outputs keep the
model's own type, so that nothing is lost. `ends` are the outputs of all images with all filters and
with none. `scored.npz` holds what is known of each image.

While a run goes on, the folder is called `rows.part`. The header of each file is renewed after each
piece, and `parts` is written last: what it does not tell of is not there.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, game
from repairkit.core.process.writing import together
from repairkit.core.suite import Annotations, Array
from repairkit.formats.documents import fault_of, read_json, to_json

SCHEMA = 1
KIND = "repairkit rows"
FOLDER, DRAFT = "rows", "rows.part"
_HEADER_BYTES = 256
_MOST_FILTERS = 10**6
_ATTRIBUTE = "attribute:"


class KeptSite(TypedDict):
    """A site and how many filters it has."""

    site: str
    channels: int


class KeptForm(TypedDict):
    """How outputs are read; see `core.outputs.OutputForm`."""

    kind: str
    columns: list[int] | None
    threshold: float | None


class RowsDocument(TypedDict):
    """`rows.json`: the game that the rows were played in.

    `form` is None where only a user's own metric can judge the outputs. `of_sets` is true where
    every coalition was tried on all images, since a metric judges them together.
    """

    schema: int
    kind: str
    key: str
    sites: list[KeptSite]
    layers: dict[str, Any] | None
    part: str
    n_classes: int
    form: KeptForm | None
    class_names: list[str]
    group_names: list[str]
    of_sets: bool
    n_data: int


class KeptCounts(TypedDict):
    """The rows that a run kept, and the bytes that they take."""

    rows: int
    bytes: int


class AskedOf(TypedDict):
    """The run whose rows gave these values, and the images that the question was about.

    `where` is the choice of the images in words, empty for all; `n_rows` rows saw one of them.
    """

    run: str
    key: str
    where: str
    n_images: int
    n_rows: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredImages:
    """What is known of the images of a game.

    Attributes:
        annotations: of each image.
        numbers: of the images in the data, from 0 on, (n_images,).
        pool: how often each was drawn.
    """

    annotations: Annotations
    numbers: NDArray[np.int64]
    pool: game.ImagePool


@dataclass(frozen=True, eq=False)
class KeptRound:
    """A round of a run: what was asked, and the outputs, (n_rows, n_images, ...)."""

    number: int
    asked: game.Round
    outputs: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptRows:
    """The rows of a run, most of them still on the disk."""

    document: RowsDocument
    scored: ScoredImages
    ends: Array
    parts: NDArray[np.int64]
    coalitions: NDArray[np.uint8]
    images: NDArray[np.int32]
    outputs: Array

    @property
    def n_filters(self) -> int:
        return sum(site["channels"] for site in self.document["sites"])

    @property
    def n_rounds(self) -> int:
        """Rounds that were told, all filters and none included."""
        return 1 + int(self.parts[-1, 2]) if len(self.parts) else 1

    def rounds(self) -> Iterator[KeptRound]:
        """The rounds after the one of all filters and none, one after another."""
        edges = np.flatnonzero(np.diff(self.parts[:, 2], prepend=-1, append=-1)).tolist()
        row, entry = 0, 0
        for first, last in pairwise(edges):
            n_rows, per_row = int(self.parts[first:last, 0].sum()), int(self.parts[first, 1])
            n_images = per_row or len(self.scored.numbers)
            bits = self.coalitions[row : row + n_rows]
            n_entries = n_rows * n_images
            drawn = None
            if per_row:
                images = self.images[entry : entry + n_entries].astype(np.intp)
                drawn = images.reshape(n_rows, n_images)
            outputs = np.asarray(self.outputs[entry : entry + n_entries])
            coalitions = np.unpackbits(bits, axis=1, count=self.n_filters).astype(bool)
            yield KeptRound(
                int(self.parts[first, 2]),
                game.Round(coalitions, drawn),
                outputs.reshape(n_rows, n_images, *outputs.shape[1:]),
            )
            row, entry = row + n_rows, entry + n_entries


def bytes_of_row(n_filters: int, n_images: int, of_output: int) -> int:
    """What a row takes on the disk.

    Args:
        n_filters: of the game.
        n_images: of the row.
        of_output: bytes of the outputs of one image.
    """
    return -(-n_filters // 8) + n_images * (4 + of_output)


# Writing


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The header of an `.npy` file, version 1, of a fixed length whatever the shape."""
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    text = repr(facts).ljust(_HEADER_BYTES - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1")


class _Column:
    """An `.npy` file that grows along its first axis."""

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], length: int):
        self.dtype, self.shape, self.length = dtype, shape, length
        self._each = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        self._file: BinaryIO = path.open("r+b" if path.exists() else "w+b")
        self._renew_header()

    def add(self, rows: Array) -> None:
        self._file.seek(_HEADER_BYTES + self.length * self._each)
        self._file.write(np.ascontiguousarray(rows, self.dtype).tobytes())
        self.length += len(rows)
        self._renew_header()

    def _renew_header(self) -> None:
        self._file.seek(0)
        self._file.write(_header(self.dtype, (self.length, *self.shape)))
        self._file.flush()

    def close(self) -> None:
        """Cut off what was begun and not finished."""
        self._renew_header()
        self._file.truncate(_HEADER_BYTES + self.length * self._each)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class RowsWriter:
    """Writes the rows of a run as it goes on; nothing before its first round.

    Args:
        folder: the run folder.
        document: what is known before any row.
        scored: the images.
        ends: outputs of all images with all filters and with none.
        n_told: rounds that the run had been told when it began here; more than 0 where it is
            resumed.
    """

    def __init__(
        self,
        folder: Path,
        document: RowsDocument,
        scored: ScoredImages,
        ends: Array,
        *,
        n_told: int,
    ) -> None:
        self.folder, self.document, self.scored, self.ends = folder, document, scored, ends
        self.n_told = n_told
        self._columns: dict[str, _Column] = {}
        self._told: dict[str, int] = {}

    @property
    def place(self) -> Path:
        """Where rows lie now."""
        draft, final = self.folder / DRAFT, self.folder / FOLDER
        return final if final.is_dir() and not draft.is_dir() else draft

    def check(self) -> None:
        """Check that the rows of the rounds so far are there.

        Raises:
            RunFolderError: they are not.
        """
        if self.n_told <= 1:
            return
        known = set(_load(self.place, "parts")[:, 2].tolist()) if self.place.is_dir() else set()
        if not set(range(1, self.n_told)) <= known:
            raise errors.RunFolderError(
                f"{self.folder}: the run there went on for {self.n_told:,} rounds and kept the "
                f"rows of {len(known):,}; rows can only be kept from the start on: leave "
                "--keep-rows out, or choose another place with -o"
            )

    def add(self, asked: game.Round, outputs: Array) -> None:
        """Take in rows of the round that follows those told.

        Raises:
            RunFolderError: they cannot be written.
        """
        n_rows, per_row = len(asked), 0 if asked.images is None else asked.images.shape[1]
        everyone = np.arange(len(self.scored.numbers))
        images = np.tile(everyone, n_rows) if asked.images is None else asked.images.reshape(-1)
        with self._writing():
            columns = self._columns or self._open(outputs.dtype, outputs.shape[2:])
            columns["coalitions"].add(np.packbits(asked.coalitions, axis=1))
            columns["outputs"].add(outputs.reshape(-1, *outputs.shape[2:]))
            columns["images"].add(images)
            columns["parts"].add(np.array([[n_rows, per_row, self.n_told]]))

    def settle(self, n_rounds: int) -> None:
        """The run was told what was added; `n_rounds` in all."""
        self.n_told = n_rounds
        self._told = {name: column.length for name, column in self._columns.items()}

    def size(self) -> tuple[int, int]:
        """Rows so far, and bytes on the disk."""
        if not self.place.is_dir():
            return 0, 0
        n_rows = int(_load(self.place, "parts")[:, 0].sum())
        return n_rows, sum(path.stat().st_size for path in self.place.iterdir())

    def finish(self) -> None:
        """Give the folder its final name, without rows that the run was not told.

        Raises:
            RunFolderError: that cannot be done.
        """
        with self._writing():
            if not self._columns and self.place == self.folder / DRAFT:
                self._open(self.ends.dtype, self.ends.shape[2:])
            for name, length in self._told.items():
                self._columns[name].length = length
            self.close()
            if (self.folder / DRAFT).is_dir():
                (self.folder / DRAFT).rename(self.folder / FOLDER)

    def close(self) -> None:
        """Leave the draft for a run that is resumed."""
        for column in self._columns.values():
            column.close()
        self._columns = {}

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise errors.RunFolderError(
                f"{self.folder / DRAFT}: cannot be written ({error.strerror or error}); free space "
                "and go on with --resume"
            ) from error

    def _open(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> dict[str, _Column]:
        draft, n_images = self.folder / DRAFT, len(self.scored.numbers)
        if self.place != draft:
            self.place.rename(draft)
        draft.mkdir(parents=True, exist_ok=True)
        settle = np.zeros((0, 3), np.int64)
        if self.n_told > 1:
            parts = _load(draft, "parts")
            settle = parts[parts[:, 2] < self.n_told]
        each = np.where(settle[:, 1] == 0, n_images, settle[:, 1])
        n_rows, n_entries = int(settle[:, 0].sum()), int((settle[:, 0] * each).sum())
        n_bytes = -(-sum(site["channels"] for site in self.document["sites"]) // 8)
        _write_static(draft, self.document, self.scored, self.ends)
        for name, kind, of_each, length in (
            ("parts", np.dtype("<i8"), (3,), len(settle)),
            ("coalitions", np.dtype("u1"), (n_bytes,), n_rows),
            ("images", np.dtype("<i4"), (), n_entries),
            ("outputs", dtype, shape, n_entries),
        ):
            self._columns[name] = _Column(draft / f"{name}.npy", kind, of_each, length)
            self._told[name] = length
        return self._columns


def _write_static(folder: Path, document: RowsDocument, scored: ScoredImages, ends: Array) -> None:
    """What does not grow."""
    about, pool = scored.annotations, scored.pool
    columns: dict[str, Array] = {
        "labels": about.labels,
        "numbers": scored.numbers,
        "probabilities": pool.probabilities,
        "strata": pool.strata,
    }
    if about.groups is not None:
        columns["groups"] = about.groups
    columns |= {f"{_ATTRIBUTE}{name}": column for name, column in about.attributes.items()}
    with together() as drafts:
        drafts.write(folder / "rows.json", to_json(document).encode())
        with drafts.open(folder / "scored.npz") as file:
            np.savez(file, **cast(dict[str, Any], columns))
        with drafts.open(folder / "ends.npy") as file:
            np.save(file, ends, allow_pickle=False)


# Reading


def read_rows(folder: Path) -> KeptRows:
    """The rows that the run in a folder kept.

    Raises:
        RunFolderError: it kept none, or they are broken.
    """
    place = folder / FOLDER
    if not place.is_dir():
        if (folder / DRAFT).is_dir():
            raise errors.RunFolderError(
                f"{folder}: its rows are not finished; go on with score --resume"
            )
        raise errors.RunFolderError(
            f"{folder}: kept no rows, so that nothing can be asked of it; score with --keep-rows "
            "and the method regression, repair or auto"
        )
    document = read_json(place / "rows.json", "kept rows")
    fault = fault_of(document, RowsDocument)
    if not fault and (document["schema"], document["kind"]) != (SCHEMA, KIND):
        fault = f"schema {SCHEMA} of {KIND} was expected"
    if not fault and not all(0 < site["channels"] <= _MOST_FILTERS for site in document["sites"]):
        fault = "a site has no filters, or too many"
    if fault:
        raise _broken(place, fault)
    known = cast(RowsDocument, {"layers": None, "form": None} | document)
    rows = KeptRows(
        document=known,
        scored=_read_scored(place, known),
        ends=_load(place, "ends"),
        parts=_load(place, "parts"),
        coalitions=_load(place, "coalitions"),
        images=_load(place, "images"),
        outputs=_load(place, "outputs"),
    )
    _check(place, rows)
    return rows


def _broken(place: Path, fault: object) -> errors.RunFolderError:
    return errors.RunFolderError(
        f"{place}: cannot be read as kept rows ({fault}); score the model again with --keep-rows"
    )


def _load(place: Path, name: str) -> Array:
    path = place / f"{name}.npy"
    try:
        small = path.stat().st_size <= _HEADER_BYTES  # an empty array cannot be mapped
        array: Array = np.load(path, mmap_mode=None if small else "r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        raise _broken(path, error) from error
    return array


def _read_scored(place: Path, document: RowsDocument) -> ScoredImages:
    path = place / "scored.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns: Mapping[str, Array] = {name: stored[name] for name in stored.files}
        about = Annotations(
            labels=columns["labels"],
            groups=columns.get("groups"),
            group_names=tuple(document["group_names"]),
            class_names=tuple(document["class_names"]),
            attributes={
                name.removeprefix(_ATTRIBUTE): column
                for name, column in columns.items()
                if name.startswith(_ATTRIBUTE)
            },
        )
        pool = game.ImagePool(columns["probabilities"], columns["strata"])
        scored = ScoredImages(annotations=about, numbers=columns["numbers"], pool=pool)
    except (OSError, ValueError, EOFError, KeyError, SyntaxError, TypeError) as error:
        raise _broken(path, error) from error
    lengths = {array.shape for array in columns.values()}
    if lengths != {(len(about.labels),)} or not len(about.labels):
        raise _broken(path, "its columns have different lengths")
    within = [(scored.numbers, document["n_data"])]
    if about.groups is not None:
        within.append((about.groups, len(about.group_names)))
    if any(n.dtype.kind != "i" or n.min() < 0 or n.max() >= most for n, most in within):
        raise _broken(path, "a number of an image or a group is out of range")
    shares = pool.probabilities
    if shares.dtype.kind != "f" or not (shares >= 0).all() or not 0.99 < shares.sum() < 1.01:
        raise _broken(path, "its probabilities do not add up to one")
    return scored


def _check(place: Path, rows: KeptRows) -> None:
    """Check that the columns fit together.

    Raises:
        RunFolderError: they do not.
    """
    parts, n_images = rows.parts, len(rows.scored.numbers)
    faults = [
        (parts.ndim != 2 or parts.shape[1:] != (3,) or parts.dtype.kind != "i", "parts"),
        (rows.coalitions.dtype != np.uint8 or rows.coalitions.ndim != 2, "coalitions"),
        (rows.images.dtype.kind != "i" or rows.images.ndim != 1, "images"),
        (rows.outputs.dtype.kind not in "fiub" or rows.outputs.ndim < 1, "outputs"),
        (rows.ends.shape != (2, n_images, *rows.outputs.shape[1:]), "ends"),
    ]
    for bad, name in faults:
        if bad:
            raise _broken(place / f"{name}.npy", "another shape or type than expected")
    each = np.where(parts[:, 1] == 0, n_images, parts[:, 1])
    n_entries = int((parts[:, 0] * each).sum())
    if (
        (parts < 0).any()
        or (np.diff(parts[:, 2]) < 0).any()
        or rows.coalitions.shape != (int(parts[:, 0].sum()), -(-rows.n_filters // 8))
        or len(rows.images) != n_entries
        or len(rows.outputs) != n_entries
        or (n_entries and not 0 <= int(rows.images.min()) <= int(rows.images.max()) < n_images)
    ):
        raise _broken(place, "its columns do not fit together")
