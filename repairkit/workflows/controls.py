"""Fit the control that freezes nothing on the selection part, and apply it to outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.metrics import OutputForm
from repairkit.metrics.shifting import shift_outputs
from repairkit.repairs.controls import Biases, fit_biases
from repairkit.workflows.bench import Bench
from repairkit.workflows.objective import Objective
from repairkit.workflows.selection_story import figures_of

_TWO = 2
_MOST_THRESHOLDS = 201
_MOST_CLASSES = 32
_GRID = tuple(np.linspace(-3.0, 3.0, 25).tolist())


@dataclass(frozen=True)
class Control:
    """Class biases, and what they are in words."""

    form: OutputForm
    biases: Biases
    note: str

    def outputs(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """What the model would answer."""
        return shift_outputs(outputs, self.form, self.biases) if self.biases.any() else outputs


def fit_control(bench: Bench, objective: Objective, max_drop: float) -> Control | None:
    """The best shift on the selection part within the accuracy that may be lost.

    With two classes every threshold that images tell apart is tried (at most 201 of them); with
    more, biases from -3 to 3 in steps of a quarter for the 32 classes most often mistaken. None for
    a model without classes.
    """
    form, suite = bench.form, bench.parts.selection
    if form is None or form.kind == "values" or not bench.n_classes:
        return None
    outputs, about = bench.run_plain(suite), suite.annotations
    metrics = bench.metrics(tuple(dict.fromkeys((objective.metric, "accuracy"))))

    def judge(biases: Biases) -> tuple[float, float | None]:
        figures = figures_of(metrics, shift_outputs(outputs, form, biases), about)
        return objective.sign * figures[objective.metric], figures["accuracy"]

    binary = bench.n_classes == _TWO
    biases = fit_biases(
        judge,
        bench.n_classes,
        classes=[1] if binary else _mistaken(form.predictions(outputs), about.labels),
        shifts=_thresholds(form, outputs) if binary else _GRID,
        max_drop=max_drop,
    )
    return Control(form, biases, _note(biases, binary))


def _thresholds(form: OutputForm, outputs: NDArray[Any]) -> list[float]:
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
    order = np.argsort(-counts, kind="stable")[:_MOST_CLASSES]
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
