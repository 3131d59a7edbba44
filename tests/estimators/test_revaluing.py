"""A run that is over, its rows judged by another metric: as if it had been scored by both."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from repairkit.core.errors import RunFolderError, SettingsError
from repairkit.core.game import Game, GameFacts, Outcomes, Round
from repairkit.core.scores import Budget, Estimator, Run, Scores
from repairkit.estimators.auto import Auto, AutoRun
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.linear.regression import Regression, RegressionRun, widen_errors
from repairkit.estimators.linear.repair_values import RepairRegression, RepairRun
from repairkit.estimators.revaluing import KeptOutcomes, revalued
from repairkit.estimators.walking.permutation import Permutation
from tests.estimators.linear.test_all_sizes import MOST, N, late_game
from tests.estimators.linear.test_control import ImageGame
from tests.games import SoftGame, TableGame, any_values, noisy

FIELDS = ("values", "std_errors", "ci_low", "ci_high", "samples", "decided")


class TwoMetrics:
    """A game by its own metric and by another of the same outcomes, in any order.

    The guard is the first of both. All that is played is kept.
    """

    def __init__(self, game: Game, order: tuple[int, ...] = (0, 1)) -> None:
        self.game, self.order = game, order
        self.facts: GameFacts = replace(
            game.facts,
            metrics=tuple(f"m{i}" for i in order),
            score_widths=(9.0,) * len(order),
            guard=order.index(0),
            images_of=(None,) * len(order),
        )
        self.rounds: list[Round] = []

    def play(self, round: Round) -> Outcomes:
        self.rounds.append(round)
        first = self.game.play(round).scores
        scores = np.concatenate([first, np.abs(first - 0.3) + 0.1 * first**2], axis=2)
        return Outcomes(scores[:, :, self.order])

    def kept(self, played: list[Round]) -> KeptOutcomes:
        ends, *rounds = played
        return KeptOutcomes(self.play(ends), ((round, self.play(round)) for round in rounds))


def soft() -> Game:
    return SoftGame(90, n_images=40, uneven=True)


def few_players() -> Game:
    return TableGame(noisy(any_values(6), noise=0.4, n_images=12))


def late() -> Game:
    return late_game(late=1.5)


def with_table() -> Game:
    return ImageGame(100, 60, sway=0.06, pairs=0.002)


CASES = [
    ("falling", soft, Regression(sizes="falling"), 3_000),
    ("pilot finds the law", soft, Regression(pilot_rows=64), 2_500),
    ("pooled", late, Regression(sizes="pooled", most_removed=MOST / N, top_k=1), 4_000),
    ("shapley", few_players, Regression(), 1_500),
    ("several images", soft, Regression(images_per_coalition=4), 1_000),
    ("repair", soft, RepairRegression(), 2_000),
    ("repair with a table", with_table, RepairRegression(most_removed=0.1, rows=4_000), 4_000),
    ("auto", soft, Auto(top_k=8, round_rows=512, pilot_rows=128), 12_000),
]


@cache
def ran(name: str) -> tuple[Game, Run, list[Round]]:
    _, make, estimator, n_rows = next(case for case in CASES if case[0] == name)
    game = make()
    both = TwoMetrics(game)
    run = estimate(both, estimator, budget=Budget(n_rows), seed=5).run
    assert run is not None
    return game, run, both.rounds


def assert_same(one: Scores, other: Scores) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), name)


@pytest.mark.parametrize("name", [case[0] for case in CASES])
def test_the_same_metrics_give_the_same_run(name: str) -> None:
    game, run, played = ran(name)
    again = TwoMetrics(game)
    found = revalued(run, again.facts, again.kept(played), same=True)
    assert_same(found.read(), run.read())


@pytest.mark.parametrize("name", [case[0] for case in CASES])
def test_another_metric_is_valued_as_if_it_had_stood_beside_the_first(name: str) -> None:
    game, run, played = ran(name)
    other = TwoMetrics(game, (1, 0))
    found = revalued(run, other.facts, other.kept(played), same=False).read()
    beside = run.read()
    scale = np.abs(beside.values[:, 1]).max()
    np.testing.assert_allclose(found.values[:, 0], beside.values[:, 1], rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(found.std_errors[:, 0], beside.std_errors[:, 1], rtol=1e-4)
    np.testing.assert_array_equal(found.samples, beside.samples)
    assert_same(run.read(), beside)  # the run itself stays as it was


def test_the_cases_have_what_they_are_named_for() -> None:
    stars, table = ran("auto")[1], ran("repair with a table")[1]
    assert isinstance(stars, AutoRun)
    assert stars.n_stars > 2
    assert isinstance(table, RepairRun)
    assert table.regression.table is not None


@pytest.mark.parametrize("name", ["falling", "auto"])
def test_rows_of_another_run_are_refused(name: str) -> None:
    game, run, played = ran(name)
    again = TwoMetrics(game)
    swapped = list(played)
    # Rounds of the regression have one image to a coalition, stars have more.
    *_, one, two = (i for i, each in enumerate(played) if np.shape(each.images)[1:] == (1,))
    swapped[one], swapped[two] = played[two], played[one]
    for rounds in (swapped, played[:-1]):
        with pytest.raises(RunFolderError, match="not those of the run's checkpoint"):
            revalued(run, again.facts, again.kept(rounds), same=True)


def test_a_run_without_rows_is_refused() -> None:
    both = TwoMetrics(few_players())
    run = estimate(both, Permutation(), budget=Budget(50), seed=0).run
    assert run is not None
    with pytest.raises(SettingsError, match="has no rows"):
        revalued(run, both.facts, both.kept(both.rounds), same=True)


@pytest.mark.parametrize("n_rows", [40, 90, 180])
def test_intervals_of_few_rows_hold(n_rows: int) -> None:
    """Fewer rows than twice the players: ridge alone would be far too sure."""
    game = soft()
    law: Estimator = Regression(sizes="falling", most_removed=0.15)
    truth = estimate(game, law, budget=Budget(20_000), seed=99).scores
    covered: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(8):
        few = Regression(sizes="falling", most_removed=0.15, round_rows=n_rows)
        run = estimate(game, few, budget=Budget(n_rows + 2), seed=seed).run
        assert isinstance(run, RegressionRun)
        for wide in (False, True):
            if wide:
                widen_errors(run)
            scores = run.read()
            inside = (scores.ci_low <= truth.values) & (truth.values <= scores.ci_high)
            covered[wide].append(float(inside.mean()))
    assert np.mean(covered[True]) > 0.93
    assert np.mean(covered[False]) < np.mean(covered[True])
