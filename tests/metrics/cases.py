"""Labels, predictions and groups for the tests of metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from repairkit.core.suite import Annotations, Array

# Of images that columns tell apart; test_robustness.py and test_part_metrics.py have them.
ON_COLUMNS = (
    *("robustness", "robustness_loss", "clean_accuracy", "attack_success"),
    *("accuracy_to_fix", "accuracy_elsewhere", "loss_to_fix", "loss_elsewhere"),
)
GROUP_NAMES = ("dark", "fair", "olive", "pale")


def one_hot(predictions: Array, n_classes: int) -> NDArray[np.float32]:
    """Probabilities that are certain of the predictions."""
    return np.eye(n_classes, dtype=np.float32)[predictions]


def annotate(labels: Any, groups: Any = None, n_groups: int | None = None) -> Annotations:
    labels = np.asarray(labels, np.int64)
    if groups is None:
        return Annotations(labels=labels)
    groups = np.asarray(groups, np.int64)
    return Annotations(
        labels=labels, groups=groups, group_names=GROUP_NAMES[: n_groups or groups.max() + 1]
    )


@st.composite
def grouped_predictions(
    draw: st.DrawFn, n_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Labels, predictions and groups; every group has images of every class."""
    n_groups = draw(st.integers(2, 4))
    cells = [(label, group) for label in range(n_classes) for group in range(n_groups)]
    any_cell = st.tuples(st.integers(0, n_classes - 1), st.integers(0, n_groups - 1))
    cells += draw(st.lists(any_cell, max_size=30))
    labels, groups = np.array(cells).T
    said = st.lists(st.integers(0, n_classes - 1), min_size=len(cells), max_size=len(cells))
    return labels, np.array(draw(said)), groups


def noisy_logits(
    labels: NDArray[np.int64], n_classes: int, rng: np.random.Generator, strength: float = 1.5
) -> NDArray[np.float64]:
    logits = rng.normal(size=(len(labels), n_classes))
    logits[np.arange(len(labels)), labels] += strength
    return logits
