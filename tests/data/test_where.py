"""Conditions on images: what they hold for, against a plain evaluation, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.errors import SettingsError
from repairkit.data.where import images_where

COLUMNS = {
    "race": np.array(["a", "b", "a b", "and", "7"]),
    "age": np.array([3, 30, -1, 7, 18]),
    "score": np.array([0.5, np.nan, 1.0, -2.5, 7.0]),
    "smiles": np.array([True, False, True, True, False]),
    "eye colour": np.array(["blue", "grey", "", "blue", "true"]),
}
Row = dict[str, object]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("race == 'a'", [1, 0, 0, 0, 0]),
        ('race != "a b"', [1, 1, 0, 1, 1]),
        ("age >= 18", [0, 1, 0, 0, 1]),
        ("score < 1", [1, 0, 0, 1, 0]),
        ("score != 1", [1, 1, 0, 1, 1]),
        ("race in ('a', 'and') and not smiles", [0, 0, 0, 0, 0]),
        ("race not in ['a', 'and']", [0, 1, 1, 0, 1]),
        ("smiles or age == 30", [1, 1, 1, 1, 0]),
        ("not (smiles or age == 30)", [0, 0, 0, 0, 1]),
        ("`eye colour` == 'blue' and smiles == true", [1, 0, 0, 1, 0]),
        ("`eye colour` == true", [0, 0, 0, 0, 1]),
        ("race == 7", [0, 0, 0, 0, 1]),
        ("age == score", [0, 0, 0, 0, 0]),
        ("30 <= age", [0, 1, 0, 0, 0]),
        ("age == 3 or age == 30 and smiles", [1, 0, 0, 0, 0]),
    ],
)
def test_a_condition_holds_for_these_images(condition: str, expected: list[int]) -> None:
    assert images_where(condition, COLUMNS).astype(int).tolist() == expected


def comparisons() -> st.SearchStrategy[tuple[str, Callable[[Row], bool]]]:
    """A comparison as text, and as a function of one image."""
    signs: dict[str, Callable[[float, float], bool]] = {
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        ">=": lambda a, b: a >= b,
    }

    def of_numbers(column: str, sign: str, number: float) -> tuple[str, Callable[[Row], bool]]:
        return f"{column} {sign} {number}", lambda row: signs[sign](float(row[column]), number)  # type: ignore[arg-type]

    def of_texts(sign: str, text: str) -> tuple[str, Callable[[Row], bool]]:
        return f"race {sign} '{text}'", lambda row: (row["race"] == text) == (sign == "==")

    return st.builds(
        of_numbers,
        st.sampled_from(["age", "score"]),
        st.sampled_from(list(signs)),
        st.sampled_from([-2.5, -1, 0.5, 3, 7, 30]),
    ) | st.builds(of_texts, st.sampled_from(["==", "!="]), st.sampled_from(["a", "a b", "and"]))


def conditions() -> st.SearchStrategy[tuple[str, Callable[[Row], bool]]]:
    return st.recursive(
        comparisons(),
        lambda parts: st.one_of(
            st.builds(lambda p: (f"not ({p[0]})", lambda row: not p[1](row)), parts),
            st.builds(
                lambda p, q: (f"({p[0]}) and {q[0]}", lambda row: p[1](row) and q[1](row)),
                parts,
                comparisons(),
            ),
            st.builds(
                lambda p, q: (f"({p[0]}) or ({q[0]})", lambda row: p[1](row) or q[1](row)),
                parts,
                parts,
            ),
        ),
        max_leaves=8,
    )


@settings(max_examples=150, deadline=None)
@given(conditions())
def test_a_condition_is_what_it_says_image_by_image(
    condition: tuple[str, Callable[[Row], bool]],
) -> None:
    text, holds = condition
    rows = [{name: column[i] for name, column in COLUMNS.items()} for i in range(5)]
    assert images_where(text, COLUMNS).tolist() == [bool(holds(row)) for row in rows]


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("sex == 'f'", "there is no column 'sex'; the columns are race, age, score, smiles, `eye"),
        ("rase == 'a'", "did you mean 'race'"),
        ("race == a", "a text stands in quotes: 'a'"),
        ("race = 'a'", "equality is =="),
        ("race < 'b'", "race is text, which < does not compare"),
        ("race", "race is compared with nothing"),
        ("1 == 1", "names no column"),
        ("(age == 3", "a parenthesis is not closed"),
        ("race in 'a'", "'in' needs a list"),
        ("race in ('a'", "a list is not closed"),
        ("age == 3 age == 4", "'age' was not expected"),
        ("", "it ends where a column"),
        ("age ==", "it ends where a column"),
        ("age not 3", "'not' stands before"),
        ("__import__('os')", "there is no column '__import__'"),
        ("age == 3; age", "cannot be read"),
        ("not " * 60 + "smiles", "nested deeper"),
        ("age == 1 or " * 1000 + "age == 1", "characters"),
        ("18 <= age < 30", "'<' was not expected"),
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(condition: str, said: str) -> None:
    with pytest.raises(SettingsError, match=None) as caught:
        images_where(condition, COLUMNS)
    message = str(caught.value)
    assert any(part in message for part in said.split("|")), message
    assert "\n" not in message


@settings(max_examples=300, deadline=None)
@given(st.text("ageris ()[]'\"`=!<>,.-0179andortein\\", max_size=40))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        mask = images_where(text, COLUMNS)
    except SettingsError:
        return
    assert mask.shape == (5,)
    assert mask.dtype == bool
