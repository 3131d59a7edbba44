"""Manifests and tables of numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import DataError, SettingsError
from repairkit.data.dataset import Dataset, Records
from repairkit.data.preprocessing import InputSpec, Preprocessing
from repairkit.data.reader import DataRequest, read_data
from repairkit.data.sources.manifest import read_manifest, read_table
from tests.data.builders import PLAIN, noise, save_manifest, save_png, spec


def from_manifest(path: Path) -> Records:
    return read_manifest(path, read_table(path), spec(), PLAIN)


def test_paths_are_relative_to_the_manifest_or_absolute(tmp_path: Path) -> None:
    elsewhere = save_png(tmp_path / "elsewhere" / "b.png", noise(8, 8, 3, seed=1))
    (tmp_path / "data").mkdir()
    text = f"path,label\na.png,1\n{elsewhere},0\n"
    manifest = save_manifest(tmp_path / "data" / "m.csv", text, images=["a.png"])
    batch = from_manifest(manifest).load().images.batch(np.array([0, 1]))
    for image, seed in zip(batch, (0, 1), strict=True):
        assert np.array_equal(image, noise(8, 8, 3, seed=seed).transpose(2, 0, 1))


def test_further_columns_are_attributes_and_split_is_the_split(tmp_path: Path) -> None:
    text = "file_name,label,split,age,sex\na.png,cat,train,30,f\nb.png,dog,2,41.5,m\n"
    records = from_manifest(save_manifest(tmp_path / "m.csv", text))
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
    records = from_manifest(tmp_path / "m.parquet")
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
        from_manifest(save_manifest(tmp_path / "m.csv", text))


def test_a_bad_image_is_named_with_its_row(tmp_path: Path) -> None:
    text = "path,label\na.png,1\nc.png,1\n"
    records = from_manifest(save_manifest(tmp_path / "m.csv", text))
    with pytest.raises(DataError, match=r"m\.csv, row 3: c\.png: the image does not exist"):
        records.load()


def read(folder: Path, text: str, n: int | None = 2, *, dtype: str = "float32", **more) -> Dataset:
    path = folder / "rows.csv"
    path.write_text(text, encoding="utf-8")
    spec = InputSpec("other", (n,), np.dtype(dtype))
    return read_data(path, DataRequest(spec=spec, preprocessing=more.pop("prepare", PLAIN), **more))


def batch(dataset: Dataset) -> np.ndarray:
    return dataset.images.batch(np.arange(len(dataset.annotations)))


def test_columns_of_numbers_are_the_models_and_the_rest_are_attributes(tmp_path: Path) -> None:
    found = read(tmp_path, "a,sex,b,label,split\n1,f,2.5,1,x\n3,m,4,0,y\n", groups=("sex",))
    assert batch(found).tolist() == [[1.0, 2.5], [3.0, 4.0]]
    assert batch(found).dtype == np.float32
    assert found.annotations.labels.tolist() == [1, 0]
    assert found.annotations.group_names == ("f", "m")
    assert set(found.annotations.attributes) == {"a", "sex", "b"}
    assert found.split is not None
    assert found.split.tolist() == ["x", "y"]
    assert "the columns a, b, in this order" in found.notes[0]


def test_a_feature_can_make_the_groups(tmp_path: Path) -> None:
    found = read(tmp_path, "a,b,label\n1,2,0\n3,2,1\n", groups=("a",))
    assert batch(found).shape == (2, 2)
    assert found.annotations.group_names == ("1", "3")


def test_a_group_of_numbers_that_is_one_too_many_is_no_feature(tmp_path: Path) -> None:
    found = read(tmp_path, "a,g,b,label\n1,0,2,0\n3,1,4,1\n", groups=("g",))
    assert batch(found).tolist() == [[1, 2], [3, 4]]


def test_features_are_taken_in_the_order_named(tmp_path: Path) -> None:
    text = "x1,x2,y,label\n1,2,3,0\n4,5,6,1\n"
    assert batch(read(tmp_path, text, features=("y", "x1"))).tolist() == [[3, 1], [6, 4]]
    assert batch(read(tmp_path, text, 3, features=("y", "x*"))).tolist() == [[3, 1, 2], [6, 4, 5]]


def test_an_empty_cell_is_a_missing_value(tmp_path: Path) -> None:
    found = read(tmp_path, "a,b,label\n1,,0\n nan ,2,1\n")
    np.testing.assert_array_equal(batch(found), [[1, np.nan], [np.nan, 2]])
    assert "2 values are missing" in found.notes[-1]


def test_a_column_without_any_value_is_missing_in_every_row(tmp_path: Path) -> None:
    text = "a,empty,b,label\n1,,2,0\n3,,4,1\n"
    assert batch(read(tmp_path, text)).tolist() == [[1, 2], [3, 4]]
    for features in ((), ("a", "empty", "b")):
        rows = batch(read(tmp_path, text, 3, features=features))
        np.testing.assert_array_equal(rows, [[1, np.nan, 2], [3, np.nan, 4]])


def test_the_digest_tells_features_apart(tmp_path: Path) -> None:
    text = "a,b,c,label\n1,2,3,0\n4,5,6,1\n"
    digests = {read(tmp_path, text, features=f).digest for f in (("a", "b"), ("b", "a"))}
    assert len(digests) == 2


def test_a_parquet_table_is_read_alike(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"a": [1.0, None], "b": [2, 3], "who": ["x", "y"], "label": ["no", "yes"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    found = read_data(
        tmp_path / "rows.parquet",
        DataRequest(spec=InputSpec("other", (2,), np.dtype("float32")), preprocessing=PLAIN),
    )
    np.testing.assert_array_equal(batch(found), [[1, 2], [np.nan, 3]])
    assert found.annotations.class_names == ("no", "yes")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,b,labels\n1,2,0\n", {}, "no column label; found a, b, labels; did you mean 'labels'"),
        ("a,b,c,label\n1,2,3,0\n", {}, "3 columns hold numbers .* the model takes 2; .*--features"),
        ("a,b,label\n1,x,0\n", {}, "1 columns hold numbers"),
        ("a,b,label\n1,x,0\n", {"features": ("a", "b")}, "'b' holds text"),
        ("a,b,label\n1,inf,0\n", {}, "row 2: b is inf"),
        ("a,b,label\n1,1e300,0\n", {}, "row 2: b is 1e\\+300"),
        ("a,b,label\n1,2.5,0\n", {"dtype": "int64"}, "row 2: b is 2.5"),
        ("a,b,label\n1,,0\n", {"dtype": "int64"}, "row 2: b is nan|hold text|1 columns"),
        ("a,b,label\n1,2,0\n", {"dtype": "bool"}, "the model takes bool"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, text: str, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": ("a", "bb")}, "no column 'bb'"),
        ({"features": ("a", "*")}, "names a more than once"),
        ({"prepare": Preprocessing(scale=0.5)}, "leave out what prepares images"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    tmp_path: Path, options: dict, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        read(tmp_path, "a,b,label\n1,2,0\n", **options)
