"""Whether values call harmful what the model lives on."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.filters import Filter
from repairkit.core.metric import Measure
from repairkit.core.scores import Scores
from repairkit.formats.curve_file import CurveDocument
from repairkit.jobs.score.collapse import (
    collapse_in_words,
    collapse_on_curve,
    find_collapse,
    floor_note,
    overlap_by_chance,
)
from repairkit.metrics.catalogue import measure_of

N = 100
FILTERS = [Filter("conv", channel) for channel in range(N)]
ROBUSTNESS = measure_of("robustness")


def scores(v: Any, accuracy: Any, metric: str = "robustness") -> Scores:
    values = np.stack([np.asarray(v, float), np.asarray(accuracy, float)], axis=1)
    return Scores.plain((metric, "clean_accuracy"), values)


def found(v: Any, accuracy: Any, measure: Measure = ROBUSTNESS, **more: Any) -> Any:
    return find_collapse(scores(v, accuracy), measure, "clean_accuracy", FILTERS, **more)


@given(n=st.integers(1, 9), data=st.data())
def test_chance_is_that_of_counting_all_sets(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    overlap = data.draw(st.integers(0, k))
    fixed = set(range(k))
    shared = [len(fixed & set(other)) >= overlap for other in combinations(range(n), k)]
    assert overlap_by_chance(overlap, k, n) == pytest.approx(np.mean(shared))


def test_the_same_filters_on_both_sides_are_told() -> None:
    worth = np.linspace(1, -1, N)
    collapse = found(worth, worth)
    assert collapse["k"] == collapse["overlap"] == 20
    assert collapse["expected"] == pytest.approx(4)
    assert collapse["filters"] == [each.id for each in FILTERS[:20]]
    words = collapse_in_words(collapse, ROBUSTNESS, {"all": 0.2, "none": 0.0})
    assert "20 are among the 20" in words
    assert "0.0 %, better than 20.0 % with all" in words
    assert "--metric robustness_above:0.7" in words
    # Where more is better, the lowest values harm.
    assert found(worth, worth, measure_of("group_accuracy")) is None
    assert found(-worth, worth, measure_of("group_accuracy"))["overlap"] == 20


def test_other_filters_few_filters_and_chance_are_not_told() -> None:
    worth = np.linspace(1, -1, N)
    assert found(worth, worth[::-1]) is None
    rng = np.random.default_rng(0)
    told = [found(rng.permutation(worth), worth) for _ in range(300)]
    assert told == [None] * 300
    assert found(-np.ones(N), worth) is None  # nothing is called harmful
    few = scores(worth[:8], worth[:8])
    assert find_collapse(few, ROBUSTNESS, "clean_accuracy", FILTERS[:8]) is None
    assert find_collapse(scores(worth, worth), ROBUSTNESS, "accuracy", FILTERS) is None
    floored = scores(worth, worth, "robustness_above:0.5")
    assert find_collapse(floored, ROBUSTNESS, "clean_accuracy", FILTERS) is None


def test_filters_that_are_not_ranked_do_not_count() -> None:
    worth = np.linspace(1, -1, N)
    collapse = found(worth, worth, without=frozenset(range(10)))
    assert collapse["filters"][0] == "conv:10"


def test_a_floor_above_the_model_is_told() -> None:
    assert floor_note("robustness_above:0.9", {"all": 1.2, "none": 2.0}) is not None
    assert floor_note("robustness_above:0.9", {"all": 0.8, "none": 2.0}) is None
    assert floor_note("robustness", {"all": 1.2, "none": 2.0}) is None


def curve(v: list[float | None], accuracy: list[float | None]) -> CurveDocument:
    names = ("robustness", "clean_accuracy")
    figures = {
        name: [{"value": value, "low": value, "high": value} for value in along]
        for name, along in zip(names, (v, accuracy), strict=True)
    }
    line: Any = {
        "name": "highest",
        "words": "highest values first",
        "filters": [],
        "figures": figures,
    }
    return {
        "metric": "robustness",
        "measures": {name: measure_of(name).to_json() for name in names},
        "sizes": list(range(len(v))),
        "lead": "highest",
        "lines": [line],
    }  # type: ignore[typeddict-item]


def test_a_curve_that_breaks_the_model_is_told() -> None:
    told = collapse_on_curve(curve([0.2, 0.1, -0.05], [0.8, 0.7, 0.4]))
    assert told is not None
    assert "the first 2 filters" in told
    assert "from 80.0 % to 40.0 %" in told
    assert collapse_on_curve(curve([0.2, 0.1, -0.3], [0.8, 0.7, 0.6])) is None
    assert collapse_on_curve(curve([0.2, 0.3, 0.4], [0.8, 0.3, 0.1])) is None
    assert collapse_on_curve(curve([None, 0.1], [0.8, 0.1])) is None
