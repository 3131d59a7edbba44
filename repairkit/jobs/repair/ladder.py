"""What may be promised of a cure, from the answers of images that did not choose it.

The promises form a ladder, the strongest first: the objective itself; its smooth twin (likelihoods
instead of right answers); the likelihood of the true class, balanced over groups. A `Verdict` holds
them, and the limit or target that is not kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import attacked, results
from repairkit.core.metric import Metric
from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations, Array
from repairkit.jobs.repair.objective import PROMISES, MetricsOf, Objective, Wishes
from repairkit.metrics.catalogue import measure_of
from repairkit.metrics.chance import Discordant
from repairkit.metrics.evaluation import difference, evaluate, falls_beyond, falls_in_words
from repairkit.metrics.resampling import FigureOfImages, figure_of, paired_change, smooth_figure
from repairkit.repairs.crossfit import widen, widening
from repairkit.repairs.cure import Story

LEVEL = 0.05
"""Of every one-sided test."""

_INTERVAL = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One promise of the ladder.

    Attributes:
        name: one of `objective.PROMISES`.
        words: what is promised, for people.
        sure: whether the images bear it out.
        why: what they say, for people.
        change: of the figure that it is about, in its natural direction; the interval is widened.
        p: of the one-sided test; the largest where there are several.
        needed: about how many more images of the group would make it sure, if they are answered
            like those that are there; None where more images would not, or nothing is known.
        of_group: which group that is; empty for all images.
    """

    name: str
    words: str
    sure: bool
    why: str
    change: results.Figure | None = None
    p: float | None = None
    needed: int | None = None
    of_group: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """A model's outputs before and after, for images that did not choose.

    Attributes:
        annotations: of the images.
        form: of the outputs; None without classes.
        before: the outputs of the model as it is, in order.
        after: those of the cured model, for each image of a cure that it did not choose.
    """

    annotations: Annotations
    form: OutputForm | None
    before: Array
    after: Array

    @cached_property
    def hits(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each image is answered rightly, before and after."""
        assert self.form is not None
        labels = self.annotations.labels
        before = np.asarray(self.form.predictions(self.before) == labels)
        return before, np.asarray(self.form.predictions(self.after) == labels)

    @cached_property
    def members(self) -> dict[str, NDArray[np.intp]]:
        """The images of each group, without those that an attack made."""
        about = self.annotations
        if about.groups is None:
            return {}
        plain = (
            ~attacked.adversarial(about)
            if attacked.is_attacked(about)
            else np.ones(len(about), bool)
        )
        return {
            name: np.flatnonzero(plain & (about.groups == number))
            for number, name in enumerate(about.group_names)
        }

    def changed_in(self, group: str) -> Discordant:
        """The images of a group whose answer turned right or wrong."""
        before, after = self.hits
        rows, copies = self.members[group], attacked.copies_of(self.annotations)
        return Discordant.of(before[rows], after[rows], None if copies is None else copies[rows])

    def changed_in_the_worst(self) -> tuple[Discordant, str]:
        """The same of the worst group before; of equals, of the one that gains least."""
        before = self.hits[0]
        shares = {
            name: float(before[rows].mean()) for name, rows in self.members.items() if len(rows)
        }
        worst = [name for name, share in shares.items() if share == min(shares.values())]
        changes = {name: self.changed_in(name) for name in worst}
        least = max(worst, key=lambda name: changes[name].p_gain)
        return changes[least], least


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The promises that an objective has.

    Attributes:
        objective: what is to be improved.
        metrics: from names to metrics.
        n_folds: of the cross-fitting; 0 where other images chose than judge.
        seed: of the resamples.
    """

    objective: Objective
    metrics: MetricsOf
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

    def rungs(self, answers: Answers, change: results.Figure) -> Iterator[Rung]:
        """What the answers say of each promise, the strongest first.

        Args:
            answers: of images that did not choose.
            change: of the objective, with its widened interval.
        """
        if self.objective.is_worst_group and answers.form is not None:
            yield self._worst_group(answers, change)
        else:
            yield self._objective(answers, change)
        for rung in (self._smooth(answers), self._likelihood(answers, change)):
            if rung is not None:
                yield rung

    def _objective(self, answers: Answers, change: results.Figure) -> Rung:
        """The objective itself, by an exact test where it is a share of right answers."""
        before, after = self._right(answers, answers.before), self._right(answers, answers.after)
        if before is not None and after is not None:
            copies = _copies_that_count(self.metric, answers.annotations)
            pairs = Discordant.of(before, after, copies)
            return Rung(
                name="objective",
                words=self.objective.metric,
                sure=pairs.p_gain <= LEVEL,
                why=_in_words(pairs),
                change=change,
                p=pairs.p_gain,
                needed=pairs.images_needed(LEVEL),
            )
        figure = figure_of(self.metric, answers.annotations)
        moved = paired_change(answers.before, answers.after, figure, seed=self.seed)
        low = moved.bound(LEVEL, sign=self.objective.sign, widening=self.widening)
        least = self.metric.measure.change(low).removeprefix("+")
        why = f"improves by at least {least} at {1 - LEVEL:.0%}"
        return Rung(
            name="objective", words=self.objective.metric, sure=low > 0, why=why, change=change
        )

    def _right(self, answers: Answers, outputs: Array) -> NDArray[np.bool_] | None:
        """Whether each image that counts is right; None for a metric that is no such share."""
        if not self.metric.per_image or self.objective.sign < 0:
            return None
        weights = self.metric.weights(answers.annotations)
        counted = weights > 0
        scores = self.metric.score(outputs, answers.annotations)[counted]
        even = np.allclose(weights[counted], weights[counted][:1])
        return scores > 0 if even and np.isin(scores, (0.0, 1.0)).all() else None

    def _worst_group(self, answers: Answers, change: results.Figure) -> Rung:
        """The worst group gains, by the exact test, and no other group stays as bad.

        Which group is worst is uncertain too: in each resample of the images the worst group after
        is compared with the worst before, whichever they are.
        """
        pairs, group = answers.changed_in_the_worst()
        figure = figure_of(self.metric, answers.annotations)
        moved = paired_change(answers.before, answers.after, figure, seed=self.seed)
        p = max(pairs.p_gain, moved.p_gain())
        why = f"group {group}: {_in_words(pairs)}"
        needed = pairs.images_needed(LEVEL)
        if pairs.p_gain <= LEVEL < p:
            why += f"; another group may be as bad ({p:.0%} of resamples gain nothing)"
            needed = None
        return Rung(
            name="objective",
            words="accuracy of the worst group",
            sure=p <= LEVEL,
            why=why,
            change=change,
            p=p,
            needed=needed,
            of_group=group,
        )

    def _smooth(self, answers: Answers) -> Rung | None:
        """The smooth twin of the objective, where it has one."""
        about = answers.annotations
        smooth = smooth_figure(self.metric, about)
        plain = figure_of(self.metric, about)
        if not isinstance(smooth, FigureOfImages):
            return None
        if isinstance(plain, FigureOfImages) and plain.score == smooth.score:
            return None
        words = f"the smooth twin of {self.objective.metric}"
        if smooth.groups is not None:
            words = "likelihood of the worst group"
        return self._by_figure(
            answers, smooth, name="smooth", words=words, sign=self.objective.sign
        )

    def _likelihood(self, answers: Answers, change: results.Figure) -> Rung | None:
        """The likelihood of the true class, balanced over groups, and no group surely worse."""
        about = answers.annotations
        if answers.form is None or answers.form.kind == "values" or attacked.is_attacked(about):
            return None
        name = "loss" if about.groups is None else "group_loss"
        if self.objective.metric == name or self.objective.beside:
            return None
        figure = figure_of(self.metrics((name,))[0], about)
        assert isinstance(figure, FigureOfImages)
        words = "likelihood of the true class"
        words += "" if about.groups is None else ", all groups counted alike"
        rung = self._by_figure(answers, figure, name="likelihood", words=words, sign=-1)
        worse = [group for group in answers.members if answers.changed_in(group).p_loss <= LEVEL]
        why = rung.why
        if worse:
            why += f"; but accuracy surely falls in {', '.join(worse)}"
        if self.objective.sign * change.value < 0:
            why += f"; but {self.objective.metric} gets worse"
        sure = rung.sure and not worse and self.objective.sign * change.value >= 0
        return replace(rung, sure=sure, why=why)

    def _by_figure(
        self, answers: Answers, figure: FigureOfImages, *, name: str, words: str, sign: int
    ) -> Rung:
        moved = paired_change(answers.before, answers.after, figure, seed=self.seed)
        low = moved.bound(LEVEL, sign=sign, widening=self.widening)
        ends = np.quantile(moved.resampled, _INTERVAL).tolist()
        inside = results.Figure(moved.value, min(ends[0], moved.value), max(ends[1], moved.value))
        why = f"improves by at least {low:.4f} at {1 - LEVEL:.0%}"
        change = widen(inside, self.widening)
        return Rung(name=name, words=words, sure=low > 0, why=why, change=change)


def _copies_that_count(metric: Metric, about: Annotations) -> NDArray[np.intp] | None:
    """The twins of the images that a metric counts, where images have spoiled copies."""
    copies = attacked.copies_of(about)
    return None if copies is None else copies[metric.weights(about) > 0]


def _in_words(pairs: Discordant) -> str:
    return (
        f"{pairs.gained} of {pairs.n_images} images turn right and {pairs.lost} turn wrong "
        f"(one-sided p = {pairs.p_gain:.2g})"
    )


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
    changes: Mapping[str, results.Figure]
    reached: Mapping[str, results.Figure]
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
class CureJudge:
    """By what cures are judged, on which images.

    Attributes:
        wishes: what is to be improved, and at which cost.
        metrics: from names to metrics.
        reported: the metrics whose changes are reported.
        form: of the outputs.
        annotations: of the images that judge.
        n_folds: of the cross-fitting; 0 where other images chose than judge.
        seed: of the resamples.
    """

    wishes: Wishes
    metrics: MetricsOf
    reported: tuple[str, ...]
    form: OutputForm | None
    annotations: Annotations
    n_folds: int
    seed: int

    @cached_property
    def ladder(self) -> Ladder:
        """The promises that the objective has."""
        return Ladder(
            objective=self.wishes.objective,
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
        about, metrics = self.annotations, self.metrics(self.reported)
        common: dict[str, Any] = {"form": self.form, "seed": self.seed}
        plain = difference(before, after, about, metrics, **common)
        counted = self.wishes.objective.judges_groups_by(self.metrics, about)
        if len(counted) < len(about):
            few = (before[counted], after[counted], about.take(counted))
            plain |= difference(*few, (), **common)
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
    wishes: Wishes, changes: Mapping[str, results.Figure], reached: Mapping[str, results.Figure]
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
        yield Refusal(falls_in_words(beyond, wishes.max_group_drop), costs_too_much=True)
    for target in wishes.targets:
        figure = reached[target.metric]
        if not target.met_with_caution(figure):
            reason = (
                f"{target.metric} is {measure_of(target.metric).figure(figure.value)}, which with "
                f"its standard error does not surely reach the target {target}"
            )
            yield Refusal(reason, costs_too_much=False)


def not_sure(objective: Objective, changes: Mapping[str, results.Figure]) -> str:
    """Why the gain may be chance, by its interval; empty where it is sure."""
    name, sign, promise = objective.metric, objective.sign, changes[objective.metric]
    if min(sign * promise.ci_low, sign * promise.ci_high) > 0:  # NaN is no gain
        return ""
    measure = objective.measure
    low, high = (measure.number(end, signed=True) for end in (promise.ci_low, promise.ci_high))
    change = measure.change(promise.value)
    return f"{name} changes by {change}, which may be chance (95 % interval {low} to {high})"
