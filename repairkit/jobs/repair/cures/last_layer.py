"""The cures of the last layer: class biases moved, and weights refitted.

Weights are fitted to labels, every group with the same total weight. Where images were made by a
trigger or an attack they are fitted to the model's own answers to clean images; see
`repairs.refit`.

The model is run once on all selection images, and what passes its last layer is kept. The rest is
arithmetic: a choice without some images costs no forward pass. With two classes, a moved bias is a
moved threshold. Every other repair should gain more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from repairkit.core import attacked, errors, filters
from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations, Array, Indices
from repairkit.data.parts import cells_of
from repairkit.engine.proof import HeadReader, Tapped, changed_scores, check_head
from repairkit.graph.baking import biased, changes_head, refitted
from repairkit.graph.kinds.class_head import ClassHead, find_head
from repairkit.graph.protos import GraphIndex
from repairkit.jobs.repair.cures.supplies import Supplies
from repairkit.jobs.repair.objective import ChoosingCriterion
from repairkit.jobs.setup.workbench import Bench
from repairkit.repairs import refit
from repairkit.repairs.biases import fit_shift
from repairkit.repairs.crossfit import Bound, Criterion, Folds, assign_folds, gain_of_columns
from repairkit.repairs.cure import Cure, Cured, Nothing, Story

N_FOLDS = 5
SHARES = (0.25, 0.5, 0.75, 1.0)
"""Of a change: where the whole of it costs too much, a part of it may not."""

_DOUBT, _RESAMPLES = 0.3, 200
_STREAM = 5  # of the seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """The last layer of a workbench's model, and what passes it for the selection images.

    Attributes:
        index: of the model.
        layer: its last layer.
        form: of the outputs.
        read: what passes it.
        n_classes: of the data.
    """

    index: GraphIndex
    layer: ClassHead
    form: OutputForm
    read: Tapped
    n_classes: int

    @property
    def columns(self) -> slice:
        """The scores that count."""
        first, behind = self.form.columns or (0, self.layer.n_classes)
        return slice(first, behind)

    @property
    def is_single(self) -> bool:
        """Whether one score tells two classes apart: the log-odds of class 1."""
        return self.form.kind.startswith("binary")

    def outputs(self, scores: NDArray[np.float64]) -> Array:
        """What the model makes of class scores, as it gives them."""
        plain = self.read.outputs
        return self.layer.answers(scores).astype(plain.dtype).reshape(-1, *plain.shape[1:])

    def shifted(self, biases: NDArray[np.float64]) -> NDArray[np.float64]:
        """Biases of the classes of the data, as a shift of all class scores."""
        shift = np.zeros(self.layer.n_classes)
        shift[self.columns] = biases[1:] - biases[:1] if self.is_single else biases
        return shift


def find_class_head(bench: Bench) -> Head:
    """Find the last layer, run the model once on all selection images, and check both.

    Raises:
        ModelError: why the last layer cannot be changed, in one line.
    """
    form = bench.form
    if form is None or form.kind == "values" or not bench.n_classes:
        raise errors.ModelError("the model gives no classes, so its last layer has no class scores")
    index, output = GraphIndex(bench.subject.model), bench.subject.output
    head = find_head(index, output)
    if head.fixed_bias and head.fixed_weight:
        raise errors.ModelError(f"{head.fixed_bias}; {head.fixed_weight}")
    reader = HeadReader(bench.working.opened, head, features=not head.fixed_weight)
    read = reader.read_suite(bench.parts.selection, bench.working.effort.batch_size)
    check_head(head, read, output)
    return Head(index=index, layer=head, form=form, read=read, n_classes=bench.n_classes)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images that an attack or a trigger made, and the clean images that they were made from.

    Attributes:
        made: (n_images,), whether each was made.
        twin_of: (n_images,), the place of the clean twin; its own for a clean image, -1 where it is
            not among the images.
        unwanted: (n_images,), the class that a made image is to be taken for by who made it; -1 for
            clean images.
    """

    made: NDArray[np.bool_]
    twin_of: NDArray[np.intp]
    unwanted: NDArray[np.int64]

    @classmethod
    def of(cls, about: Annotations) -> Pairs | None:
        """Of images; None where none of them was made so."""
        if not attacked.is_attacked(about):
            return None
        made = attacked.adversarial(about)
        leading, place = attacked.leaders(about)
        twin_of = leading[place]
        target = about.attributes[attacked.TARGET].astype(np.int64)
        # A target that is the right class is no wrong answer.
        meant = made & (target != about.labels)
        return cls(made, np.where(made[twin_of], -1, twin_of), np.where(meant, target, -1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """What a last layer is fitted to.

    Attributes:
        name: for reports.
        wanted: see `refit.refit_path`, of all selection images.
        weights: of the images at some positions, adding up to 1.
        penalties: from strong to weak.
    """

    name: str
    wanted: NDArray[np.int64] | NDArray[np.float64]
    weights: Callable[[Indices], NDArray[np.float64]]
    penalties: Sequence[float]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadChoice:
    """What cures of the last layer have in common.

    Attributes:
        head: the last layer.
        criterion: what to improve, on all selection images.
        labels: of the selection images, (n_images,).
        groups: of the selection images, those to fix apart; None where there are none.
        strata: see `assign_folds`.
        twins: see `assign_folds`.
        seed: of the job.
        given_up: a class that is to be named no longer; -1 where none is.
        pairs: which images were made from which; None where the objective is not about images
            that an attack or a trigger made.
    """

    head: Head
    criterion: Criterion
    labels: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None
    strata: NDArray[np.int64]
    twins: NDArray[np.intp] | None = None
    seed: int = 0
    given_up: int = -1
    pairs: Pairs | None = None

    @classmethod
    def of(cls, bench: Bench, criterion: ChoosingCriterion, supplies: Supplies) -> HeadChoice:
        """For a workbench.

        Raises:
            ModelError: why the last layer cannot be changed, in one line.
        """
        about = bench.parts.selection.annotations
        return cls(
            head=supplies.once(find_class_head, bench),
            criterion=criterion,
            labels=about.labels,
            groups=cells_of(about),
            strata=supplies.strata,
            twins=supplies.twins,
            seed=bench.settings.seed,
            given_up=criterion.given_up,
            pairs=Pairs.of(about) if criterion.objective.is_of_attacks else None,
        )

    def folds(self, within: Indices) -> Folds:
        """Folds inside the images that choose."""
        rng = np.random.default_rng([self.seed, _STREAM])
        return assign_folds(self.strata, N_FOLDS, rng, within=within, twins=self.twins)

    @cached_property
    def plain_columns(self) -> Array:
        """Of the criterion, for the model as it is."""
        return self.criterion.columns(self.head.outputs(self.head.read.scores))

    def gain(self, scores: NDArray[np.float64], folds: Folds) -> Bound:
        """What class scores gain that no image chose for itself, over the model as it is."""
        rng = np.random.default_rng([self.seed, _STREAM, 1])
        return gain_of_columns(
            self.criterion,
            self.plain_columns,
            self.criterion.columns(self.head.outputs(scores)),
            folds,
            doubt=_DOUBT,
            n_resamples=_RESAMPLES,
            rng=rng,
        )

    def cured(
        self,
        *,
        name: str,
        action: str,
        change_of: Callable[[float], filters.HeadChange],
        scores: NDArray[np.float64],
        folds: Folds,
        story: Story,
    ) -> Cured | Nothing:
        """The cure, with a quarter, a half and three quarters of the change as smaller steps.

        Args:
            name: of the cure.
            action: what it does, in words.
            change_of: a share of the change, in (0, 1], to what is baked.
            scores: class scores of each image under the change that its fold did not choose.
            folds: inside the images that chose.
            story: how it was chosen.
        """
        steps: list[Cured] = []
        read = self.head.read
        for share in SHARES:
            change = change_of(share)
            if not changes_head(self.head.layer, change):
                continue
            outputs = self.head.outputs(changed_scores(self.head.layer, change, read))
            gain = self.gain(read.scores + share * (scores - read.scores), folds)
            steps.append(
                Cured(
                    patch=filters.Patch((), change),
                    outputs=outputs,
                    gain=gain,
                    story={"layer": change.layer, "share": share, **story},
                    name=name,
                    action=action,
                )
            )
        if not steps:
            return Nothing("the change is less than the model's numbers can hold", story)
        return replace(steps[-1], fewer=tuple(steps[:-1]))


@dataclass(frozen=True, eq=False)
class ClassBiases:
    """See `cure.Cure`: class biases, or a moved threshold for two classes."""

    choice: HeadChoice
    name: str = "bias"

    def __post_init__(self) -> None:
        if self.choice.head.layer.fixed_bias:
            raise errors.ModelError(self.choice.head.layer.fixed_bias)

    def on(self, within: Indices) -> Cured | Nothing:
        """See `cure.Cure`."""
        choice, head = self.choice, self.choice.head
        folds = choice.folds(within)
        scores = head.read.scores.copy()
        for fold, rest in enumerate(folds.rest):
            scores[folds.fold_of == fold] += head.shifted(self._fit(rest))
        biases = self._fit(within)
        if not biases.any() or choice.gain(scores, folds).value <= 0:
            return Nothing("no class biases gain anything on images that did not choose them")

        def change_of(share: float) -> filters.HeadChange:
            return biased(head.index, head.layer, share * head.shifted(biases))

        return choice.cured(
            name=self.name,
            action="moving the class biases",
            change_of=change_of,
            scores=scores,
            folds=folds,
            story={"biases": biases.tolist()},
        )

    def _outputs(self, biases: NDArray[np.float64]) -> Array:
        head = self.choice.head
        return head.outputs(head.read.scores + head.shifted(biases))

    def _fit(self, within: Indices) -> NDArray[np.float64]:
        choice, head = self.choice, self.choice.head
        return fit_shift(
            self._outputs,
            choice.criterion,
            within,
            form=head.form,
            n_classes=head.n_classes,
            labels=choice.labels,
            given_up=choice.given_up,
        )


@dataclass(frozen=True, eq=False)
class LastLayer:
    """See `cure.Cure`: a last layer refitted to what its `Lesson` says; see `repairs.refit`."""

    choice: HeadChoice
    name: str = "last-layer"

    def __post_init__(self) -> None:
        if self.choice.head.layer.fixed_weight:
            raise errors.ModelError(self.choice.head.layer.fixed_weight)

    def on(self, within: Indices) -> Cured | Nothing:
        """See `cure.Cure`."""
        choice, head, penalties = self.choice, self.choice.head, self.lesson.penalties
        features = head.read.features
        assert features is not None
        directions = refit.Directions.of(features[within], bias=head.layer.place is not None)
        place = np.full(len(choice.labels), -1)
        place[within] = np.arange(len(within))
        folds = choice.folds(within)
        scores = np.repeat(head.read.scores[None], len(penalties), axis=0)
        for fold, rest in enumerate(folds.rest):
            members = np.flatnonzero(folds.fold_of == fold)
            for number, fitted in enumerate(self._path(directions, rest, place, penalties)):
                moved = directions.rows[place[members]] @ fitted
                scores[number][members, head.columns] += moved
        best, after, figures = self._chosen(scores, folds, within)
        if best is None or choice.gain(after, folds).value <= 0:
            return Nothing("no refit gains anything on images that it was not fitted to")
        *_, fitted = self._path(directions, within, place, penalties[: best + 1])
        weight, shift = (self._spread(part) for part in directions.change(fitted))

        def change_of(share: float) -> filters.HeadChange:
            return refitted(head.index, head.layer, share * weight, share * shift)

        story = {
            "fitted_to": self.lesson.name,
            "penalty": penalties[best],
            "figures": {f"{p:g}": f for p, f in zip(penalties, figures, strict=True)},
            "figure_before": choice.criterion.figure(choice.plain_columns, within),
        }
        return choice.cured(
            name=self.name,
            action="refitting the last layer",
            change_of=change_of,
            scores=after,
            folds=folds,
            story=story,
        )

    @cached_property
    def lesson(self) -> Lesson:
        """What the layer is fitted to."""
        choice, pairs = self.choice, self.choice.pairs
        if pairs is None:
            groups = choice.labels if choice.groups is None else choice.groups
            return Lesson(
                name="labels",
                wanted=choice.labels,
                weights=lambda within: refit.balanced_weights(groups[within]),
                penalties=refit.PENALTIES,
            )
        scores = choice.head.read.scores[:, choice.head.columns]
        return Lesson(
            name="own answers",
            wanted=refit.own_answers(scores, choice.labels, pairs.twin_of, pairs.unwanted),
            weights=lambda within: refit.shared_weights(pairs.made[within], refit.SHARE_OF_MADE),
            penalties=refit.PENALTIES_OF_ANSWERS,
        )

    def _path(
        self,
        directions: refit.Directions,
        within: Indices,
        place: NDArray[np.intp],
        penalties: Sequence[float],
    ) -> Iterator[NDArray[np.float64]]:
        """Coefficients for each penalty, fitted on the images at some positions."""
        return refit.refit_path(
            directions.rows[place[within]],
            self.choice.head.read.scores[within, self.choice.head.columns],
            self.lesson.wanted[within],
            self.lesson.weights(within),
            penalties,
        )

    def _chosen(
        self, scores: NDArray[np.float64], folds: Folds, within: Indices
    ) -> tuple[int | None, NDArray[np.float64], list[float]]:
        """The best penalty within limits, None where none is better than the model as it is.

        With the scores of each fold's images under the penalty that is best on the other folds, and
        the figure of each penalty.

        Args:
            scores: (n_penalties, n_images, n_classes), of images that were not fitted to.
            folds: inside the images that choose.
            within: the images that choose.
        """
        choice, head = self.choice, self.choice.head
        outputs = [head.outputs(one) for one in scores]
        columns = [choice.criterion.columns(one) for one in outputs]
        fit = [not choice.criterion.objection(one, within) for one in outputs]
        numbers = [None, *np.flatnonzero(fit).tolist()]

        def best(positions: Indices) -> int | None:
            ways = [choice.plain_columns if n is None else columns[n] for n in numbers]
            figures = [choice.criterion.figure(way, positions) for way in ways]
            return numbers[int(np.argmax(figures))]

        after = head.read.scores.copy()
        for fold, rest in enumerate(folds.rest):
            winner, members = best(rest), folds.fold_of == fold
            if winner is not None:
                after[members] = scores[winner][members]
        figures = [choice.criterion.figure(way, within) for way in columns]
        return best(within), after, figures

    def _spread(self, part: NDArray[np.float64]) -> NDArray[np.float64]:
        """A change of the scores that count, as one of all scores."""
        whole = np.zeros((self.choice.head.layer.n_classes, *part.shape[1:]))
        whole[self.choice.head.columns] = part
        return whole


@dataclass(frozen=True)
class ChangeLastLayer:
    """See `supplies.Strategy`."""

    name: str
    cure_of: Callable[[HeadChoice], Cure]
    needs_values: bool = False

    def cure(self, bench: Bench, criterion: ChoosingCriterion, supplies: Supplies) -> Cure:
        """See `supplies.Strategy`."""
        return self.cure_of(HeadChoice.of(bench, criterion, supplies))


MOVE_BIASES = ChangeLastLayer("bias", ClassBiases)
REFIT_LAST_LAYER = ChangeLastLayer("last-layer", LastLayer)
