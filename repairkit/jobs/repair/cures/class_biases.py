"""The cure that moves class biases, and its like on the outputs alone, which freezes nothing.

With two classes that is a moved threshold. Every other repair should gain more than this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import ModelError
from repairkit.core.outputs import OutputForm, shift_outputs
from repairkit.core.patch import HeadChange
from repairkit.core.suite import Array, Indices
from repairkit.graph.baking import biased
from repairkit.jobs.repair.cures.head_choice import HeadChoice
from repairkit.jobs.repair.cures.supplies import Supplies
from repairkit.jobs.repair.objective import ChoosingCriterion, Limit, Objective, Wishes
from repairkit.jobs.setup.workbench import Bench
from repairkit.repairs import Criterion, Cure, Cured, Nothing
from repairkit.repairs.biases import STEPS, Biases, best_shift, fit_biases
from repairkit.repairs.refit import balanced_weights, refit_path

_TWO = 2
_MOST_THRESHOLDS = 201
_FEW_CLASSES = 16
_BIAS_PENALTY = 1e-3
_GRID = tuple(np.linspace(-3.0, 3.0, 49).tolist())

Shifted = Callable[[Biases], Array]
"""The outputs for all images under class biases."""


@dataclass(frozen=True)
class MoveBiases:
    """See `choosing.Strategy`."""

    name: str = "bias"
    needs_values: bool = False

    def cure(self, bench: Bench, criterion: ChoosingCriterion, supplies: Supplies) -> Cure:
        """See `choosing.Strategy`."""
        return ClassBiases(HeadChoice.of(bench, criterion, supplies))


@dataclass(frozen=True, eq=False)
class ClassBiases:
    """See `repairs.Cure`: class biases, or a moved threshold for two classes."""

    choice: HeadChoice
    name: str = "bias"

    def __post_init__(self) -> None:
        if self.choice.head.layer.fixed_bias:
            raise ModelError(self.choice.head.layer.fixed_bias)

    def on(self, within: Indices) -> Cured | Nothing:
        """See `repairs.Cure`."""
        choice, head = self.choice, self.choice.head
        folds = choice.folds(within)
        scores = head.read.scores.copy()
        for fold, rest in enumerate(folds.rest):
            scores[folds.fold_of == fold] += head.shifted(self._fit(rest))
        biases = self._fit(within)
        if not biases.any() or choice.gain(scores, folds).value <= 0:
            return Nothing("no class biases gain anything on images that did not choose them")

        def change_of(share: float) -> HeadChange:
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
        )


@dataclass(frozen=True)
class BiasControl:
    """Class biases that act on the outputs, and what they are in words."""

    form: OutputForm
    biases: Biases
    note: str

    def outputs(self, outputs: Array) -> Array:
        """What the model would answer."""
        return shift_outputs(outputs, self.form, self.biases) if self.biases.any() else outputs


def fit_control(bench: Bench, objective: Objective, max_drop: float) -> BiasControl | None:
    """The best class biases on the selection part within the accuracy that may be lost.

    None for a model without classes.
    """
    form, suite = bench.form, bench.parts.selection
    if form is None or form.kind == "values" or not bench.n_classes:
        return None
    outputs, about = bench.working.run_plain(suite), suite.annotations
    criterion = ChoosingCriterion(
        wishes=Wishes(objective=objective, limits=(Limit(bench.accuracy, max_drop),)),
        metrics=bench.metrics,
        form=form,
        annotations=about,
        plain=outputs,
    )

    def shifted(biases: Biases) -> Array:
        return shift_outputs(outputs, form, biases) if biases.any() else outputs

    everyone = np.arange(len(suite))
    biases = fit_shift(
        shifted,
        criterion,
        everyone,
        form=form,
        n_classes=bench.n_classes,
        labels=about.labels,
    )
    return BiasControl(form, biases, _note(biases, bench.n_classes == _TWO))


def fit_shift(
    shifted: Shifted,
    criterion: Criterion,
    within: Indices,
    *,
    form: OutputForm,
    n_classes: int,
    labels: NDArray[np.int64],
) -> Biases:
    """The class biases that gain most on some images within all limits.

    With two classes the thresholds between images are tried (at most 201 of them) and a grid; with
    more, the biases of the classes most often mistaken are moved, from coarse to fine. Of over 16
    classes these are the 16 worst, beginning at the biases that make classes of equal weight the
    likeliest.

    Args:
        shifted: see `Shifted`.
        criterion: of all these images.
        within: positions of the images that choose.
        form: of the outputs.
        n_classes: of the data.
        labels: of all images.
    """

    def figure(biases: Biases) -> float:
        return criterion.figure(criterion.columns(shifted(biases)), within)

    def allowed(biases: Biases) -> bool:
        return not criterion.objection(shifted(biases), within)

    plain = shifted(np.zeros(n_classes))[within]
    if n_classes == _TWO:
        return best_shift(figure, allowed, [*_GRID, *_thresholds(form, plain)])
    classes = _mistaken(form.predictions(plain), labels[within])
    if n_classes <= _FEW_CLASSES:
        return fit_biases(figure, allowed, n_classes, classes=classes)
    start = _likeliest(form.log_probabilities(plain), labels[within])
    return fit_biases(figure, allowed, n_classes, classes=classes, steps=STEPS[1:3], start=start)


def _likeliest(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> Biases:
    """The biases under which the labels are the likeliest, every class counting the same."""
    constant = np.ones((len(labels), 1))
    (fitted,) = refit_path(constant, scores, labels, balanced_weights(labels), (_BIAS_PENALTY,))
    return np.asarray(fitted[0])


def _thresholds(form: OutputForm, outputs: Array) -> list[float]:
    """Shifts of the log-odds that put the threshold between neighbouring images."""
    logs = form.log_probabilities(outputs)
    odds = np.unique(logs[:, 1] - logs[:, 0])
    between = (odds[1:] + odds[:-1]) / 2
    if len(between) > _MOST_THRESHOLDS:
        between = np.quantile(between, np.linspace(0, 1, _MOST_THRESHOLDS))
    border = _border(form)
    return [border - float(place) for place in between]


def _border(form: OutputForm) -> float:
    """The log-odds at which the model says class 1 as it is."""
    if form.threshold is None:
        return 0.0
    if form.kind == "binary-probability":
        share = min(max(form.threshold, 1e-12), 1 - 1e-12)
        return float(np.log(share / (1 - share)))
    return float(form.threshold)


def _mistaken(said: NDArray[np.int64], labels: NDArray[np.int64]) -> list[int]:
    """Classes by how many mistakes touch them, without those that none does."""
    wrong = said != labels
    touched = np.concatenate([labels[wrong], said[wrong & (said >= 0)]])
    classes, counts = np.unique(touched, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_FEW_CLASSES]
    return [int(number) for number in classes[order]]


def _note(biases: Biases, binary: bool) -> str:
    if not biases.any():
        return "freezes nothing; no shift was better than none on the selection part"
    if binary:
        return (
            f"freezes nothing: shifts the log-odds of class 1 by {biases[1]:+.3g}, fitted on the "
            "selection part"
        )
    return (
        f"freezes nothing: biases on {np.count_nonzero(biases)} classes, fitted on the selection "
        "part"
    )
