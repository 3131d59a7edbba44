"""What images say of a cure that they did not choose.

With cross-confirmation every image chooses and every image confirms. The images are shared out into
folds. For each fold a cure is chosen on the images outside it, and its answers for the fold's
images are kept. These answers together tell what choosing like this is worth on images that did not
choose. What ships is the cure that all images choose. References: Nadeau & Bengio 2003 (the error
of a cross-fitted figure); Bayle, Bayle, Janson & Mackey 2020.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from repairkit.core.attacked import twins_of
from repairkit.core.errors import TargetNotMetError
from repairkit.core.outputs import OutputForm
from repairkit.core.patch import Figure
from repairkit.core.suite import Annotations, Array
from repairkit.data.strata import strata_of
from repairkit.jobs.repair.ladder import Answers, Ladder, Rung
from repairkit.jobs.repair.objective import (
    FAIRNESS_OBJECTIVE,
    PROMISES,
    MetricsOf,
    Objective,
    Wishes,
)
from repairkit.metrics.catalogue import measure_of
from repairkit.metrics.evaluation import difference, evaluate, falls_beyond, told_beyond
from repairkit.metrics.resampling import figure_of
from repairkit.repairs.crossfit import Folds, assign_folds, widen
from repairkit.repairs.cure import Cure, Cured, Nothing, Story

_STABLE_SHARE = 0.5
_FEWEST_OF_A_GROUP = 3
_CROSS = 3  # a stream of the seed


@dataclass(frozen=True)
class Refusal:
    """A limit or a target that is not kept; `costs_too_much`: a smaller change may keep it."""

    reason: str
    costs_too_much: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """What may be promised.

    `changes` and `reached` are of every metric, in their natural direction, with intervals;
    `refusal` is None where all limits and targets are kept.
    """

    rungs: tuple[Rung, ...]
    changes: Mapping[str, Figure]
    reached: Mapping[str, Figure]
    refusal: Refusal | None

    def best(self, lowest: str) -> Rung | None:
        """The strongest promise that is sure, none below `lowest`."""
        wanted = PROMISES[: PROMISES.index(lowest) + 1]
        return next((rung for rung in self.rungs if rung.sure and rung.name in wanted), None)

    def to_json(self, lowest: str) -> Story:
        """For the report."""
        best = self.best(lowest)
        return {
            "lowest": lowest,
            "reached": None if best is None else best.name,
            "words": None if best is None else best.words,
            "rungs": [
                {**vars(rung), "change": None if rung.change is None else rung.change.to_json()}
                for rung in self.rungs
            ],
        }

    def rows(self, wishes: Wishes, looks: int) -> Story:
        """What the report's `selection` says of the confirmation."""
        return {
            "confirmation": {name: figure.to_json() for name, figure in self.changes.items()},
            "reached": {name: figure.to_json() for name, figure in self.reached.items()},
            "promised": self.changes[wishes.objective.metric].to_json(),
            "promise": self.to_json(wishes.promise) if wishes.share is None else None,
            "confirmation_looks": looks,
        }

    def why_not(self, wishes: Wishes) -> str:
        """Why no promise that is wanted is sure, and how many more images it would take."""
        wanted = PROMISES[: PROMISES.index(wishes.promise) + 1]
        rungs = [rung for rung in self.rungs if rung.name in wanted]
        change = self.changes[wishes.objective.metric]
        reasons = "; ".join(f"{rung.words}: {rung.why}" for rung in rungs)
        return (
            f"choosing like this changes {wishes.objective.metric} by "
            f"{wishes.objective.measure.change(change.value)} on images that did not choose, which "
            f"may be chance ({reasons}){_more(rungs)}"
        )


@dataclass(frozen=True, kw_only=True)
class Judge:
    """By what cures are judged, on which images.

    Attributes:
        wishes: what is to be improved, and at which cost.
        metrics: from names to metrics.
        told: the metrics whose changes are reported.
        form: of the outputs.
        annotations: of the images that judge.
        n_folds: of the cross-fitting; 0 where other images chose than judge.
        seed: of the resamples.
    """

    wishes: Wishes
    metrics: MetricsOf
    told: tuple[str, ...]
    form: OutputForm | None
    annotations: Annotations
    n_folds: int
    seed: int

    @cached_property
    def ladder(self) -> Ladder:
        """The promises that the objective has."""
        objective = self.wishes.objective
        return Ladder(
            objective=objective.metric,
            sign=objective.sign,
            of_worst_group=objective.metric == FAIRNESS_OBJECTIVE,
            metrics=self.metrics,
            n_folds=self.n_folds,
            seed=self.seed,
        )

    def value(self, name: str, outputs: Array) -> float:
        """A metric of the images that judge."""
        figure = figure_of(self.metrics((name,))[0], self.annotations)
        return figure.figure(figure.columns(outputs), np.arange(len(outputs)))

    def judge(self, before: Array, after: Array) -> Verdict:
        """The promises that answers make sure.

        Args:
            before: the model's outputs for the images that judge, in order.
            after: those of the cured model, for each image of a cure that it did not choose.
        """
        about, metrics = self.annotations, self.metrics(self.told)
        common: dict[str, Any] = {"form": self.form, "seed": self.seed}
        plain = difference(before, after, about, metrics, **common)
        changes = {name: widen(figure, self.ladder.widening) for name, figure in plain.items()}
        suite = "selection, cross-fitted"
        reached = evaluate(after, about, metrics, suite=suite, **common).metrics
        answers = Answers(annotations=about, form=self.form, before=before, after=after)
        return Verdict(
            rungs=tuple(self.ladder.rungs(answers, changes[self.wishes.objective.metric])),
            changes=changes,
            reached=reached,
            # A limit asks for one standard error to spare, of the images alone.
            refusal=next(_refusals(self.wishes, plain, reached), None),
        )


def _more(rungs: Sequence[Rung]) -> str:
    """How many more images would make a promise sure, by the answers that changed."""
    needed = [rung for rung in rungs if rung.needed]
    if not needed:
        return ""
    first = min(needed, key=lambda rung: rung.needed or 0)
    of_group = f" of group {first.of_group}" if first.of_group else ""
    return f"; about {first.needed:,} more selection images{of_group} would tell"


def _refusals(
    wishes: Wishes, changes: Mapping[str, Figure], reached: Mapping[str, Figure]
) -> Iterator[Refusal]:
    """Limits and targets that are not kept.

    Args:
        wishes: what metrics may lose, and figures to be reached.
        changes: of every metric, with intervals.
        reached: the metrics' figures with the cure.
    """
    for limit in wishes.limits:
        change = changes[limit.metric]
        if not limit.kept_by(change):
            reason = (
                f"{limit.metric} changes by {measure_of(limit.metric).change(change.value)}, which "
                f"with its standard error is not surely within the {limit.most:g} that it may lose"
            )
            yield Refusal(reason, costs_too_much=True)
    beyond = falls_beyond(changes, wishes.max_group_drop)
    if beyond:
        yield Refusal(told_beyond(beyond, wishes.max_group_drop), costs_too_much=True)
    for target in wishes.targets:
        figure = reached[target.metric]
        if not target.met_with_caution(figure):
            reason = (
                f"{target.metric} is {measure_of(target.metric).figure(figure.value)}, which with "
                f"its standard error does not surely reach the target {target}"
            )
            yield Refusal(reason, costs_too_much=False)


def not_sure(objective: Objective, changes: Mapping[str, Figure]) -> str:
    """Why the gain may be chance, by its interval; empty where it is sure."""
    name, sign, promise = objective.metric, objective.sign, changes[objective.metric]
    if min(sign * promise.ci_low, sign * promise.ci_high) > 0:  # NaN is no gain
        return ""
    measure = objective.measure
    low, high = (measure.number(end, signed=True) for end in (promise.ci_low, promise.ci_high))
    change = measure.change(promise.value)
    return f"{name} changes by {change}, which may be chance (95 % interval {low} to {high})"


def draw_folds(about: Annotations, n_folds: int, seed: int) -> Folds:
    """Folds by class, group and twins, for `cross_fit`.

    Raises:
        TargetNotMetError: a group has too few images.
    """
    _check_groups(about)
    rng = np.random.default_rng([seed, _CROSS])
    return assign_folds(strata_of(about), n_folds, rng, twins=twins_of(about))


def _check_groups(about: Annotations) -> None:
    """Every group needs images to choose on, to screen within these, and to confirm on.

    Raises:
        TargetNotMetError: a group has too few images.
    """
    if about.groups is None:
        return
    counts = np.bincount(about.groups, minlength=len(about.group_names))
    fewest = int(np.where(counts > 0, counts, len(about) + 1).argmin())
    if counts[fewest] < _FEWEST_OF_A_GROUP:
        raise TargetNotMetError(
            f"no repair: too few of the {len(about)} selection images, {counts[fewest]}, are of "
            f"group {about.group_names[fewest]!r} to choose on some and confirm on others; give at "
            f"least {_FEWEST_OF_A_GROUP} of each, better 30; nothing was written"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossFitted:
    """A cure chosen on all images, and once without each fold.

    Attributes:
        folds: of the images.
        plain: the model's outputs for all images as it is.
        whole: what all images choose.
        without: what the images outside each fold choose.
    """

    folds: Folds
    plain: Array
    whole: Cured | Nothing
    without: tuple[Cured | Nothing, ...]

    def answers(self, n_steps: int) -> Array:
        """For each image the outputs under the cure that its fold did not choose.

        Args:
            n_steps: steps of each cure at the most.
        """
        after = self.plain.copy()
        for fold, cured in enumerate(self.without):
            if isinstance(cured, Cured):
                members = self.folds.fold_of == fold
                after[members] = cured.first(n_steps).outputs[members]
        return after

    def stability(self, n_steps: int) -> dict[str, int]:
        """For each filter of the shipped cure, the folds whose cure freezes it too."""
        if not isinstance(self.whole, Cured):
            return {}
        counts = Counter(
            filter.id
            for cured in self.without
            if isinstance(cured, Cured)
            for filter in cured.first(n_steps).patch.filters
        )
        return {f.id: counts[f.id] for f in self.whole.first(n_steps).patch.filters}

    def unstable(self, n_steps: int) -> list[str]:
        """The filters of the shipped cure that fewer than half of the folds freeze."""
        enough = _STABLE_SHARE * len(self.without)
        return [name for name, count in self.stability(n_steps).items() if count < enough]

    def fold_rows(self, n_steps: int) -> list[Story]:
        """For the report: what each fold's images did not choose."""
        return [
            {
                "n_images": int((self.folds.fold_of == fold).sum()),
                "cure": cured.name if isinstance(cured, Cured) else None,
                "frozen": [f.id for f in cured.first(n_steps).patch.filters]
                if isinstance(cured, Cured)
                else [],
            }
            for fold, cured in enumerate(self.without)
        ]


def cross_fit(cure: Cure, folds: Folds, plain: Array) -> CrossFitted:
    """Choose on all images, and without each fold.

    Args:
        cure: the way to change the model.
        folds: of the selection images.
        plain: the model's outputs for all of them.
    """
    whole = cure.on(folds.everyone)
    without = tuple(cure.on(rest) for rest in folds.rest)
    return CrossFitted(folds=folds, plain=plain, whole=whole, without=without)


@dataclass(frozen=True, eq=False)
class Confirmed:
    """The cure as far as limits are kept, and what its answers out of fold make sure.

    `n_steps` counts its steps, `looks` how often the answers were judged: more than once where
    larger changes cost too much.
    """

    n_steps: int
    looks: int
    answers: Array
    verdict: Verdict


def confirm(fitted: CrossFitted, judge: Judge) -> Confirmed:
    """Judge a cure by the answers out of fold; smaller changes only where a limit asks for it.

    Fewer steps cost less. They also gain less, so nothing but a limit leads to them, and no gain is
    picked among several.
    """
    most = fitted.whole.n_steps if isinstance(fitted.whole, Cured) else 1
    first: Confirmed | None = None
    for looks, n_steps in enumerate(range(most, 0, -1), 1):
        answers = fitted.answers(n_steps)
        verdict = judge.judge(fitted.plain, answers)
        confirmed = Confirmed(n_steps, looks, answers, verdict)
        first = first or confirmed
        if verdict.refusal is None:
            return confirmed
        if not verdict.refusal.costs_too_much:
            break
    assert first is not None
    return first


def compare_cures(
    cures: Mapping[str, Cure],
    reasons: Mapping[str, str],
    *,
    judge: Judge,
    folds: Folds,
    plain: Array,
    lowest: str,
) -> list[Story]:
    """All cures beside each other: the rows of the report's `selection.cures`.

    Args:
        cures: by name.
        reasons: why others cannot be had with this model, by name.
        judge: of the selection images.
        folds: of the selection images.
        plain: the model's outputs for them as it is.
        lowest: the lowest promise that will do.
    """
    rows = [
        _row(name, cross_fit(cure, folds, plain), judge, lowest) for name, cure in cures.items()
    ]
    return [*rows, *(_without(name, reason) for name, reason in reasons.items())]


def _row(name: str, fitted: CrossFitted, judge: Judge, lowest: str) -> Story:
    confirmed, whole = confirm(fitted, judge), fitted.whole
    verdict = confirmed.verdict
    rung = None if verdict.refusal is not None else verdict.best(lowest)
    reason = whole.reason if isinstance(whole, Nothing) else ""
    if verdict.refusal is not None:
        reason = verdict.refusal.reason
    return {
        "cure": name,
        "promise": None if rung is None or isinstance(whole, Nothing) else rung.name,
        "n_frozen": len(whole.first(confirmed.n_steps).patch) if isinstance(whole, Cured) else 0,
        "changes": {metric: figure.to_json() for metric, figure in verdict.changes.items()},
        "reached": {metric: figure.to_json() for metric, figure in verdict.reached.items()},
        "reason": reason,
    }


def _without(name: str, reason: str) -> Story:
    return {
        "cure": name,
        "promise": None,
        "n_frozen": 0,
        "changes": {},
        "reached": {},
        "reason": f"not available here: {reason}",
    }
