"""The cure that refits the last layer on images in which every group weighs the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import ModelError
from repairkit.core.patch import HeadChange
from repairkit.core.suite import Indices
from repairkit.graph.baking import refitted
from repairkit.jobs.repair.cures.head_choice import HeadChoice
from repairkit.jobs.repair.cures.supplies import Supplies
from repairkit.jobs.repair.objective import ChoosingCriterion
from repairkit.jobs.setup.workbench import Bench
from repairkit.repairs import Cure, Cured, Folds, Nothing
from repairkit.repairs.refit import PENALTIES, Directions, balanced_weights, refit_path


@dataclass(frozen=True)
class RefitLastLayer:
    """See `choosing.Strategy`."""

    name: str = "last-layer"
    needs_values: bool = False

    def cure(self, bench: Bench, criterion: ChoosingCriterion, supplies: Supplies) -> Cure:
        """See `choosing.Strategy`."""
        return LastLayer(HeadChoice.of(bench, criterion, supplies))


@dataclass(frozen=True, eq=False)
class LastLayer:
    """See `repairs.Cure`: a last layer refitted on group-balanced images; see `repairs.refit`."""

    choice: HeadChoice
    name: str = "last-layer"
    penalties: Sequence[float] = PENALTIES

    def __post_init__(self) -> None:
        if self.choice.head.layer.fixed_weight:
            raise ModelError(self.choice.head.layer.fixed_weight)

    def on(self, within: Indices) -> Cured | Nothing:
        """See `repairs.Cure`."""
        choice, head = self.choice, self.choice.head
        features = head.read.features
        assert features is not None
        directions = Directions.of(features[within], bias=head.layer.place is not None)
        place = np.full(len(choice.labels), -1)
        place[within] = np.arange(len(within))
        folds = choice.folds(within)
        scores = np.repeat(head.read.scores[None], len(self.penalties), axis=0)
        for fold, rest in enumerate(folds.rest):
            members = np.flatnonzero(folds.fold_of == fold)
            for number, fitted in enumerate(self._path(directions, rest, place)):
                moved = directions.rows[place[members]] @ fitted
                scores[number][members, head.columns] += moved
        best, after, figures = self._chosen(scores, folds, within)
        if best is None or choice.gain(after, folds).value <= 0:
            return Nothing("no refit gains anything on images that it was not fitted to")
        *_, fitted = self._path(directions, within, place, self.penalties[: best + 1])
        weight, shift = (self._spread(part) for part in directions.change(fitted))

        def change_of(share: float) -> HeadChange:
            return refitted(head.index, head.layer, share * weight, share * shift)

        story = {
            "penalty": self.penalties[best],
            "figures": {f"{p:g}": f for p, f in zip(self.penalties, figures, strict=True)},
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

    def _path(
        self,
        directions: Directions,
        within: Indices,
        place: NDArray[np.intp],
        penalties: Sequence[float] | None = None,
    ) -> Iterator[NDArray[np.float64]]:
        """Coefficients for each penalty, fitted on the images at some positions."""
        labels = self.choice.labels[within]
        groups = labels if self.choice.groups is None else self.choice.groups[within]
        return refit_path(
            directions.rows[place[within]],
            self.choice.head.read.scores[within, self.choice.head.columns],
            labels,
            balanced_weights(groups),
            self.penalties if penalties is None else penalties,
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
