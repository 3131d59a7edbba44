"""The fairness block against Fairlearn's MetricFrame, on real outputs of made-up models."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pandas as pd
import pytest
from fairlearn import metrics as fairlearn
from sklearn.metrics import accuracy_score

from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations, Suite
from repairkit.data.annotations import CROSS
from repairkit.jobs.repair.judging import fairness_block
from repairkit.metrics.group_metrics import RATES

FORM = OutputForm("logits")
DISPARITIES = [
    f"{name}_{kind}"
    for name in ("demographic_parity", "equalized_odds", "equal_opportunity")
    for kind in ("difference", "ratio")
]
FIGURE = {
    "type": "object",
    "required": ["value", "ci_low", "ci_high"],
    "additionalProperties": {"type": "number"},
}
MOVED = {
    "type": "object",
    "required": ["before", "after", "difference"],
    "additionalProperties": FIGURE,
}


class Nothing:
    """Images that nobody looks at."""

    def __len__(self) -> int:
        return 0

    def batch(self, indices):
        raise AssertionError(indices)


def make_suite(n: int, n_classes: int, seed: int = 0) -> tuple[Suite, np.ndarray, np.ndarray]:
    """Two columns, one of whose values is rare, and logits that improve for one group."""
    rng = np.random.default_rng(seed)
    race = np.where(rng.random(n) < 0.3, "black", "white")
    sex = np.where(rng.random(n) < 0.1, "woman", "man")
    labels = rng.integers(0, n_classes, n)
    strength = np.where(race == "black", 0.5, 2.0)
    before = rng.normal(size=(n, n_classes))
    before[np.arange(n), labels] += strength
    after = before.copy()
    after[np.arange(n), labels] += np.where(race == "black", 1.0, -0.1)
    crossed = np.array([f"{r}{CROSS}{s}" for r, s in zip(race, sex, strict=True)])
    names, groups = np.unique(crossed, return_inverse=True)
    annotations = Annotations(
        labels=labels.astype(np.int64),
        groups=groups,
        group_names=tuple(names.tolist()),
        class_names=(),
        attributes={"race": race, "sex": sex},
    )
    return (
        Suite(name="test", images=Nothing(), annotations=annotations, indices=np.arange(n)),
        before,
        after,
    )


def judge(suite, before, after, columns=("race", "sex"), n_classes=2):
    return fairness_block((before, after), suite, columns, form=FORM, n_classes=n_classes, seed=0)


def test_every_figure_of_two_classes_is_fairlearns() -> None:
    suite, before, after = make_suite(500, 2)
    block = judge(suite, before, after)
    assert [c["name"] for c in block["columns"]] == ["race", "sex", f"race{CROSS}sex"]
    labels, columns = suite.annotations.labels, pd.DataFrame(dict(suite.annotations.attributes))
    for view, names in zip(block["columns"], [["race"], ["sex"], ["race", "sex"]], strict=True):
        jsonschema.validate(view["disparities"], {"additionalProperties": MOVED})
        for side, outputs in (("before", before), ("after", after)):
            said = outputs.argmax(1)
            frame = fairlearn.MetricFrame(
                metrics={"accuracy": accuracy_score} | {r: getattr(fairlearn, r) for r in RATES},
                y_true=labels,
                y_pred=said,
                sensitive_features=columns[names],
            )
            for group in view["groups"]:
                key = tuple(group["name"].split(CROSS)) if len(names) > 1 else group["name"]
                expected = frame.by_group.loc[key]
                assert group[side]["value"] == pytest.approx(expected["accuracy"])
                for rate, figures in group["rates"].items():
                    assert figures[side]["value"] == pytest.approx(expected[rate])
            for name in DISPARITIES if len(names) > 1 else ():
                expected = getattr(fairlearn, name)(labels, said, sensitive_features=columns[names])
                assert view["disparities"][name][side]["value"] == pytest.approx(expected)
            worst = view["disparities"]["worst_group_accuracy"][side]["value"]
            assert worst == pytest.approx(frame.group_min()["accuracy"])


def test_differences_are_after_less_before_and_within_their_intervals() -> None:
    suite, before, after = make_suite(400, 3)
    block = judge(suite, before, after, n_classes=3)
    for view in block["columns"]:
        moved = [*view["disparities"].values(), *view["groups"]]
        moved += [rate for group in view["groups"] for rate in group["rates"].values()]
        for figures in moved:
            change = figures["difference"]
            expected = figures["after"]["value"] - figures["before"]["value"]
            assert change["value"] == pytest.approx(expected)
            assert change["ci_low"] <= change["value"] <= change["ci_high"]
    by_race = block["columns"][0]
    odds = by_race["disparities"]["equalized_odds_difference"]
    assert odds["before"]["value"] > odds["after"]["value"] > 0  # Fairlearn's sign
    assert odds["difference"]["ci_high"] < 0
    assert by_race["groups"][0]["difference"]["ci_low"] > 0


def test_several_classes_show_the_rates_of_the_class_furthest_apart() -> None:
    suite, before, after = make_suite(400, 3)
    view = judge(suite, before, after, ("race",), 3)["columns"][0]
    labels, race = suite.annotations.labels, suite.annotations.attributes["race"]
    differences = [
        fairlearn.equalized_odds_difference(
            labels == k, before.argmax(1) == k, sensitive_features=race
        )
        for k in range(3)
    ]
    assert view["rates_of"] == str(np.argmax(differences))
    found = view["disparities"]["equalized_odds_difference"]["before"]["value"]
    assert found == pytest.approx(max(differences))


def test_groups_of_few_images_or_wide_intervals_are_flagged() -> None:
    suite, before, after = make_suite(400, 2)
    view = judge(suite, before, after)["columns"][-1]
    for group in view["groups"]:
        widest = max(group[side]["ci_high"] - group[side]["ci_low"] for side in ("before", "after"))
        assert group["small"] == (group["n"] < 30 or widest > 0.2)
    assert {group["small"] for group in view["groups"]} == {True, False}


def test_one_group_alone_has_no_disparity() -> None:
    suite, before, after = make_suite(60, 2)
    lonely = Annotations(
        labels=suite.annotations.labels,
        groups=np.zeros(60, np.int64),
        group_names=("all",),
        class_names=(),
        attributes={"site": np.full(60, "all")},
    )
    suite = Suite(name="test", images=Nothing(), annotations=lonely, indices=np.arange(60))
    view = judge(suite, before, after, ("site",))["columns"][0]
    assert list(view["disparities"]) == ["accuracy", "worst_group_accuracy", "group_accuracy"]
    assert len(view["groups"]) == 1


def test_a_model_or_data_without_groups_or_classes_has_no_block() -> None:
    suite, before, after = make_suite(60, 2)
    assert judge(suite, before, after, ()) is None
    values = fairness_block(
        (before, after), suite, ("race",), form=OutputForm("values"), n_classes=0, seed=0
    )
    assert values is None


def one_sided(n: int = 240) -> tuple[Suite, np.ndarray, np.ndarray]:
    """Three groups; `none` has no image of class 1, `few` two of them."""
    suite, before, after = make_suite(n, 2)
    labels = suite.annotations.labels.copy()
    ward = np.array(["all", "few", "none"])[np.arange(n) % 3]
    labels[ward != "all"] = 0
    labels[np.flatnonzero(ward == "few")[:2]] = 1
    names, groups = np.unique(ward, return_inverse=True)
    about = Annotations(
        labels=labels,
        groups=groups,
        group_names=tuple(names.tolist()),
        class_names=("no", "yes"),
        attributes={"ward": ward},
    )
    return (
        Suite(name="test", images=Nothing(), annotations=about, indices=np.arange(n)),
        before,
        after,
    )


def test_a_rate_that_no_image_of_a_group_counts_for_is_null_and_left_out_of_comparisons() -> None:
    suite, before, after = one_sided()
    view = judge(suite, before, after, ("ward",))["columns"][0]
    rates = {group["name"]: group["rates"] for group in view["groups"]}
    assert rates["none"]["true_positive_rate"] is None
    assert rates["none"]["false_positive_rate"] is not None
    told = [rates[name]["true_positive_rate"]["before"]["value"] for name in ("all", "few")]
    found = view["disparities"]["equal_opportunity_difference"]["before"]
    assert found["value"] == pytest.approx(max(told) - min(told))
    assert found["ci_low"] is not None
    assert any("none has no images of class yes" in sentence for sentence in view["left_out"])
    json.dumps(view, allow_nan=False)


def test_what_no_two_groups_define_is_null_not_even() -> None:
    suite, before, after = one_sided()
    about = suite.annotations
    keep = np.flatnonzero((about.attributes["ward"] != "few") | (about.labels == 0))
    taken = suite.take(keep)
    view = judge(taken, before[keep], after[keep], ("ward",))["columns"][0]
    assert view["disparities"]["equal_opportunity_difference"] is None
    assert view["disparities"]["equal_opportunity_ratio"] is None
    odds = view["disparities"]["equalized_odds_difference"]["before"]["value"]
    rates = [group["rates"]["false_positive_rate"]["before"]["value"] for group in view["groups"]]
    assert odds == pytest.approx(max(rates) - min(rates))


def test_resamples_that_do_not_define_a_comparison_say_nothing_of_it() -> None:
    """With two images of the class in the second group, a resample in seven lacks both."""
    suite, before, _ = one_sided()
    keep = np.flatnonzero(suite.annotations.attributes["ward"] != "none")
    taken, outputs = suite.take(keep), before[keep].copy()
    labels, ward = taken.annotations.labels, taken.annotations.attributes["ward"]
    outputs[:, 1] = np.where(labels == 1, np.where(ward == "all", 9.0, -9.0), outputs[:, 1])
    view = judge(taken, outputs, outputs, ("ward",))["columns"][0]
    found = view["disparities"]["equal_opportunity_difference"]["before"]
    assert found == {"value": 1.0, "ci_low": 1.0, "ci_high": 1.0}
