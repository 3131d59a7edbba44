"""Kept rows: what was written is read back, a resumed run goes on, and broken files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import RunFolderError
from repairkit.core.game import ImagePool, Round
from repairkit.core.suite import Annotations
from repairkit.formats.rows_file import (
    DRAFT,
    FOLDER,
    KIND,
    SCHEMA,
    KeptRows,
    RowsDocument,
    RowsWriter,
    ScoredImages,
    read_rows,
)

N_FILTERS, N_IMAGES, N_CLASSES = 11, 5, 3
DOCUMENT: RowsDocument = {
    "schema": SCHEMA,
    "kind": KIND,
    "key": "0" * 64,
    "sites": [{"site": "one", "channels": 4}, {"site": "two", "channels": 7}],
    "layers": None,
    "part": "selection",
    "n_classes": N_CLASSES,
    "form": {"kind": "logits", "columns": None, "threshold": None},
    "class_names": ["a", "b", "c"],
    "group_names": ["x", "y"],
    "of_sets": False,
    "n_data": 9,
}
SCORED = ScoredImages(
    annotations=Annotations(
        labels=np.array([0, 1, 2, 0, 1]),
        groups=np.array([0, 1, 0, 1, 0]),
        group_names=("x", "y"),
        class_names=("a", "b", "c"),
        attributes={"age": np.arange(5), "race": np.array(list("pqpqp"))},
    ),
    numbers=np.array([1, 2, 4, 6, 8]),
    pool=ImagePool(np.full(5, 0.2), np.zeros(5, np.int64)),
)
ENDS = np.random.default_rng(1).random((2, N_IMAGES, N_CLASSES), np.float32)


def round_of(seed: int, n_rows: int, per_row: int | None) -> tuple[Round, np.ndarray]:
    rng = np.random.default_rng(seed)
    coalitions = rng.random((n_rows, N_FILTERS)) < 0.5
    images = None if per_row is None else rng.integers(0, N_IMAGES, (n_rows, per_row))
    n_images = N_IMAGES if per_row is None else per_row
    return Round(coalitions, images), rng.random((n_rows, n_images, N_CLASSES), np.float32)


ROUNDS = [round_of(1, 6, 1), round_of(2, 3, 4), round_of(3, 2, None), round_of(4, 5, 1)]


def write(folder: Path, *, first: int = 0, last: int = len(ROUNDS)) -> RowsWriter:
    writer = RowsWriter(folder, DOCUMENT, SCORED, ENDS, n_told=first + 1 if first else 0)
    writer.check()
    writer.settle(first + 1)
    for number in range(first, last):
        asked, outputs = ROUNDS[number]
        half = len(asked) // 2  # a round may come in parts
        for part in (slice(half), slice(half, None)):
            images = None if asked.images is None else asked.images[part]
            writer.add(Round(asked.coalitions[part], images), outputs[part])
        writer.settle(number + 2)
    return writer


def assert_all_there(rows: KeptRows) -> None:
    kept = list(rows.rounds())
    assert [each.number for each in kept] == [1, 2, 3, 4]
    for each, (asked, outputs) in zip(kept, ROUNDS, strict=True):
        np.testing.assert_array_equal(each.asked.coalitions, asked.coalitions)
        if asked.images is None:
            assert each.asked.images is None
        else:
            np.testing.assert_array_equal(each.asked.images, asked.images)
        np.testing.assert_array_equal(each.outputs, outputs)
        assert each.outputs.dtype == np.float32


def test_what_was_kept_is_read_back(tmp_path: Path) -> None:
    write(tmp_path).finish()
    rows = read_rows(tmp_path)
    assert_all_there(rows)
    np.testing.assert_array_equal(rows.ends, ENDS)
    about = rows.scored.annotations
    assert list(about.attributes) == ["age", "race"]
    np.testing.assert_array_equal(about.attributes["race"], list("pqpqp"))
    np.testing.assert_array_equal(about.groups, [0, 1, 0, 1, 0])
    assert not (tmp_path / DRAFT).exists()
    # Plain files, for any reader.
    assert np.load(tmp_path / FOLDER / "outputs.npy").shape == (6 + 12 + 10 + 5, N_CLASSES)


@pytest.mark.parametrize("stop", range(1, 5))
@pytest.mark.parametrize("lost", [0, 1])
def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path: Path, stop: int, lost: int) -> None:
    writer = write(tmp_path, last=stop)
    asked, outputs = round_of(9, 3, 1)
    writer.add(asked, outputs)  # of a round that the run was not told
    writer.close()
    assert (tmp_path / DRAFT).is_dir()
    with pytest.raises(RunFolderError, match="not finished"):
        read_rows(tmp_path)
    write(tmp_path, first=stop - lost if stop > lost else 0).finish()
    assert_all_there(read_rows(tmp_path))


def test_rows_of_a_round_that_was_not_told_are_dropped(tmp_path: Path) -> None:
    writer = write(tmp_path)
    writer.add(*round_of(9, 3, 1))
    writer.finish()
    assert_all_there(read_rows(tmp_path))


def test_a_finished_run_may_go_on(tmp_path: Path) -> None:
    write(tmp_path, last=2).finish()
    write(tmp_path, first=2).finish()
    assert_all_there(read_rows(tmp_path))


def test_rows_that_were_not_kept_from_the_start_are_refused(tmp_path: Path) -> None:
    writer = RowsWriter(tmp_path, DOCUMENT, SCORED, ENDS, n_told=3)
    with pytest.raises(RunFolderError, match="kept from the start on"):
        writer.check()
    write(tmp_path, last=1).finish()
    with pytest.raises(RunFolderError, match="went on for 3 rounds and kept the rows of 1"):
        writer.check()


def test_a_run_without_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"kept no rows.*--keep-rows"):
        read_rows(tmp_path)


@pytest.mark.parametrize("name", ["parts", "coalitions", "images", "outputs", "ends"])
def test_a_broken_column_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path).finish()
    path = tmp_path / FOLDER / f"{name}.npy"
    whole = np.load(path)
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    broken = [b"", path.read_bytes()[:100], path.read_bytes()[:-1], pickled.read_bytes()]
    for content in broken:
        path.unlink()
        path.write_bytes(content)
        with pytest.raises(RunFolderError, match="cannot be read as kept rows"):
            read_rows(tmp_path)
    path.unlink()
    np.save(path, whole[:-1])
    with pytest.raises(RunFolderError, match="cannot be read as kept rows"):
        read_rows(tmp_path)


def test_positions_beyond_the_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path).finish()
    path = tmp_path / FOLDER / "images.npy"
    images = np.load(path)
    images[3] = N_IMAGES
    path.unlink()
    np.save(path, images)
    with pytest.raises(RunFolderError, match="do not fit together"):
        read_rows(tmp_path)


@pytest.mark.parametrize("entry", sorted(set(DOCUMENT) - {"layers", "form"}))
def test_a_document_that_lacks_an_entry_is_refused(tmp_path: Path, entry: str) -> None:
    write(tmp_path).finish()
    path = tmp_path / FOLDER / "rows.json"
    document = json.loads(path.read_text())
    del document[entry]
    path.write_text(json.dumps(document))
    with pytest.raises(RunFolderError, match="cannot be read as kept rows"):
        read_rows(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("groups", np.array([0, 1, 2, 0, 1])),
        ("numbers", np.array([1, 2, 4, 6, 9])),
        ("numbers", np.array([-1, 2, 4, 6, 8])),
        ("probabilities", np.full(5, np.nan)),
        ("probabilities", np.full(5, 0.9)),
        ("labels", np.array([0, 1])),
    ],
)
def test_images_that_cannot_be_are_refused(tmp_path: Path, name: str, value: np.ndarray) -> None:
    write(tmp_path).finish()
    path = tmp_path / FOLDER / "scored.npz"
    with np.load(path) as stored:
        columns = dict(stored)
    np.savez(path, **{**columns, name: value})
    with pytest.raises(RunFolderError, match="cannot be read as kept rows"):
        read_rows(tmp_path)


@pytest.mark.parametrize("channels", [0, -1, 10**12])
def test_sites_of_no_filters_or_endless_ones_are_refused(tmp_path: Path, channels: int) -> None:
    write(tmp_path).finish()
    path = tmp_path / FOLDER / "rows.json"
    document = json.loads(path.read_text())
    document["sites"][0]["channels"] = channels
    path.write_text(json.dumps(document))
    with pytest.raises(RunFolderError, match="no filters, or too many"):
        read_rows(tmp_path)
