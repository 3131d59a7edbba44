"""What may be promised of a cure, from the answers of images that did not choose it.

A ladder, the strongest promise first: the objective itself; its smooth twin (likelihoods instead of
right answers); the likelihood of the true class, balanced over groups. Whichever is reached, limits
and targets hold on the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.metric import Metric
from repairkit.core.patch import Figure
from repairkit.core.suite import Annotations
from repairkit.jobs.repair.confirm.confirming import broken
from repairkit.jobs.repair.objective import FAIRNESS_OBJECTIVE, Limit, Objective, Target
from repairkit.metrics import (
    Discordant,
    FigureOfImages,
    OutputForm,
    adversarial,
    difference,
    evaluate,
    figure_of,
    is_attacked,
    paired_change,
    smooth_figure,
)
from repairkit.repairs import widening

LEVEL = 0.05
"""Of every one-sided test."""

PROMISES = ("objective", "smooth", "likelihood")
"""The strongest first."""


@dataclass(frozen=True)
class Rung:
    """One promise of the ladder.

    Attributes:
        name: one of `PROMISES`.
        words: what is promised, for people.
        sure: whether the images bear it out.
        why: what they say, for people.
        change: of the figure that it is about, in its natural direction; the interval is widened.
        p: of the one-sided test; the largest where there are several.
        needed: images of the group or class that it hangs on, to be added for it to be sure, if
            they answer like those that are there; None where more would not tell, or nothing is
            known.
        of_group: which group that is; empty for all images.
    """

    name: str
    words: str
    sure: bool
    why: str
    change: Figure | None = None
    p: float | None = None
    needed: int | None = None
    of_group: str = ""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What may be promised.

    `changes` and `reached` are of every metric, in their natural direction, with intervals;
    `refused` says which limit or target is not kept, and whether smaller changes may keep it.
    """

    rungs: tuple[Rung, ...]
    changes: Mapping[str, Figure]
    reached: Mapping[str, Figure]
    refused: tuple[str, bool] | None

    def best(self, lowest: str) -> Rung | None:
        """The strongest promise that is borne out, none below `lowest`."""
        wanted = PROMISES[: PROMISES.index(lowest) + 1]
        return next((rung for rung in self.rungs if rung.sure and rung.name in wanted), None)

    def to_json(self, lowest: str) -> dict[str, Any]:
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


@dataclass(frozen=True)
class Judge:
    """By what cures are judged, on which images.

    Attributes:
        objective: what is to be improved.
        limits: what metrics may lose.
        targets: figures to be reached.
        max_group_drop: what the accuracy of a group may lose, in [0, 1].
        metrics: from names to metrics.
        told: further metrics whose changes are told.
        form: of the outputs.
        annotations: of the images that judge.
        n_folds: of the cross-fitting; 0 where other images chose than judge.
        seed: of the resamples.
    """

    objective: Objective
    limits: tuple[Limit, ...]
    targets: tuple[Target, ...]
    max_group_drop: float
    metrics: Callable[[Sequence[str]], Sequence[Metric]]
    told: tuple[str, ...]
    form: OutputForm | None
    annotations: Annotations
    n_folds: int
    seed: int

    @property
    def widening(self) -> float:
        """By what bootstrap errors are multiplied."""
        return widening(self.n_folds) if self.n_folds else 1.0

    @cached_property
    def metric(self) -> Metric:
        """The objective's."""
        return self.metrics((self.objective.metric,))[0]

    def value(self, name: str, outputs: Array) -> float:
        """A metric of the images that judge."""
        figure = figure_of(self.metrics((name,))[0], self.annotations)
        return figure.figure(figure.columns(outputs), np.arange(len(outputs)))

    @cached_property
    def _told(self) -> Sequence[Metric]:
        return self.metrics(self.told)

    def judge(self, before: Array, after: Array) -> Verdict:
        """The promises that answers bear out.

        Args:
            before: the model's outputs for the images that judge, in order.
            after: those of the cured model, for each image of a cure that it did not choose.
        """
        common: dict[str, Any] = {"form": self.form, "seed": self.seed}
        plain = difference(before, after, self.annotations, self._told, **common)
        changes = {name: self._widened(figure) for name, figure in plain.items()}
        reached = evaluate(
            after, self.annotations, self._told, suite="selection, cross-fitted", **common
        )
        # A limit asks for one standard error to spare, of the images alone.
        found = broken(
            self.limits,
            self.targets,
            plain,
            reached.metrics,
            max_group_drop=self.max_group_drop,
        )
        refused = next(found, None)
        return Verdict(
            tuple(self._rungs(before, after, changes)), changes, reached.metrics, refused
        )

    def _widened(self, figure: Figure) -> Figure:
        """The interval of a cross-fitted figure."""
        value, factor = figure.value, self.widening
        low, high = value - figure.ci_low, figure.ci_high - value
        return Figure(value, value - factor * low, value + factor * high)

    def _rungs(self, before: Array, after: Array, changes: Mapping[str, Figure]) -> Iterator[Rung]:
        if self.objective.metric == FAIRNESS_OBJECTIVE and self.form is not None:
            yield self._worst_group(before, after, changes)
        else:
            yield self._objective(before, after, changes)
        smooth = self._smooth(before, after)
        if smooth is not None:
            yield smooth
        likelihood = self._likelihood(before, after, changes)
        if likelihood is not None:
            yield likelihood

    def _objective(self, before: Array, after: Array, changes: Mapping[str, Figure]) -> Rung:
        """The objective itself, by an exact test where it is a share of right answers."""
        name, change = self.objective.metric, changes[self.objective.metric]
        pair = self._right(before), self._right(after)
        if pair[0] is not None and pair[1] is not None:
            found = Discordant.of(pair[0], pair[1])
            return Rung(
                "objective",
                name,
                found.p_gain <= LEVEL,
                _told_discordant(found),
                change,
                found.p_gain,
                found.images_needed(LEVEL),
            )
        figure = figure_of(self.metric, self.annotations)
        moved = paired_change(before, after, figure, seed=self.seed)
        low = moved.bound(LEVEL, sign=self.objective.sign, widening=self.widening)
        least = self.metric.measure.change(low).removeprefix("+")
        why = f"improves by at least {least} at {1 - LEVEL:.0%}"
        return Rung("objective", name, low > 0, why, change)

    def _right(self, outputs: Array) -> NDArray[np.bool_] | None:
        """Whether each image that counts is right; None for a metric that is no such share."""
        if not self.metric.per_image or self.objective.sign < 0:
            return None
        weights = self.metric.weights(self.annotations)
        counted = weights > 0
        scores = self.metric.score(outputs, self.annotations)[counted]
        even = np.allclose(weights[counted], weights[counted][:1])
        return scores > 0 if even and np.isin(scores, (0.0, 1.0)).all() else None

    def _worst_group(self, before: Array, after: Array, changes: Mapping[str, Figure]) -> Rung:
        """The worst group gains, by the exact test, and no other group stays as bad.

        Which group is worst is uncertain too: in each resample of the images the worst group after
        is compared with the worst before, whichever they are.
        """
        found, name = self._of_the_worst(before, after)
        moved = paired_change(
            before, after, figure_of(self.metric, self.annotations), seed=self.seed
        )
        p = max(found.p_gain, moved.p_gain())
        why = f"group {name}: {_told_discordant(found)}"
        needed = found.images_needed(LEVEL)
        if found.p_gain <= LEVEL < p:
            why += f"; another group may be as bad ({p:.0%} of resamples gain nothing)"
            needed = None
        change = changes[FAIRNESS_OBJECTIVE]
        return Rung(
            "objective",
            "accuracy of the worst group",
            p <= LEVEL,
            why,
            change,
            p,
            needed,
            name,
        )

    def _of_the_worst(self, before: Array, after: Array) -> tuple[Discordant, str]:
        """What changed in the worst group before; of equals, in the one that gains least."""
        first, second = self._hits(before), self._hits(after)
        shares = {
            name: float(first[rows].mean()) for name, rows in self._members.items() if len(rows)
        }
        worst = [name for name, share in shares.items() if share == min(shares.values())]
        found = {
            name: Discordant.of(first[self._members[name]], second[self._members[name]])
            for name in worst
        }
        least = max(worst, key=lambda name: found[name].p_gain)
        return found[least], least

    @cached_property
    def _members(self) -> dict[str, NDArray[np.intp]]:
        """The images of each group, but for those that an attack made."""
        about = self.annotations
        if about.groups is None:
            return {}
        plain = ~adversarial(about) if is_attacked(about) else np.ones(len(about), bool)
        return {
            name: np.flatnonzero(plain & (about.groups == number))
            for number, name in enumerate(about.group_names)
        }

    def _hits(self, outputs: Array) -> NDArray[np.bool_]:
        assert self.form is not None
        return np.asarray(self.form.predictions(outputs) == self.annotations.labels)

    def _smooth(self, before: Array, after: Array) -> Rung | None:
        """The smooth twin of the objective, where it has one."""
        smooth = smooth_figure(self.metric, self.annotations)
        own = figure_of(self.metric, self.annotations)
        if not isinstance(smooth, FigureOfImages):
            return None
        if isinstance(own, FigureOfImages) and own.score == smooth.score:
            return None
        words = f"the smooth twin of {self.objective.metric}"
        if smooth.groups is not None:
            words = "likelihood of the worst group"
        return self._by_figure("smooth", words, smooth, before, after, self.objective.sign)

    def _by_figure(
        self,
        name: str,
        words: str,
        figure: FigureOfImages,
        before: Array,
        after: Array,
        sign: int,
    ) -> Rung:
        moved = paired_change(before, after, figure, seed=self.seed)
        low = moved.bound(LEVEL, sign=sign, widening=self.widening)
        ends = np.quantile(moved.resampled, [0.025, 0.975]).tolist()
        inside = Figure(moved.value, min(ends[0], moved.value), max(ends[1], moved.value))
        why = f"improves by at least {low:.4f} at {1 - LEVEL:.0%}"
        return Rung(name, words, low > 0, why, self._widened(inside))

    def _likelihood(
        self, before: Array, after: Array, changes: Mapping[str, Figure]
    ) -> Rung | None:
        """The likelihood of the true class, balanced over groups, and no group surely worse."""
        about = self.annotations
        if self.form is None or self.form.kind == "values" or is_attacked(about):
            return None
        wanted = "loss" if about.groups is None else "group_loss"
        if self.objective.metric == wanted:
            return None
        figure = figure_of(self.metrics((wanted,))[0], about)
        assert isinstance(figure, FigureOfImages)
        words = "likelihood of the true class"
        words += "" if about.groups is None else ", all groups counted alike"
        rung = self._by_figure("likelihood", words, figure, before, after, -1)
        first, second = self._hits(before), self._hits(after)
        worse = [
            name
            for name, rows in self._members.items()
            if Discordant.of(first[rows], second[rows]).p_loss <= LEVEL
        ]
        change, sign = changes[self.objective.metric], self.objective.sign
        why = rung.why
        if worse:
            why += f"; but accuracy surely falls in {', '.join(worse)}"
        if sign * change.value < 0:
            why += f"; but {self.objective.metric} gets worse"
        sure = rung.sure and not worse and sign * change.value >= 0
        return Rung(rung.name, words, sure, why, rung.change)


def _told_discordant(found: Discordant) -> str:
    return (
        f"{found.gained} of {found.n_images} images turn right and {found.lost} turn wrong "
        f"(one-sided p = {found.p_gain:.2g})"
    )
