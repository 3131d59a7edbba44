"""Objectives, targets and limits; who may be frozen."""

from __future__ import annotations

import numpy as np
import pytest

from repairkit.core.errors import SettingsError
from repairkit.core.patch import Figure
from repairkit.workflows.candidates import MOST_CANDIDATES, find_candidates
from repairkit.workflows.objective import Limit, Objective, Target, metric_names


@pytest.mark.parametrize(
    ("text", "metric", "relation", "bound"),
    [
        ("worst_group_accuracy>=0.8", "worst_group_accuracy", ">=", 0.8),
        (" recall:T-shirt >= 9e-1 ", "recall:T-shirt", ">=", 0.9),
        ("loss >= -0.4", "loss", ">=", -0.4),
        ("robustness<=0.1", "robustness", "<=", 0.1),
        ("mine:f>=2", "mine:f", ">=", 2.0),
    ],
)
def test_targets_are_read(text: str, metric: str, relation: str, bound: float) -> None:
    assert Target.parse(text) == Target(metric, relation, bound)
    assert Target.parse(str(Target.parse(text))) == Target(metric, relation, bound)


@pytest.mark.parametrize("text", ["", "accuracy", "accuracy>0.5", ">=1", "accuracy>=", "a>=1.2.3"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="METRIC>=NUMBER"):
        Target.parse(text)


def test_a_target_must_be_met_with_a_standard_error_to_spare() -> None:
    figure = Figure(0.82, 0.82 - 1.96 * 0.01, 0.82 + 1.96 * 0.01)
    assert Target("accuracy", ">=", 0.805).met_with_caution(figure)
    assert not Target("accuracy", ">=", 0.815).met_with_caution(figure)
    assert Target("robustness", "<=", 0.835).met_with_caution(figure)
    assert not Target("robustness", "<=", 0.825).met_with_caution(figure)


def test_a_limit_holds_with_a_standard_error_to_spare_and_rounding_never_breaks_it() -> None:
    assert Limit("accuracy", 0.01).kept(-0.01, 0.0)
    assert Limit("accuracy", 0.3).kept(0.6 - 0.9, 0.0)
    assert not Limit("accuracy", 0.01).kept(-0.005, 0.006)
    assert Limit("accuracy", 0.01).kept(0.0, 0.009)


def test_of_robustness_less_is_wanted() -> None:
    assert Objective.of("robustness").sign == -1
    assert Objective.of("accuracy").sign == 1
    fair = Objective.of("worst_group_accuracy")
    assert fair.values[0] == "group_loss"
    names = metric_names(fair, (Limit("accuracy", 0.1),), (Target("accuracy", ">=", 0.5),))
    assert names == ("worst_group_accuracy", "accuracy")


def test_candidates_are_those_whose_bound_says_harm_for_some_metric() -> None:
    values = np.array([[-1.0, 0.5], [-1.0, 0.5], [0.2, -0.3], [0.3, 0.1], [np.nan, np.nan]])
    errors = np.array([[0.2, 1.0], [0.8, 1.0], [1.0, 0.1], [0.1, 0.1], [1.0, 1.0]])
    low, high = values - 1.96 * errors, values + 1.96 * errors
    found = find_candidates(values, low, high, 1)
    assert found.players.tolist() == [0, 2]  # 1 may be harmless, for all we know
    assert found.n_scored == 5
    assert find_candidates(-values, -high, -low, -1).players.tolist() == [0, 2]


def test_without_bounds_a_harmful_value_makes_a_candidate() -> None:
    values = np.array([[0.1], [-0.2], [-0.5], [np.nan]])
    infinite = np.full_like(values, np.inf)
    assert find_candidates(values, -infinite, infinite, 1).players.tolist() == [2, 1]
    many = -np.arange(200.0)[:, None] - 1
    found = find_candidates(many, many - np.inf, many + np.inf, 1)
    assert found.players.tolist() == list(range(199, 199 - MOST_CANDIDATES, -1))
