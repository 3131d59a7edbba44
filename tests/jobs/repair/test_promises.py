"""What may be promised of answers that are known, and of cures chosen by known rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repairkit.core.filters import Filter, FrozenFilter, Patch
from repairkit.core.metric import Metric
from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations, Indices
from repairkit.data.parts import strata_of
from repairkit.jobs.repair.confirming import confirm, cross_fit
from repairkit.jobs.repair.ladder import CureJudge
from repairkit.jobs.repair.objective import Limit, Objective, Target, Wishes
from repairkit.metrics.catalogue import make_metric
from repairkit.metrics.chance import Discordant
from repairkit.repairs.crossfit import Bound, assign_folds
from repairkit.repairs.cure import BestCure, Cured, Nothing

FORM = OutputForm("logits")
Bools = NDArray[np.bool_]


def about(groups: NDArray[np.int64] | None, n: int) -> Annotations:
    names = () if groups is None else tuple(f"g{i}" for i in range(groups.max() + 1))
    return Annotations(labels=np.zeros(n, np.int64), groups=groups, group_names=names)


def answers(right: Bools, margin: float = 2.0) -> NDArray[np.float32]:
    """Logits of two classes; class 0 is the true one of every image."""
    towards = np.where(right, margin, -margin)
    return np.stack([towards, np.zeros(len(right))], axis=1).astype(np.float32)


def judge(known: Annotations, objective: str = "worst_group_accuracy", **changed: Any) -> CureJudge:
    def metrics(names: Sequence[str]) -> tuple[Metric, ...]:
        return tuple(make_metric(name, form=FORM, annotations=known, n_classes=2) for name in names)

    told = tuple(dict.fromkeys([objective, "accuracy"]))
    return CureJudge(
        wishes=Wishes(objective=Objective.of(objective), **changed),
        metrics=metrics,
        reported=told,
        form=FORM,
        annotations=known,
        n_folds=5,
        seed=0,
    )


def flipped(right: Bools, rows: Sequence[int] | Indices) -> Bools:
    changed = right.copy()
    changed[rows] = ~changed[rows]
    return changed


def test_what_changes_nothing_is_no_promise() -> None:
    groups = np.repeat([0, 1], 100)
    right = np.arange(200) % 3 > 0
    verdict = judge(about(groups, 200)).judge(answers(right), answers(right))
    assert [rung.name for rung in verdict.rungs] == ["objective", "smooth", "likelihood"]
    assert not any(rung.sure for rung in verdict.rungs)
    assert verdict.best("likelihood") is None


def test_the_worst_group_is_judged_by_the_exact_test() -> None:
    groups = np.repeat([0, 1], 100)
    before = np.arange(200) % 100 < np.where(groups == 0, 95, 60)
    for n_gained, n_lost, sure in ((4, 0, False), (5, 0, True), (9, 2, True), (6, 2, False)):
        rows = [*range(160, 160 + n_gained), *range(100, 100 + n_lost)]
        verdict = judge(about(groups, 200)).judge(answers(before), answers(flipped(before, rows)))
        first = verdict.rungs[0]
        assert first.of_group == "g1"
        assert first.sure is sure
        assert f"{n_gained} of 100 images turn right" in first.why
        expected = Discordant(n_gained, n_lost, 100)
        assert first.needed == expected.images_needed(0.05)
        assert first.p is not None
        assert first.p >= expected.p_gain


def test_a_second_group_as_bad_as_the_worst_forbids_the_promise() -> None:
    """The worst of ten equal groups is worst by chance; others stay where they were."""
    groups = np.repeat(np.arange(10), 60)
    right = np.arange(600) % 60 < np.where(groups == 4, 42, 44)
    wrong = np.flatnonzero((groups == 4) & ~right)[:12]
    verdict = judge(about(groups, 600)).judge(answers(right), answers(flipped(right, wrong)))
    assert Discordant(12, 0, 60).p_gain < 0.001
    assert not verdict.rungs[0].sure
    assert "another group may be as bad" in verdict.rungs[0].why


def test_a_fall_of_another_group_forbids_the_weakest_promise() -> None:
    groups = np.repeat([0, 1], 100)
    before = np.arange(200) % 100 < np.where(groups == 0, 95, 60)
    after = flipped(before, [*range(0, 8), *range(160, 163)])
    confident = answers(after)
    confident[100:] *= 3  # the likelihood of the second group rises by far
    verdict = judge(about(groups, 200)).judge(answers(before, 0.4), confident)
    weakest = verdict.rungs[-1]
    assert not weakest.sure
    assert "accuracy surely falls in g0" in weakest.why


def test_a_stronger_promise_is_told_before_a_weaker_one() -> None:
    groups = np.repeat([0, 1], 150)
    before = np.arange(300) % 150 < np.where(groups == 0, 140, 80)
    after = flipped(before, range(230, 260))
    verdict = judge(about(groups, 300)).judge(answers(before), answers(after))
    assert [rung.sure for rung in verdict.rungs] == [True, True, True]
    best = verdict.best("likelihood")
    assert best is not None
    assert best.name == "objective"
    only = replace(verdict, rungs=verdict.rungs[2:])
    assert only.best("objective") is None
    weaker = only.best("likelihood")
    assert weaker is not None
    assert weaker.name == "likelihood"
    told = only.to_json("likelihood")
    assert told["reached"] == "likelihood"
    assert told["lowest"] == "likelihood"


def test_limits_and_targets_hold_on_the_same_answers() -> None:
    groups = np.repeat([0, 1], 100)
    before = np.arange(200) % 100 < np.where(groups == 0, 95, 60)
    after = flipped(before, [*range(0, 30), *range(160, 175)])
    known = about(groups, 200)
    free = judge(known).judge(answers(before), answers(after))
    assert free.refusal is None
    limit = judge(known, limits=(Limit("accuracy", 0.01),))
    refused = limit.judge(answers(before), answers(after)).refusal
    assert refused is not None
    assert refused.costs_too_much
    target = judge(known, targets=(Target("accuracy", ">=", 0.99),))
    refused = target.judge(answers(before), answers(after)).refusal
    assert refused is not None
    assert not refused.costs_too_much


@pytest.mark.parametrize("objective", ["accuracy", "recall:0", "loss", "group_accuracy"])
def test_other_objectives_have_a_ladder_too(objective: str) -> None:
    groups = np.repeat([0, 1], 100)
    known = about(groups, 200)
    before = np.arange(200) % 100 < 60
    better = judge(known, objective).judge(answers(before), answers(flipped(before, range(70, 99))))
    assert better.rungs[0].name == "objective"
    assert better.rungs[0].sure
    worse = judge(known, objective).judge(answers(before), answers(flipped(before, range(20))))
    assert not any(rung.sure for rung in worse.rungs)


@dataclass
class Rule:
    """A cure that freezes the filter whose answers look best on the images that choose."""

    outputs: list[NDArray[np.float32]]
    seen: list[Indices]
    name: str = "rule"

    def on(self, within: Indices) -> Cured | Nothing:
        self.seen.append(within)
        hits = [(o[within].argmax(axis=1) == 0).mean() for o in self.outputs]
        best = int(np.argmax(hits))
        if best == 0:
            return Nothing("nothing looks better")
        patch = Patch((FrozenFilter(Filter("conv", best), 0.0),))
        gain = Bound(hits[best] - hits[0], 0.0)
        return Cured(patch=patch, outputs=self.outputs[best], gain=gain, name=self.name)


def test_each_image_is_judged_under_a_cure_that_it_did_not_choose() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 2, 90)
    known = about(groups, 90)
    outputs = [rng.normal(size=(90, 2)).astype(np.float32) for _ in range(6)]
    rule = Rule(outputs, [])
    folds = assign_folds(strata_of(known), 5, np.random.default_rng(1))
    fitted = cross_fit(rule, folds, outputs[0])
    assert rule.seen[0].tolist() == list(range(90))
    found = fitted.answers(1)
    for fold, within in enumerate(rule.seen[1:]):
        members = folds.fold_of == fold
        assert not np.intersect1d(within, np.flatnonzero(members)).size
        hits = [(o[within].argmax(axis=1) == 0).mean() for o in outputs]
        assert (found[members] == outputs[int(np.argmax(hits))][members]).all()
    assert set(fitted.stability(1).values()) <= set(range(6))
    told = fitted.fold_rows(1)
    assert sum(fold["n_images"] for fold in told) == 90


@pytest.mark.long
def test_of_noise_nothing_is_promised_more_often_than_stated() -> None:
    """Twenty filters that change answers at random, the best of them chosen each time."""
    n_runs, promised = 120, 0
    groups = np.repeat([0, 1], 60)
    known = about(groups, 120)
    asked = judge(known)
    for seed in range(n_runs):
        rng = np.random.default_rng(seed)
        right = rng.random(120) < np.where(groups == 0, 0.9, 0.7)
        logits = np.where(right, 1.0, -1.0) + rng.normal(0, 0.5, 120)
        outputs = [
            np.stack([logits + rng.normal(0, 0.7, 120) * (i > 0), np.zeros(120)], axis=1)
            for i in range(20)
        ]
        rule = Rule([o.astype(np.float32) for o in outputs], [])
        folds = assign_folds(strata_of(known), 5, rng)
        fitted = cross_fit(rule, folds, rule.outputs[0])
        if isinstance(fitted.whole, Cured):
            promised += confirm(fitted, asked).verdict.best("likelihood") is not None
    assert promised / n_runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / n_runs)


def test_a_smaller_change_is_asked_only_where_a_larger_one_costs_too_much() -> None:
    groups = np.repeat([0, 1], 100)
    known = about(groups, 200)
    before = np.arange(200) % 100 < np.where(groups == 0, 95, 60)
    small, large = (
        answers(flipped(before, [*range(n_lost), *range(160, 180)])) for n_lost in (0, 40)
    )
    one = Patch((FrozenFilter(Filter("conv", 0), 0.0),))
    first = Cured(patch=one, outputs=small, gain=Bound(1, 1))
    both = Cured(
        patch=Patch(tuple(FrozenFilter(Filter("conv", i), 0.0) for i in (0, 1))),
        outputs=large,
        gain=Bound(2, 2),
        fewer=(first,),
    )

    class Always:
        name = "always"

        def on(self, within: Indices) -> Cured:
            assert len(within)
            return both

    folds = assign_folds(strata_of(known), 5, np.random.default_rng(0))
    fitted = cross_fit(Always(), folds, answers(before))
    limited = confirm(fitted, judge(known, limits=(Limit("accuracy", 0.01),)))
    assert (limited.n_steps, limited.looks) == (1, 2)
    assert limited.verdict.refusal is None
    assert fitted.whole.first(limited.n_steps).patch == first.patch
    free = confirm(fitted, judge(known))
    assert (free.n_steps, free.looks) == (2, 1)


def test_the_best_cure_is_the_one_of_the_largest_gain_inside() -> None:
    plain = answers(np.ones(10, bool))

    @dataclass
    class Given:
        name: str
        gain: float | None

        def on(self, within: Indices) -> Cured | Nothing:
            if self.gain is None:
                return Nothing(f"nothing on {len(within)} images")
            gain = Bound(self.gain, 0.0)
            return Cured(patch=Patch(()), outputs=plain, gain=gain, name=self.name)

    found = BestCure((Given("a", 0.1), Given("b", 0.3), Given("c", None))).on(np.arange(10))
    assert isinstance(found, Cured)
    assert found.name == "b"
    nothing = BestCure((Given("a", -0.1), Given("c", None))).on(np.arange(10))
    assert isinstance(nothing, Nothing)
    assert "a: gains nothing" in nothing.reason
    assert "c: nothing on 10 images" in nothing.reason
