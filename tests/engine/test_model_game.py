"""Batches are drawn so that every metric of a game is estimated without bias, or refused."""

from typing import Any

import numpy as np
import pytest

from repairkit.core.errors import SettingsError
from repairkit.core.filters import Roster
from repairkit.core.game import Round
from repairkit.core.outputs import OutputForm
from repairkit.core.suite import Annotations, Suite
from repairkit.engine.evaluator import Reduce
from repairkit.engine.model_game import ModelGame
from repairkit.metrics.catalogue import make_metric

N = 600


class Noise:
    """Images that nobody looks at."""

    def __len__(self) -> int:
        return N

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return np.zeros((len(indices), 1), np.float32)


class Fixed:
    """An evaluator that gives every image its own fixed outputs under every coalition."""

    path = "fixed"

    def __init__(self, outputs: np.ndarray) -> None:
        self.outputs = outputs

    def answer(self, coalitions: np.ndarray, images: Any, reduce: Reduce) -> np.ndarray:
        rows = np.tile(np.arange(N), (len(coalitions), 1)) if images is None else images
        return np.stack([reduce(self.outputs[row], row) for row in rows])


def game_of(names: list[str]) -> ModelGame:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, N, p=[0.7, 0.2, 0.1])
    groups = (rng.random(N) < 0.1).astype(np.int64)
    annotations = Annotations(
        labels=labels, groups=groups, group_names=("a", "b"), class_names=("0", "1", "2")
    )
    logits = rng.standard_normal((N, 3))
    logits[np.arange(N), labels] += np.where(groups == 1, 0.3, 1.5) + labels
    suite = Suite.whole("selection", Noise(), annotations)
    metrics = [
        make_metric(n, form=OutputForm("logits"), annotations=annotations, n_classes=3)
        for n in names
    ]
    return ModelGame(Fixed(logits), Roster(()), suite, metrics)


@pytest.mark.parametrize(
    "names",
    [
        ["accuracy"],
        ["group_accuracy", "accuracy"],
        ["recall:2", "group_accuracy", "loss"],
        ["accuracy", "recall:1"],
        ["worst_group_accuracy", "accuracy"],
        ["worst_group_accuracy", "recall:2"],
    ],
)
def test_means_over_drawn_batches_are_the_figures_on_all_images(names: list[str]) -> None:
    game = game_of(names)
    whole = game.play(Round(np.zeros((1, 0), bool))).values[0]
    rng = np.random.default_rng(1)
    images = np.stack([game.facts.pool.draw(rng, 512) for _ in range(400)])
    found = game.play(Round(np.zeros((400, 0), bool), images)).values
    errors = found.std(axis=0) / np.sqrt(len(found))
    # A worst group on a batch is a little lower than on all images; the rest is unbiased.
    slack = np.array([0.01 if name.startswith("worst") else 0.0 for name in names])
    assert (np.abs(found.mean(axis=0) - whole) < 5 * errors + slack + 1e-12).all()


def test_metrics_that_need_different_batches_are_refused_where_batches_are_drawn() -> None:
    game = game_of(["worst_group_accuracy", "equal_opportunity_difference"])
    assert game.play(Round(np.zeros((1, 0), bool))).values.shape == (1, 2)
    images = game.facts.pool.draw(np.random.default_rng(0), 64)[None]
    with pytest.raises(SettingsError, match="in a run of its own"):
        game.play(Round(np.zeros((1, 0), bool), images))
