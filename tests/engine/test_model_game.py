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
from repairkit.engine.model_game import ModelGame, some_images
from repairkit.metrics.catalogue import make_metric
from repairkit.metrics.definition import auxiliary_of

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


def game_of(names: list[str], *, soft: bool = False, guard: str = "") -> ModelGame:
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
    guards = make_metric(guard, form=OutputForm("logits"), annotations=annotations,
                         n_classes=3) if guard else None  # fmt: skip
    beside = [auxiliary_of(metric) for metric in metrics] if soft else []
    return ModelGame(Fixed(logits), Roster(()), suite, metrics, guard=guards, auxiliaries=beside)


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


def test_auxiliary_metrics_come_last_and_are_weighed_as_theirs() -> None:
    names = ["recall:0", "loss", "group_accuracy"]
    game = game_of(names, soft=True, guard="accuracy")
    plain = game_of(names, guard="accuracy")
    assert game.facts.metrics == (
        *names, "accuracy", "recall:0 (soft)", "group_accuracy (soft)",
    )  # fmt: skip
    assert game.facts.auxiliaries == (4, -1, 5, -1, -1, -1)
    assert plain.facts.auxiliaries == ()
    assert game.facts.guard == plain.facts.guard == 3
    np.testing.assert_array_equal(game.facts.pool.probabilities, plain.facts.pool.probabilities)
    everyone = Round(np.ones((1, 0), bool))
    outcomes, before = game.play(everyone), plain.play(everyone)
    np.testing.assert_array_equal(outcomes.scores[:, :, :4], before.scores)
    for metric, column in ((0, 4), (2, 5)):
        counted, soft = (outcomes.scores[0, :, k] > 0 for k in (metric, column))
        assert (soft | ~counted).all()
        own, other = game.facts.images_of[metric], game.facts.images_of[column]
        np.testing.assert_array_equal(own, other)  # None stands for all
    drawn = game.facts.pool.draw(np.random.default_rng(0), 6_000)
    by_draws = game.play(Round(np.ones((6_000, 0), bool), drawn[:, None])).values
    assert by_draws.mean(axis=0) == pytest.approx(outcomes.values[0], rel=0.1)


def test_auxiliary_metrics_are_cut_with_their_images() -> None:
    names = ["recall:0", "group_accuracy"]
    game, plain = (game_of(names, soft=soft) for soft in (True, False))
    metrics = [metric for metric in game._metrics if "soft" not in metric.name]
    positions = np.arange(0, N, 2)
    some = some_images(game.facts, game.suite, metrics, positions)
    other = some_images(plain.facts, plain.suite, metrics, positions)
    assert some is not None
    assert other is not None
    np.testing.assert_array_equal(some.ratios[:, :2], other.ratios)
    np.testing.assert_array_equal(some.ratios[:, 2:], other.ratios)
    assert some.facts.auxiliaries == (2, 3, -1, -1)
    assert len(some.facts.images_of) == 4
