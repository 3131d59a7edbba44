"""Metrics that look at some images only, such as the recall of every class."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.game import Outcomes, Round
from repairkit.core.scores import Budget, Scores
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.linear.regression import Regression
from repairkit.estimators.linear.rows import OutcomeTable
from tests.games import Floats, TableGame, any_values, noisy

N_PLAYERS, N_CLASSES, PER_CLASS = 5, 10, 4


class ClassGame(TableGame):
    """A first metric on all images, then one per class, whose images alone it looks at."""

    def __init__(self, scores: Floats, *, told: bool) -> None:
        n_images = scores.shape[1]
        classes = np.arange(n_images) % N_CLASSES
        own = (classes[:, None] == np.arange(N_CLASSES)) * N_CLASSES
        table = np.concatenate([scores, scores * own], axis=2)
        super().__init__(table)
        if told:
            images = tuple(np.flatnonzero(classes == c) for c in range(N_CLASSES))
            self.facts = replace(self.facts, images_of=(None, *images))


def class_game(*, told: bool) -> ClassGame:
    values = any_values(N_PLAYERS, seed=1)
    return ClassGame(noisy(values, noise=0.4, n_images=N_CLASSES * PER_CLASS), told=told)


def run(game: TableGame, estimator: Regression) -> Scores:
    return estimate(game, estimator, budget=Budget(4_000), seed=0).scores


def test_every_class_is_worth_what_it_is_by_enumeration() -> None:
    game = class_game(told=True)
    truth = estimate(game, Exact(), budget=Budget(), seed=0).scores.values
    found = run(game, Regression(sizes="shapley"))
    assert (abs(found.values - truth) <= 4.5 * found.std_errors).all()


def test_rows_on_other_images_are_left_out_and_not_missed() -> None:
    told, untold = (run(class_game(told=t), Regression(sizes="shapley")) for t in (True, False))
    np.testing.assert_allclose(told.values[:, 0], untold.values[:, 0], atol=1e-6)
    assert told.std_errors[:, 1:].mean() < untold.std_errors[:, 1:].mean()


def test_a_class_with_too_few_rows_is_not_known() -> None:
    game = class_game(told=True)
    scores = estimate(game, Regression(pilot_rows=32, round_rows=64), budget=Budget(130), seed=0)
    assert np.isinf(scores.scores.std_errors[:, 1:]).all()
    assert np.isfinite(scores.scores.values).all()


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_what_is_kept_is_what_was_told(n_metrics: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = OutcomeTable(n_metrics)
    rounds = [
        np.where(rng.random((n, n_metrics)) < 0.3, rng.standard_normal((n, n_metrics)), 0.0)
        for n in rng.integers(1, 6, 3).tolist()
    ]
    for values in rounds:
        table.add(values)
    whole = np.concatenate(rounds).astype(np.float32).astype(np.float64)
    columns = table.columns()
    everything = np.arange(n_metrics)
    np.testing.assert_array_equal(columns.of(everything, None), whole)
    some = np.flatnonzero(rng.random(len(whole)) < 0.5)
    np.testing.assert_array_equal(columns.of(everything[::2], some), whole[some][:, ::2])


@pytest.mark.parametrize("per_row", [1, 3])
def test_images_that_share_a_coalition_tell_of_all_their_classes(per_row: int) -> None:
    estimator = Regression(sizes="shapley", images_per_coalition=per_row)
    game = class_game(told=True)
    truth = estimate(game, Exact(), budget=Budget(), seed=0).scores.values
    found = run(game, estimator)
    assert (abs(found.values - truth) <= 4.5 * found.std_errors).all()


def test_many_metrics_take_the_memory_of_what_they_tell() -> None:
    table = OutcomeTable(1_000)
    asked = Round(np.ones((512, 3), bool), np.zeros((512, 1), np.intp))
    scores = np.zeros((len(asked), 1, 1_000))
    scores[np.arange(512), 0, np.arange(512)] = 1.0
    table.add(Outcomes(scores).values)
    kept = sum(a.nbytes for a in (*table.numbers, *table.places))
    assert kept == 512 * (4 + 8)
