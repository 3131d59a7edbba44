"""Text is read alike from every source, and codes are never numbers."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.process.text import clean
from repairkit.data.tables import as_text, typed_column, whole_number

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
