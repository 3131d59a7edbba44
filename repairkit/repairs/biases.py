"""Class biases, which move the borders between classes and freeze nothing.

With two classes that is a shift of the decision threshold.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Array, Indices
from repairkit.repairs.crossfit import Criterion
from repairkit.repairs.refit import balanced_weights, refit_path

Biases = NDArray[np.float64]
"""Shape (n_classes,), in log-odds; all 0 leaves the model as it is."""

Shifted = Callable[[Biases], Array]
"""The outputs for all images under class biases."""

Figure = Callable[[Biases], float]
"""What biases are worth; greater is better."""

Allowed = Callable[[Biases], bool]
"""Whether biases keep to all limits; asked only where they are worth more than the best so far."""

STEPS = (1.0, 0.5, 0.25, 0.125)
_PASSES = 3
_MOST_BIAS = 6.0
_LEAST_GAIN = 1e-9
_LEAST = 1e-45  # the least positive number of 32 bits

_TWO = 2
_MOST_THRESHOLDS = 201
_FEW_CLASSES = 16
_BIAS_PENALTY = 1e-3
_GRID = tuple(np.linspace(-3.0, 3.0, 49).tolist())


def fit_shift(
    shifted: Shifted,
    criterion: Criterion,
    within: Indices,
    *,
    form: OutputForm,
    n_classes: int,
    labels: NDArray[np.int64],
    given_up: int = -1,
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
        given_up: a class that is to be named no longer; the search begins where it never is.
    """

    def figure(biases: Biases) -> float:
        return criterion.figure(criterion.columns(shifted(biases)), within)

    def allowed(biases: Biases) -> bool:
        return not criterion.objection(shifted(biases), within)

    plain = shifted(np.zeros(n_classes))[within]
    if n_classes == _TWO:
        return best_shift(figure, allowed, [*_GRID, *_thresholds(form, plain)])
    if given_up >= 0:  # other biases would move for next to nothing
        start = _never(form, plain, given_up)
        return fit_biases(figure, allowed, n_classes, classes=(given_up,), start=start)
    classes = _mistaken(form.predictions(plain), labels[within])
    if n_classes <= _FEW_CLASSES:
        return fit_biases(figure, allowed, n_classes, classes=classes)
    start = _likeliest(form.log_probabilities(plain), labels[within])
    return fit_biases(figure, allowed, n_classes, classes=classes, steps=STEPS[1:3], start=start)


def fit_biases(
    figure: Figure,
    allowed: Allowed,
    n_classes: int,
    *,
    classes: Sequence[int],
    steps: Sequence[float] = STEPS,
    start: Biases | None = None,
) -> Biases:
    """The best biases within limits, class by class, with steps from coarse to fine.

    Args:
        figure: see `Figure`.
        allowed: see `Allowed`.
        n_classes: of the model.
        classes: whose biases are moved, in this order.
        steps: by how much; each is used until no move is better.
        start: biases to begin at where they, or half of them, are better than none.
    """
    best = np.zeros(n_classes)
    reached = figure(best)
    for tried in () if start is None else (start, start / 2):
        worth = figure(tried)
        if worth > reached + _LEAST_GAIN and allowed(tried):
            best, reached = tried, worth
    for step in steps:
        for _ in range(_PASSES):
            before = best
            for number in classes:
                for move in (step, -step):
                    tried = best.copy()
                    tried[number] = np.clip(tried[number] + move, -_MOST_BIAS, _MOST_BIAS)
                    worth = figure(tried)
                    if worth > reached + _LEAST_GAIN and allowed(tried):
                        best, reached = tried, worth
                        break
            if best is before:
                break
    return best


def best_shift(figure: Figure, allowed: Allowed, shifts: Sequence[float]) -> Biases:
    """The best shift of class 1 against class 0 within limits; of equals the smallest.

    Args:
        figure: see `Figure`.
        allowed: see `Allowed`.
        shifts: of the log-odds; 0 is always one of them.
    """
    best = np.zeros(2)
    reached = figure(best)
    for shift in sorted(shifts, key=abs):
        tried = np.array([0.0, shift])
        worth = figure(tried)
        if worth > reached + _LEAST_GAIN and allowed(tried):
            best, reached = tried, worth
    return best


def _never(form: OutputForm, outputs: Array, given_up: int) -> Biases:
    """The biases under which a class is the likeliest for none of these images, and just so.

    By the scores themselves: log-likelihoods have a floor, below which sure answers are alike.
    """
    scores = form.class_scores(outputs).astype(np.float64)
    if form.in_probabilities:
        scores = np.log(np.maximum(scores, _LEAST))
    others = np.delete(scores, given_up, axis=1).max(axis=1)
    biases = np.zeros(scores.shape[1])
    biases[given_up] = -max(0.0, float((scores[:, given_up] - others).max())) - STEPS[-1]
    return biases


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
