"""Tables of numbers: which columns the model gets, and what else they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import DataError, SettingsError
from repairkit.data.dataset import Dataset
from repairkit.data.preprocessing import InputSpec, Preprocessing
from repairkit.data.reader import DataRequest, read_data

PLAIN = Preprocessing()


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
