"""Metrics of sets: values must be those of V over all images, whatever a run asks for."""

from dataclasses import replace

import numpy as np
import pytest

from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round
from repairkit.core.scores import Budget, Estimator
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact, shapley_values
from repairkit.estimators.linear.regression import Regression
from repairkit.estimators.linear.repair_values import RepairRegression
from repairkit.estimators.reference_scores import LeaveOneOut
from repairkit.estimators.walking.marginals import Marginals
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab
from tests.games import WatchedGame, members

N_PLAYERS, N_IMAGES, N_GROUPS = 6, 60, 4


class WorstGroupGame:
    """The accuracy of the worst of four uneven groups; each filter matters to one group most.

    A row on some images gives the figure of these, as a batch would: groups without an image are
    left out.
    """

    def __init__(self, seed: int = 0, *, of_sets: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self.groups = np.sort(rng.choice(N_GROUPS, N_IMAGES, p=[0.6, 0.2, 0.12, 0.08]))
        taste = rng.normal(0.3, 0.5, (N_PLAYERS, N_GROUPS))
        own = rng.normal(0, 0.4, (N_PLAYERS, N_IMAGES))
        margins = members(N_PLAYERS) @ (taste[:, self.groups] + own)
        self.right = margins + rng.normal(0, 0.5, N_IMAGES) > 0.2
        pool = ImagePool.uniform(N_IMAGES)
        self.facts = GameFacts(
            n_players=N_PLAYERS, metrics=("worst",), score_widths=(1.0,), pool=pool, of_sets=of_sets
        )

    @property
    def values(self) -> np.ndarray:
        return np.array([self._worst(row, self.groups) for row in self.right])

    def _worst(self, right: np.ndarray, groups: np.ndarray) -> float:
        return float(min(right[groups == group].mean() for group in np.unique(groups)))

    def play(self, round: Round) -> Outcomes:
        codes = round.coalitions @ (1 << np.arange(N_PLAYERS))
        images = round.images
        if images is None:
            images = np.broadcast_to(np.arange(N_IMAGES), (len(codes), N_IMAGES))
        worst = [
            self._worst(self.right[code, own], self.groups[own])
            for code, own in zip(codes.tolist(), images, strict=True)
        ]
        scores = np.repeat(np.array(worst)[:, None, None], images.shape[1], axis=1)
        return Outcomes(scores)


METHODS: dict[str, Estimator] = {
    "permutation": Permutation(batch_size=1, chunk=7),
    "regression": Regression(),
    "regression-16": Regression(images_per_coalition=16),
    "tmab": Tmab(batch_size=8),
    "marginals": Marginals(top_k=1, batch_size=8),
}


@pytest.mark.parametrize("name", METHODS)
def test_intervals_hold_the_values_of_the_whole_part(name: str) -> None:
    held = []
    for seed in range(12):
        game = WorstGroupGame(seed)
        true = shapley_values(game.values[:, None])[:, 0]
        scores = estimate(game, METHODS[name], budget=Budget(600), seed=seed).scores
        low, high = scores.ci_low[:, 0] - 1e-9, scores.ci_high[:, 0] + 1e-9
        held.append((low <= true) & (true <= high))
        assert np.ptp(scores.values) > 0.01
    assert np.mean(held) >= 0.9


def test_every_coalition_is_tried_on_all_images() -> None:
    for estimator in (*METHODS.values(), Exact(), LeaveOneOut()):
        game = WatchedGame(WorstGroupGame())
        spent = estimate(game, estimator, budget=Budget(300), seed=0).spent
        assert all(round.images is None for round in game.rounds)
        assert spent.image_passes == spent.evaluations * N_IMAGES


def test_without_it_a_batch_would_give_another_figure() -> None:
    """The mean over small batches is far from V, one way or the other: rare groups are missing."""
    biases = []
    for seed in range(8):
        plain = WorstGroupGame(seed, of_sets=False)
        everyone = np.ones((400, N_PLAYERS), bool)
        images = np.random.default_rng(seed).integers(N_IMAGES, size=(400, 12))
        biases.append(float(plain.play(Round(everyone, images)).values.mean()) - plain.values[-1])
    assert np.abs(biases).mean() > 0.05


def test_a_semivalue_of_a_set_metric_is_that_of_the_whole_part() -> None:
    game = WorstGroupGame(3)
    settings = RepairRegression(least_removed=0.1, most_removed=0.2, errors_over="rows")
    scores = estimate(game, settings, budget=Budget(400), seed=0).scores
    by_code = game.values
    full = 2**N_PLAYERS - 1
    alone = [by_code[full] - by_code[full ^ (1 << player)] for player in range(N_PLAYERS)]
    pairs = [
        np.mean([by_code[full ^ (1 << j)] - by_code[full ^ (1 << j) ^ (1 << i)]
                 for j in range(N_PLAYERS) if j != i])
        for i in range(N_PLAYERS)
    ]  # fmt: skip
    between = np.sort(np.stack([alone, pairs]), axis=0)
    slack = 4 * scores.std_errors[:, 0] + 0.05
    assert (between[0] - slack <= scores.values[:, 0]).all()
    assert (scores.values[:, 0] <= between[1] + slack).all()


def test_a_game_of_means_is_asked_as_ever() -> None:
    game = WorstGroupGame()
    game.facts = replace(game.facts, of_sets=False)
    watched = WatchedGame(game)
    estimate(watched, Permutation(batch_size=5), budget=Budget(50), seed=0)
    assert all(round.images is not None for round in watched.rounds)


class VotingGame:
    """A weighted vote: in every walk one player turns the result, and all others change nothing.

    The last player has no weight.
    """

    def __init__(self, seed: int, n_players: int = 10) -> None:
        weights = np.random.default_rng(seed).integers(2, 9, n_players)
        weights[-1] = 0
        self.values = (members(n_players) @ weights > weights.sum() / 2).astype(float)
        pool = ImagePool.uniform(4)
        self.facts = GameFacts(
            n_players=n_players, metrics=("vote",), score_widths=(1.0,), pool=pool, of_sets=True
        )

    def play(self, round: Round) -> Outcomes:
        codes = round.coalitions @ (1 << np.arange(self.facts.n_players))
        return Outcomes(np.repeat(self.values[codes][:, None, None], 4, axis=1))


@pytest.mark.parametrize("n_walks", [3, 5, 9, 20])
def test_intervals_of_a_few_walks_hold_values_that_most_walks_do_not_show(n_walks: int) -> None:
    held = []
    for seed in range(20):
        game = VotingGame(seed)
        true = shapley_values(game.values[:, None])[:, 0]
        scores = estimate(game, Permutation(), budget=Budget(11 * n_walks), seed=seed).scores
        low, high = scores.ci_low[:, 0] - 1e-9, scores.ci_high[:, 0] + 1e-9
        held.append((low <= true) & (true <= high))
    assert np.mean(held) >= 0.9


def test_with_many_walks_a_filter_that_never_matters_is_known_to_be_of_no_value() -> None:
    scores = estimate(VotingGame(1), Permutation(), budget=Budget(11 * 400), seed=0).scores
    assert scores.values[-1, 0] == 0
    assert scores.ci_high[-1, 0] - scores.ci_low[-1, 0] < 0.02
