"""The same rows mean the same from a CSV, a Parquet file, an archive and a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import DataError
from repairkit.data.dataset import Dataset
from repairkit.data.reader import DataRequest, read_data
from tests.data.builders import PLAIN, noise, save_png, spec

pyarrow = pytest.importorskip("pyarrow")
SOURCES = ("csv", "parquet", "npz", "folder")


def save(place: Path, source: str, labels: list[str], typed: list[object] | None = None) -> Path:
    """Four images and their labels; `typed` are the labels of sources that have types."""
    place.mkdir()
    names = [f"{index}.png" for index in range(len(labels))]
    pixels = [noise(8, 8, 3, seed=index) for index in range(len(labels))]
    values = labels if typed is None else typed
    if source == "folder":
        for name, label, image in zip(names, labels, pixels, strict=True):
            save_png(place / label / name, image)
        return place
    if source == "npz":
        np.savez(place / "d.npz", x=np.stack(pixels), y=np.array(values))
        return place / "d.npz"
    for name, image in zip(names, pixels, strict=True):
        save_png(place / name, image)
    if source == "csv":
        rows = [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
        (place / "d.csv").write_text("path,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
        return place / "d.csv"
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"path": names, "label": values}), place / "d.parquet")
    return place / "d.parquet"


def read(place: Path, **options: object) -> Dataset:
    request = DataRequest(spec=spec(), preprocessing=PLAIN, **options)  # type: ignore[arg-type]
    return read_data(place, request)


def by_image(data: Dataset) -> dict[bytes, int]:
    """Labels by the image's own bytes, since a folder has an order of its own."""
    images = data.images.batch(np.arange(len(data.images)))
    return {
        image.tobytes(): int(label)
        for image, label in zip(images, data.annotations.labels, strict=True)
    }


@pytest.mark.parametrize(
    ("labels", "typed", "names", "n_classes", "expected"),
    [
        (["2", "0", "1", "2"], [2, 0, 1, 2], (), 3, [2, 0, 1, 2]),
        (["4", "9", "4", "9"], [4, 9, 4, 9], (), 12, [4, 9, 4, 9]),
        (["2", "1", "2", "1"], [2, 1, 2, 1], ("2", "1"), 2, [0, 1, 0, 1]),
        (["5", "3", "5", "3"], [5.0, 3.0, 5.0, 3.0], ("5", "3"), 2, [0, 1, 0, 1]),
        (["-1", "1", "1", "-1"], [-1, 1, 1, -1], ("-1", "1"), 2, [0, 1, 1, 0]),
        (["b", "a", "b", "c"], None, (), 3, [1, 0, 1, 2]),
        (["b", "a", "b", "c"], None, ("c", "b", "a"), 3, [1, 2, 1, 0]),
        (["003", "03", "3", "003"], None, (), 3, [0, 1, 2, 0]),
        (["True", "False", "True", "True"], [True, False, True, True], (), 2, [1, 0, 1, 1]),
        (["True", "True", "True", "True"], [True] * 4, (), 2, [1, 1, 1, 1]),
    ],
)
def test_a_label_means_the_same_from_every_source(
    tmp_path: Path,
    labels: list[str],
    typed: list[object] | None,
    names: tuple[str, ...],
    n_classes: int,
    expected: list[int],
) -> None:
    found = {
        source: by_image(
            read(
                save(tmp_path / source, source, labels, typed),
                class_names=names,
                n_classes=n_classes,
            )
        )
        for source in SOURCES
    }
    assert list(found["csv"].values()) == expected
    assert all(one == found["csv"] for one in found.values())


@pytest.mark.parametrize(
    ("labels", "typed", "names", "n_classes", "words"),
    [
        (["-1", "1"], [-1, 1], (), 2, "label -1 is outside.*--classes=-1,1"),
        (["4", "9"], [4, 9], (), 2, "outside the classes 0 to 1.*--classes=4,9"),
        (["1", "2"], [1, 2], ("2", "3"), 2, "names for every image or class numbers"),
        (["04", "09"], None, (), 12, "04, 09 are 2 codes"),
        (["cat", "dgo"], None, ("cat", "dog"), 2, "'dgo' is none of the classes"),
    ],
)
@pytest.mark.parametrize("source", SOURCES)
def test_what_could_mean_either_is_asked_from_every_source(
    tmp_path: Path,
    source: str,
    labels: list[str],
    typed: list[object] | None,
    names: tuple[str, ...],
    n_classes: int,
    words: str,
) -> None:
    place = save(tmp_path / source, source, labels, typed)
    with pytest.raises(DataError, match=words):
        read(place, class_names=names, n_classes=n_classes)


def test_names_that_look_alike_are_one(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    labels = [composed, decomposed, f"{composed}\u00a0", "tea"]
    for source in SOURCES:
        data = read(save(tmp_path / source, source, labels), n_classes=2)
        assert data.annotations.class_names == (composed, "tea")
        assert any("look alike" in note for note in data.notes)


def test_codes_of_groups_stay_apart_and_a_typed_column_has_the_same_groups(
    tmp_path: Path,
) -> None:
    for index in range(3):
        save_png(tmp_path / f"{index}.png", noise(8, 8, 3, seed=index))
    (tmp_path / "codes.csv").write_text(
        "path,label,ward,year\n0.png,0,3E1,1999\n1.png,1,030,2001\n2.png,1,30,1999\n"
    )
    data = read(tmp_path / "codes.csv", groups=("ward",))
    assert data.annotations.group_names == ("030", "30", "3E1")
    from pyarrow import parquet

    table = {"path": ["0.png", "1.png", "2.png"], "label": [0, 1, 1], "year": [1999, 2001, 1999]}
    parquet.write_table(pyarrow.table(table), tmp_path / "years.parquet")
    names = [
        read(tmp_path / name, groups=("year",)).annotations.group_names
        for name in ("codes.csv", "years.parquet")
    ]
    assert names == [("1999", "2001")] * 2


def test_a_split_is_read_without_blanks_and_capitals_and_the_rest_is_counted(
    tmp_path: Path,
) -> None:
    splits = ["Calibration", "selection\u200b", " TEST", "tset", ""]
    rows = [f"{index}.png,{index % 2},{split}" for index, split in enumerate(splits)]
    for index in range(5):
        save_png(tmp_path / f"{index}.png", noise(8, 8, 3, seed=index))
    (tmp_path / "d.csv").write_text("path,label, Split\u00a0\n".lower() + "\n".join(rows))
    data = read(tmp_path / "d.csv")
    assert data.split is not None
    assert data.split.tolist() == ["calibration", "selection", "test", "tset", ""]
    assert any("without blanks and capitals" in note for note in data.notes)
    from repairkit.data.parts import PartPlan, split_parts

    parts = split_parts(data, PartPlan(), seed=0)
    assert parts.n_unused == 2
    assert "2 of 5 images are in no part" in parts.notes[0]
    assert "none (1)" in parts.notes[0]
    assert "'tset' (1)" in parts.notes[0]


def test_what_a_folder_holds_beside_images_is_counted(tmp_path: Path) -> None:
    save_png(tmp_path / "a" / "0.png", noise(8, 8, 3))
    save_png(tmp_path / "b" / "1.PNG", noise(8, 8, 3, seed=1))
    for name in ("a/x.gif", "a/y.heic", "b/Thumbs.db", "b/z.gif", "b/.DS_Store", "a/noend"):
        (tmp_path / name).write_bytes(b"x")
    told = " ".join(read(tmp_path).left_out)
    assert "5 file(s)" in told
    assert ".gif (2)" in told
    assert "no suffix (1)" in told
    assert "1 hidden" in told


def test_paths_as_another_system_writes_them_are_found(tmp_path: Path) -> None:
    save_png(tmp_path / "more" / "caf\u00e9.png", noise(8, 8, 3))
    (tmp_path / "d.csv").write_text("path,label\nmore\\cafe\u0301.png,0\nmore/caf\u00e9.png,1\n")
    data = read(tmp_path / "d.csv")
    assert len(data.images) == 2
    assert any("with different labels" in note for note in data.notes)
