"""Objectives, targets and limits; who may be frozen."""

from __future__ import annotations

import numpy as np
import pytest

from repairkit.core.errors import SettingsError
from repairkit.core.metric import Measure
from repairkit.core.outputs import OutputForm
from repairkit.core.results import Figure
from repairkit.core.suite import Annotations
from repairkit.jobs.repair.filter_values import MOST_CANDIDATES, Harm, find_candidates
from repairkit.jobs.repair.objective import Limit, Objective, Target, metric_names
from repairkit.metrics.catalogue import make_metric
from repairkit.metrics.evaluation import difference
from repairkit.metrics.user import UserMetric


@pytest.mark.parametrize(
    ("text", "metric", "relation", "bound"),
    [
        ("worst_group_accuracy>=0.8", "worst_group_accuracy", ">=", 0.8),
        (" recall:T-shirt >= 9e-1 ", "recall:T-shirt", ">=", 0.9),
        ("loss <= 0.4", "loss", "<=", 0.4),
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("accuracy<=0.9", "more is better.*write >="),
        ("loss>=0.2", "less is better.*write <="),
        ("equalized_odds_difference>=-0.05", "write <="),
        ("demographic_parity_difference<=-0.05", "between 0 and 1.*without a turned sign"),
        ("loss<=-0.4", "never below 0"),
        ("accuracy>=95", "0.95 for 95 %"),
        ("recall:cat>=1.5", "between 0 and 1"),
        ("attack_success<=5", "0.05 for 5 %"),
        ("accuracy>=0", "every model meets it"),
        ("attack_success<=1", "every model meets it"),
        ("robustness<=1", "every model meets it"),
    ],
)
def test_targets_that_say_nothing_are_refused(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        Target.parse(text).check()
    assert "\n" not in str(caught.value)


def test_targets_of_metrics_known_only_by_their_function_are_checked_by_it() -> None:
    about = Annotations(labels=np.array([0.0, 3.0]))
    error = make_metric(
        "mean_absolute_error", form=OutputForm("values"), annotations=about, n_classes=1
    )
    Target.parse("mean_absolute_error<=1").check(error)
    with pytest.raises(SettingsError, match="every model meets it"):
        Target.parse("mean_absolute_error<=3").check(error)
    cost = UserMetric(
        name="m:cost",
        function=lambda *_: 0.0,
        per_image=False,
        score_range=(0.0, 9.0),
        measure=Measure(greater_is_better=False),
    )
    Target.parse("m:cost<=4").check()
    Target.parse("m:cost<=4").check(cost)
    with pytest.raises(SettingsError, match="less is better"):
        Target.parse("m:cost>=4").check(cost)
    assert Objective.of("m:cost").fitted(cost).sign == -1


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


def test_direction_belongs_to_the_metric() -> None:
    for less in ("robustness", "robustness_loss", "attack_success", "loss", "group_loss",
                 "group_loss:a", "mean_absolute_error", "demographic_parity_difference",
                 "equalized_odds_difference", "equal_opportunity_difference"):  # fmt: skip
        assert Objective.of(less).sign == -1
    for more in ("group_accuracy:loss", "recall:loss", "demographic_parity_ratio"):
        assert Objective.of(more).sign == 1
    assert Objective.of("accuracy").sign == 1
    fair = Objective.of("worst_group_accuracy")
    assert fair.values[0] == "group_loss"
    names = metric_names(fair, (Limit("accuracy", 0.1),), (Target("accuracy", ">=", 0.5),))
    assert names == ("worst_group_accuracy", "accuracy")


def harm(
    values: np.ndarray, errors: np.ndarray | float, signs: tuple[int, ...] | None = None
) -> Harm:
    names = tuple(f"metric{i}" for i in range(values.shape[1]))
    known = (1,) * len(names) if signs is None else signs
    return Harm(
        metrics=names,
        values=values,
        ci_low=values - 1.96 * errors,
        ci_high=values + 1.96 * errors,
        signs=known,
    )


def test_candidates_are_ranked_by_how_surely_they_harm_by_some_metric() -> None:
    values = np.array([[-1.0, 0.5], [-1.0, 0.5], [0.2, -0.3], [0.3, 0.1], [np.nan, np.nan]])
    errors = np.array([[0.2, 1.0], [0.8, 1.0], [1.0, 0.1], [0.1, 0.1], [1.0, 1.0]])
    assert find_candidates(harm(values, errors)) == (0, 2, 1)
    assert find_candidates(harm(-values, errors, (-1, -1))) == (0, 2, 1)
    assert find_candidates(harm(values * np.array([1, -1]), errors, (1, -1))) == (0, 2, 1)
    assert find_candidates(harm(values, errors), most=2) == (0, 2)


def test_a_value_of_exactly_nothing_without_width_is_no_candidate() -> None:
    values = np.array([[0.0], [-0.2], [0.1]])
    assert find_candidates(harm(values, 0.0)) == (1,)
    assert find_candidates(harm(values, 0.0, (-1,))) == (2,)


def test_without_bounds_a_harmful_value_makes_a_candidate() -> None:
    values = np.array([[0.1], [-0.2], [-0.5], [np.nan]])
    assert find_candidates(harm(values, np.inf)) == (2, 1)
    many = -np.arange(200.0)[:, None] - 1
    found = find_candidates(harm(many, np.inf))
    assert found == tuple(range(199, 199 - MOST_CANDIDATES, -1))


def test_groups_that_fare_worst_count_most_in_what_harms_the_worst_group() -> None:
    """Filter 0 harms the worst group, filter 1 another; their sum over groups is alike."""
    names = ("group_loss", "group_loss:a", "group_loss:b")
    values = np.array([[0.1, 0.2, 0.0], [0.1, 0.0, 0.2]])
    ends = values - 0.05, values + 0.05
    low, high = ends
    known = Harm(metrics=names, values=values, ci_low=low, ci_high=high, signs=(-1, -1, -1))
    found = known.towards_the_worst({"a": 1.5, "b": 0.3})
    assert found.values[0, 1] == pytest.approx(0.2, abs=1e-4)
    assert found.values[1, 1] < 0.001
    assert (found.ci_high - found.ci_low)[0, 1] == pytest.approx(0.1, abs=1e-4)
    even = known.towards_the_worst({"a": 1.0, "b": 1.0})
    assert even.values[:, 1] == pytest.approx([0.1, 0.1])
    assert (even.ci_high - even.ci_low)[0, 1] == pytest.approx(0.1 / np.sqrt(2))
    assert known.towards_the_worst({"a": 1.0}) is known  # a group without a known loss


def test_images_that_confirm_bear_out_a_set_that_does_nothing_as_rarely_as_stated() -> None:
    """Both groups' true accuracies stay, so that an interval above 0 is a false promise."""
    form, n_runs, per_group, confirmed = OutputForm("logits"), 150, 60, 0
    groups = np.repeat([0, 1], per_group)
    about = Annotations(
        labels=np.zeros(len(groups), np.int64), groups=groups, group_names=("easy", "hard")
    )
    metric = make_metric("worst_group_accuracy", form=form, annotations=about, n_classes=2)
    share = np.where(groups == 0, 0.95, 0.6)
    for seed in range(n_runs):
        rng = np.random.default_rng(seed)
        before = rng.random(len(groups)) < share
        drawn_anew = rng.random(len(groups)) < 0.2
        after = np.where(drawn_anew, rng.random(len(groups)) < share, before)
        outputs = [np.stack([right, ~right], 1).astype(float) for right in (before, after)]
        change = difference(*outputs, about, [metric], form=form, n_resamples=300, seed=seed)
        confirmed += change["worst_group_accuracy"].ci_low > 0
    # Three standard deviations of a share of so many runs.
    assert confirmed / n_runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_runs)
