"""What a run says surely, in words."""

from typing import Any

import pytest

from repairkit.report.wording import known_sentences

KNOWN = {
    "confidence": 0.95,
    "above": 11,
    "below": 1,
    "settled_highest": [1, 2, 5],
    "settled_lowest": [],
    "top_k": 10,
    "expected_overlap": 7.6,
    "times_the_budget": 6.2,
}


def words(n_filters: int = 104, **changed: Any) -> list[str]:
    sentences = known_sentences({"known": KNOWN | changed, "n_filters": n_filters})
    return [sentence.replace("\N{NO-BREAK SPACE}", " ") for sentence in sentences]


def test_signs_the_sure_top_another_seed_and_the_budget_are_told() -> None:
    assert words() == [
        "11 filters are surely above zero, 1 surely below, the sign of 92 is open (95 % for all "
        "together).",
        "The 5 highest are sure; the order behind is open.",
        "Another seed would share about 8 of the top 10.",
        "About 7 times this budget would settle the top 10.",
    ]


@pytest.mark.parametrize(
    ("highest", "lowest", "sentence"),
    [
        ([], [], "No top of the ranking is sure: its order is noise at this budget."),
        ([1], [], "The 1 highest is sure; the order behind is open."),
        ([], [2], "The 2 lowest are sure; the order behind is open."),
        ([1], [1], "The 1 highest and the 1 lowest are sure; the order behind is open."),
        (list(range(1, 101)), [], "The 100 highest are sure."),
    ],
)
def test_the_sure_ends_of_the_ranking(highest: list[int], lowest: list[int], sentence: str) -> None:
    assert words(settled_highest=highest, settled_lowest=lowest)[1] == sentence


def test_what_cannot_be_told_is_left_out() -> None:
    assert known_sentences({"n_filters": 3}) == []
    assert len(words(times_the_budget=None)) == 3
    assert len(words(times_the_budget=1e6)) == 3
    assert len(words(n_filters=12, top_k=12)) == 2


def test_errors_over_images_speak_of_other_images() -> None:
    assert words(errors_over="images")[2:] == [
        "As many other images would share about 8 of the top 10.",
        "About 7 times as many images would settle the top 10.",
    ]
