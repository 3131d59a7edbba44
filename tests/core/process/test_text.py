"""Text that is shown steers no terminal, no cell of a table is a formula, and names are listed."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.errors import SettingsError
from repairkit.core.process.text import (
    check_keys,
    counted,
    decoded,
    first_line,
    from_cell,
    listing,
    plain_cell,
    printable,
)
from repairkit.formats.documents import to_json

ODD = st.text(st.characters() | st.sampled_from("=+-@'\t\r\n\x1b\x9b\u202e\ud800[]/"))


@given(ODD)
def test_nothing_unprintable_is_left(text: str) -> None:
    shown = printable(text)
    assert shown.replace("\n", "").isprintable()
    shown.encode("utf-8")


@given(st.text(st.characters(categories=["L", "N", "P"])))
def test_what_prints_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


@given(ODD)
def test_a_cell_is_no_formula_and_reads_back(text: str) -> None:
    cell = plain_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert from_cell(cell) == text


@given(ODD.filter(lambda text: "\ud800" not in text))
def test_a_name_survives_the_csv(text: str) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow([plain_cell(text), "1"])
    row = next(csv.reader(io.StringIO(file.getvalue(), newline="")))
    assert from_cell(row[0]) == text


@given(st.recursive(ODD, lambda inner: st.lists(inner) | st.dictionaries(ODD, inner)))
def test_json_is_printable_and_means_the_same(document: object) -> None:
    text = to_json(document)
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == document


@given(st.text())
def test_text_is_read_with_and_without_a_mark(text: str) -> None:
    plain = text.removeprefix("\ufeff")
    assert decoded(plain.encode("utf-8")) == plain.removeprefix("\ufeff")
    assert decoded(plain.encode("utf-8-sig")) == plain


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_with_a_mark_are_named(encoding: str) -> None:
    mark = "" if encoding in ("utf-16", "utf-32") else "\ufeff"
    with pytest.raises(ValueError, match="save it as UTF-8"):
        decoded((mark + "model = 1").encode(encoding))


@given(st.integers(0, 10**6))
def test_only_one_thing_is_counted_without_an_s(n: int) -> None:
    number, noun = counted(n, "filter").split()
    assert int(number.replace(",", "")) == n
    assert (noun == "filter") == (n == 1)


def test_an_unknown_key_is_refused_with_the_known_ones_and_a_guess() -> None:
    with pytest.raises(SettingsError, match=r"here: unknown key 'crp'; did you mean 'crop'\?.*std"):
        check_keys(["crp"], ["crop", "std"], "here")


def test_a_long_list_of_names_is_cut() -> None:
    assert listing([str(i) for i in range(20)]).endswith("... (8 more)")


def test_only_the_first_line_of_an_error_is_kept() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"
