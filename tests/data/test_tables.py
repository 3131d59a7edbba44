"""Tables and the text of their cells are read as they are written."""

from __future__ import annotations

import math
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.errors import DataError
from repairkit.core.process.text import clean
from repairkit.data.tables import (
    Table,
    as_text,
    numeric_if_all_numbers,
    read_csv,
    read_parquet,
    typed_column,
    whole_number,
)

WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)


@given(WORDS)
def test_cleaning_is_done_once_and_for_all(text: str) -> None:
    assert clean(clean(text)) == clean(text)


@given(WORDS, st.sampled_from([" ", "\t", "\u00a0", "\u2009", "\u200b", "\ufeff", "\u3000"]))
def test_what_does_not_show_around_a_name_does_not_count(text: str, mark: str) -> None:
    assert clean(mark + text + mark) == clean(text)


@given(WORDS)
def test_composed_and_decomposed_letters_are_one(text: str) -> None:
    assert clean(unicodedata.normalize("NFD", text)) == clean(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("07", "7"), ("a b", "ab"), ("-0", "0")])
def test_all_else_tells_names_apart(one: str, other: str) -> None:
    assert clean(one) != clean(other)


@given(st.lists(st.integers(-(10**15), 10**15), min_size=1))
def test_whole_numbers_as_programs_write_them_are_numbers(numbers: list[int]) -> None:
    column = typed_column(np.array([str(number) for number in numbers]))
    assert column.dtype == np.int64
    assert column.tolist() == numbers


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False).map(abs), min_size=1))
def test_floats_as_python_writes_them_are_numbers(numbers: list[float]) -> None:
    column = typed_column(np.array([repr(number) for number in numbers]))
    assert column.dtype == np.float64
    assert column.tolist() == numbers


@pytest.mark.parametrize(
    "codes",
    [
        ["02134", "10001"],
        ["3", "03"],
        ["5E2", "500"],
        ["12E3", "13E3"],
        ["1", "1.0"],
        ["+1", "2"],
        ["-0", "1"],
        ["1e+2", "100"],
        ["12345678901234567890", "12345678901234567891"],
        ["", ""],
        ["1", "x"],
    ],
)
def test_codes_stay_text(codes: list[str]) -> None:
    column = typed_column(np.array(codes))
    assert column.dtype.kind == "U"
    assert column.tolist() == codes


def test_an_empty_cell_among_numbers_is_a_missing_value() -> None:
    column = typed_column(np.array(["4", "", "5"]))
    assert column[[0, 2]].tolist() == [4.0, 5.0]
    assert np.isnan(column[1])
    assert [as_text(value) for value in column.tolist()] == ["4", "", "5"]


@pytest.mark.parametrize(
    ("text", "number"),
    [("7", 7), ("7.0", 7), ("-1", -1), ("0", 0), ("07", None), ("-0", None), ("7e0", None),
     ("+7", None), ("", None), ("9" * 5000, None)],
)  # fmt: skip
def test_a_class_number_is_written_plainly(text: str, number: int | None) -> None:
    assert whole_number(text) == number


def csv(tmp_path: Path, content: str | bytes, name: str = "a.csv") -> Table:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_csv(path)


def test_a_csv_is_read_as_text_with_the_rows_a_user_sees(tmp_path: Path) -> None:
    table = csv(tmp_path, 'path, label\r\n"a,1.png", cat\r\n\r\nb.png,"x\ny"\r\n')
    assert {name: column.tolist() for name, column in table.columns.items()} == {
        "path": ["a,1.png", "b.png"],
        "label": ["cat", "x\ny"],
    }
    assert list(table.row_numbers) == [2, 5]


def test_a_byte_order_mark_and_an_unnamed_index_do_no_harm(tmp_path: Path) -> None:
    table = csv(tmp_path, "\ufeffpath,,label\na.png,0,1\n")
    assert list(table.columns) == ["path", "label"]


def test_a_tsv_is_separated_by_tabs(tmp_path: Path) -> None:
    assert list(csv(tmp_path, "path\tlabel\na,b.png\t1\n", "a.tsv").columns) == ["path", "label"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected a header"),
        ("\n\n", "is empty; expected a header"),
        ("path,label\n", "has a header and no rows"),
        ("path,label\na.png\n", r"row 2: has 1 values and the header names 2 columns"),
        ("path,label\na.png,1\nb.png,2,3\n", "row 3: has 3 values"),
        ("path,label,path\na,b,c\n", "the header names path more than once"),
        ('path,label\n"a.png,1\n', "row 2: is no valid CSV"),
        (b"path,label\n\xff.png,1\n", "is not UTF-8 text"),
    ],
)
def test_a_malformed_csv_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        csv(tmp_path, content)


def test_a_csv_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_csv(tmp_path)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "-2", "+3"], "i"),
        (["1", "2.5", ".5", "1e3", "NaN", "-inf"], "f"),
        (["99999999999999999999"], "f"),
        (["1", ""], "U"),
        (["1_000"], "U"),
        (["1", "a"], "U"),
    ],
)
def test_a_column_is_numeric_only_if_every_value_is(texts: list[str], kind: str) -> None:
    assert numeric_if_all_numbers(np.array(texts)).dtype.kind == kind


@given(st.lists(st.floats(), min_size=1))
def test_numbers_survive_being_text(values: list[float]) -> None:
    read = numeric_if_all_numbers(np.array([repr(value) for value in values]))
    assert np.array_equal(read, values, equal_nan=True)


def write_parquet(target: Path, /, **columns: list[object]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), target)
    return target


def test_a_parquet_file_keeps_its_types(tmp_path: Path) -> None:
    table = read_parquet(
        write_parquet(
            tmp_path / "a.parquet",
            path=["a.png", "b.png"],
            label=[1, 2],
            age=[1.5, None],
            count=[1, None],
            code=["07", None],
            flag=[True, False],
            box=[[1, 2], [3]],
        )
    )
    assert list(table.row_numbers) == [1, 2]
    kinds = {name: column.dtype.kind for name, column in table.columns.items()}
    assert kinds == {"path": "U", "label": "i", "age": "f", "count": "f", "code": "U", "flag": "b"}
    assert math.isnan(table.columns["age"][1])
    assert table.columns["code"].tolist() == ["07", ""]


def test_a_folder_name_adds_no_column_to_a_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "split=train").mkdir()
    path = write_parquet(tmp_path / "split=train" / "a.parquet", path=["a"], label=[1])
    assert list(read_parquet(path).columns) == ["path", "label"]


def test_a_broken_or_empty_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", path=["a"] * 50, label=[1] * 50)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="is no Parquet file that can be read"):
        read_parquet(path)
    with pytest.raises(DataError, match="has no rows"):
        read_parquet(write_parquet(tmp_path / "b.parquet", path=[], label=[]))


def test_a_missing_pyarrow_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow.*pip install 'repairkit\[parquet\]'"):
        read_parquet(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("moments", "read"),
    [
        (["2019-02-03", None, "2020-12-31"], ["2019-02-03", "", "2020-12-31"]),
        (["2019-02-03 00:00", "2019-02-03 12:30"], ["2019-02-03 00:00:00", "2019-02-03 12:30:00"]),
    ],
)
def test_days_in_a_parquet_file_are_written_as_pandas_writes_them_to_a_csv(
    tmp_path: Path, moments: list[str | None], read: list[str]
) -> None:
    import pyarrow
    from pyarrow import parquet

    times = np.array(moments, dtype="datetime64[us]")
    table = pyarrow.table({"day": pyarrow.array(times, type=pyarrow.timestamp("us"))})
    parquet.write_table(table, tmp_path / "d.parquet")
    assert read_parquet(tmp_path / "d.parquet").columns["day"].tolist() == read
