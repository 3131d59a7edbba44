from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import DataError
from repairkit.data.sources.manifest import read_manifest
from tests.data.builders import PLAIN, noise, save_manifest, save_png, spec


def test_paths_are_relative_to_the_manifest_or_absolute(tmp_path: Path) -> None:
    elsewhere = save_png(tmp_path / "elsewhere" / "b.png", noise(8, 8, 3, seed=1))
    (tmp_path / "data").mkdir()
    text = f"path,label\na.png,1\n{elsewhere},0\n"
    manifest = save_manifest(tmp_path / "data" / "m.csv", text, images=["a.png"])
    batch = read_manifest(manifest, spec(), PLAIN).load().images.batch(np.array([0, 1]))
    for image, seed in zip(batch, (0, 1), strict=True):
        assert np.array_equal(image, noise(8, 8, 3, seed=seed).transpose(2, 0, 1))


def test_further_columns_are_attributes_and_split_is_the_split(tmp_path: Path) -> None:
    text = "file_name,label,split,age,sex\na.png,cat,train,30,f\nb.png,dog,2,41.5,m\n"
    records = read_manifest(save_manifest(tmp_path / "m.csv", text), spec(), PLAIN)
    assert records.labels.tolist() == ["cat", "dog"]
    assert records.split is not None
    assert records.split.tolist() == ["train", "2"]
    assert {name: column.tolist() for name, column in records.attributes.items()} == {
        "age": [30.0, 41.5],
        "sex": ["f", "m"],
    }
    assert records.locate(1).endswith("m.csv, row 3")


def test_a_parquet_manifest_is_read_alike(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    save_manifest(tmp_path / "m.csv", "")
    columns = {"path": ["a.png", "b.png"], "label": [1, 0], "zip": ["01", "02"], "split": [1, 2]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "m.parquet")
    records = read_manifest(tmp_path / "m.parquet", spec(), PLAIN)
    assert records.labels.tolist() == [1, 0]
    assert records.attributes["zip"].tolist() == ["01", "02"]
    assert records.split is not None
    assert records.split.tolist() == ["1", "2"]
    assert len(records.load().images) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,1\n", r"has no column path \(or file_name\); found file, label"),
        ("path,lable\na.png,1\n", "has no column label; found path, lable; did you mean 'lable'"),
        ("a;b\nc;d\n", "no column path .* and no column label; found a;b.*separated by commas"),
        ("path,label\na.png,1\n,2\n", "row 3: path is empty"),
        ("path,label\na\0b.png,1\n", "row 2: path holds a zero byte"),
    ],
)
def test_missing_columns_and_paths_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(save_manifest(tmp_path / "m.csv", text), spec(), PLAIN)


def test_a_bad_image_is_named_with_its_row(tmp_path: Path) -> None:
    text = "path,label\na.png,1\nc.png,1\n"
    records = read_manifest(save_manifest(tmp_path / "m.csv", text), spec(), PLAIN)
    with pytest.raises(DataError, match=r"m\.csv, row 3: c\.png: the image does not exist"):
        records.load()
