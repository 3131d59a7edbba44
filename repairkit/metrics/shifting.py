"""Shift a model's answers towards some classes, as a moved threshold or class biases would."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.metrics.outputs import OutputForm

_LEAST = 1e-12


def shift_outputs(
    outputs: Array, form: OutputForm, biases: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Outputs whose classes are the likelier by factors exp(bias), in the same form.

    Args:
        outputs: as the model gives them, for n images.
        form: how they are read; not `values`.
        biases: shape (n_classes,), in log-odds.
    """
    first, behind = form.columns or (0, None)
    shifted = np.asarray(outputs, np.float64).copy()
    rows = shifted.reshape(len(shifted), -1)
    scores = replace(form, columns=None).class_scores(
        np.asarray(outputs).reshape(len(outputs), -1)[:, first:behind]
    )
    if form.kind == "binary-logit":
        rows[:, first:behind] += biases[1] - biases[0]
    elif form.kind == "binary-probability":
        odds = scores * np.exp(biases - biases.max())
        rows[:, first:behind] = (odds / np.maximum(odds.sum(axis=1, keepdims=True), _LEAST))[:, 1:]
    elif form.kind.endswith("probabilities"):
        weighted = scores * np.exp(biases - biases.max())
        rows[:, first:behind] = weighted / np.maximum(weighted.sum(axis=1, keepdims=True), _LEAST)
    else:
        rows[:, first:behind] += biases
    return shifted
