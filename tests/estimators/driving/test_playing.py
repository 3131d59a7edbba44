"""Metrics of sets, several rounds at once, and time within a round.

Values of sets must be those of V over all images, whatever a run asks for. The number of rounds at
once never changes a result. A time limit is checked within a round, and rows played by then count.
"""

from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.errors import BudgetError
from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round
from repairkit.core.scores import Budget, Estimator
from repairkit.estimators.auto import Auto
from repairkit.estimators.driving.checkpoint import CheckpointStore
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact, shapley_values
from repairkit.estimators.linear.regression import Regression
from repairkit.estimators.linear.repair_values import RepairRegression
from repairkit.estimators.reference_scores import LeaveOneOut
from repairkit.estimators.walking.marginals import Marginals
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab
from tests.games import SoftGame, TableGame, WatchedGame, any_values, members, noisy

# Metrics of sets

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


# Several rounds at once

SEERS: dict[str, Estimator] = {
    "exact": Exact(),
    "leave-one-out": LeaveOneOut(),
    "permutation": Permutation(batch_size=4, chunk=3),
    "regression": Regression(round_rows=300, pilot_rows=64),
    "repair": RepairRegression(round_rows=300),
    "repair-table": RepairRegression(round_rows=300, rows=4_000, entry_cost=0.01),
    "auto": Auto(round_rows=300, epsilon=1e-9, top_k=2),
}
OTHERS: dict[str, Estimator] = {
    "tmab": Tmab(batch_size=4, epsilon=1e-9),
    "marginals": Marginals(epsilon=1e-9),
    "cut walks": Permutation(batch_size=4, chunk=3, truncate_at=0.1),
}
BUDGET = Budget(5_000)


def table(n_players: int = 7) -> TableGame:
    return TableGame(noisy(any_values(n_players), noise=0.2))


def same(one: Round, two: Round) -> bool:
    images = (one.images is None) == (two.images is None)
    if images and one.images is not None and two.images is not None:
        images = np.array_equal(one.images, two.images)
    return images and np.array_equal(one.coalitions, two.coalitions)


class Overlapping:
    """A table game that is hungry until so many rounds are under way."""

    def __init__(self, game: TableGame, most: int) -> None:
        self.game, self.facts, self.most = game, game.facts, most
        self.begun: dict[int, Round] = {}
        self.n_begun, self.greatest = 0, 0

    @property
    def hungry(self) -> bool:
        return len(self.begun) < self.most

    def begin(self, round: Round) -> int:
        self.n_begun += 1
        self.begun[self.n_begun] = round
        self.greatest = max(self.greatest, len(self.begun))
        return self.n_begun

    def finish(self, number: int) -> Outcomes:
        return self.game.play(self.begun.pop(number))

    def play(self, round: Round) -> Outcomes:
        raise AssertionError(f"a round of {len(round)} was not begun")


@pytest.mark.parametrize("name", SEERS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_a_run_foresees_is_what_it_asks(name: str, seed: int) -> None:
    game = table()
    run = SEERS[name].start(game.facts, np.random.default_rng(seed))
    foreseen: deque[Round] = deque()
    n_checked = 0
    for _ in range(40):
        asked = run.ask()
        if not len(asked):
            break
        if foreseen:
            assert same(foreseen.popleft(), asked)
            n_checked += 1
        pending = [asked, *foreseen]
        while len(pending) < 4:
            following = run.ask_ahead(pending)  # type: ignore[attr-defined]
            if following is None or not len(following):
                break
            pending.append(following)
        foreseen = deque(pending[1:])
        assert same(run.ask(), asked)
        run.tell(game.play(asked))
    assert n_checked or name in ("exact", "leave-one-out")  # one round is all of a small game


@pytest.mark.parametrize("name", [*SEERS, *OTHERS])
@pytest.mark.parametrize("most", [2, 7])
def test_scores_are_the_same_with_several_rounds_under_way(name: str, most: int) -> None:
    estimator = (SEERS | OTHERS)[name]
    plain = estimate(table(), estimator, budget=BUDGET, seed=3)
    game = Overlapping(table(), most)
    overlapped = estimate(game, estimator, budget=BUDGET, seed=3)
    assert plain.scores.values.tobytes() == overlapped.scores.values.tobytes()
    assert plain.scores.std_errors.tobytes() == overlapped.scores.std_errors.tobytes()
    assert plain.reason == overlapped.reason
    assert plain.spent.evaluations == overlapped.spent.evaluations
    if name in ("permutation", "regression", "repair"):
        assert game.greatest == most
    if name == "auto":  # which looks at what it knows now and then
        assert 1 < game.greatest <= most
    if name in OTHERS:
        assert game.greatest == 1


# Time limits

SECONDS = 0.01
"""What a pass of an image takes by the clock of these tests."""


class Slow:
    """A game whose passes take time by a clock of its own."""

    def __init__(self, game: SoftGame | TableGame) -> None:
        self.game, self.facts, self.now = game, game.facts, 0.0
        self.rows = 0

    def clock(self) -> float:
        return self.now

    def play(self, round: Round) -> Outcomes:
        n_images = len(self.facts.pool) if round.images is None else round.images.shape[1]
        self.now += SECONDS * len(round) * n_images
        self.rows += len(round)
        return self.game.play(round)


TIMED_METHODS: dict[str, Estimator] = {
    "regression": Regression(),
    "auto": Auto(),
    "leave-one-out": LeaveOneOut(),
    "permutation": Permutation(batch_size=8, chunk=64),
}


@pytest.mark.parametrize("name", TIMED_METHODS)
def test_a_long_round_is_cut_where_the_time_is_over(name: str) -> None:
    game = Slow(SoftGame(80, n_images=50))
    end = estimate(game, TIMED_METHODS[name], budget=Budget(None, 30.0), seed=0, clock=game.clock)
    assert game.now <= 30.0 + 3.0
    assert end.reason == "the time limit of 30 s was reached"
    assert end.spent.evaluations == game.rows
    assert end.scores.samples.any()
    known = end.scores.samples > 0
    assert np.isfinite(end.scores.std_errors[known]).any()


def test_what_was_spent_before_the_first_round_counts() -> None:
    game = Slow(SoftGame(80, n_images=50))
    game.now = 100.0
    estimate(game, Regression(), budget=Budget(None, 50.0), seed=0, clock=game.clock, began=70.0)
    assert 110.0 <= game.now <= 123.0


def test_a_cut_round_can_be_gone_on_from(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint")
    for limit in (12.0, 40.0):
        game = Slow(SoftGame(80, n_images=50))
        budget = Budget(None, limit)
        end = estimate(
            game, Regression(), budget=budget, seed=0, checkpoint=store, clock=game.clock
        )
    assert end.spent.seconds >= 38.0
    assert end.scores.samples.sum() > 0
    assert np.isfinite(end.scores.std_errors).all()


def test_too_little_time_names_what_would_do() -> None:
    game = Slow(SoftGame(80, n_images=50))
    with pytest.raises(BudgetError, match=r"too early for any score; raise it to about \d+ s"):
        estimate(
            game, Permutation(batch_size=50), budget=Budget(None, 9.0), seed=0, clock=game.clock
        )


def test_without_a_limit_nothing_is_cut() -> None:
    plain, slow = SoftGame(80, n_images=50), Slow(SoftGame(80, n_images=50))
    budget = Budget(3_000)
    one = estimate(plain, Regression(), budget=budget, seed=0)
    limited = Budget(3_000, 10_000.0)
    two = estimate(slow, Regression(), budget=limited, seed=0, clock=slow.clock)
    assert one.scores.values.tobytes() == two.scores.values.tobytes()


def test_a_round_that_is_known_is_not_played_again() -> None:
    table = TableGame(noisy(any_values(5), noise=0.2))
    round = Round(np.stack([np.ones(5, bool), np.zeros(5, bool)]))
    known = (round, table.play(round))
    slow = Slow(table)
    one = estimate(slow, Regression(), budget=Budget(400), seed=0, known=known)
    two = estimate(table, Regression(), budget=Budget(400), seed=0)
    assert slow.rows == one.spent.evaluations - 2
    assert one.scores.values.tobytes() == two.scores.values.tobytes()
