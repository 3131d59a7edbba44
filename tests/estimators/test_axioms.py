"""The laws that every estimator keeps. A new one joins `CASES`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import BudgetError
from repairkit.core.scores import Budget, Estimator, Scores
from repairkit.estimators.auto import Auto
from repairkit.estimators.driving.checkpoint import CheckpointStore
from repairkit.estimators.driving.driver import Estimation, estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.linear.regression import Regression
from repairkit.estimators.linear.repair_values import RepairRegression
from repairkit.estimators.reference_scores import LeaveOneOut, RandomScores
from repairkit.estimators.walking.marginals import Marginals
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.stars import Stars
from repairkit.estimators.walking.tmab import Tmab
from tests.games import TableGame, WatchedGame, alike, any_values, noisy, quiet, with_twins, without

N_PLAYERS = 5
BUDGET = Budget(max_evaluations=2_500)


@dataclass(frozen=True)
class Case:
    """An estimator and what it promises.

    That it asks, that its values are Shapley's, that they add up, and that they are linear in the
    outcomes, so that laws hold to the bit rather than within its error.
    """

    name: str
    estimator: Estimator
    plays: bool = True
    shapley: bool = True
    adds_up: bool = False
    linear: bool = True


CASES = (
    Case("exact", Exact(), adds_up=True),
    Case("permutation", Permutation(batch_size=8, chunk=4), adds_up=True),
    Case(
        "permutation-truncated",
        Permutation(batch_size=8, truncate_at=0.4, truncate_patience=2),
        shapley=False,
    ),
    Case("tmab", Tmab(batch_size=8, top_k=2)),
    Case("tmab-both", Tmab(batch_size=4, top_k=1, side="both", lanes=3, chunk=2)),
    Case("tmab-few-open", Tmab(batch_size=8, top_k=2, value_range=0.01, union_bound=False)),
    Case("tmab-paper", Tmab.paper(top_k=2, batch_size=8), shapley=False),
    Case(
        "regression",
        Regression(sizes="falling", round_rows=64, pilot_rows=32, top_k=1, side="both"),
        shapley=False,
        linear=False,
    ),
    Case(
        "regression-balanced",
        Regression(sizes="balanced", round_rows=64, pilot_rows=32, top_k=1, side="both"),
        shapley=False,
        linear=False,
    ),
    Case(
        "regression-pooled",
        Regression(sizes="pooled", most_removed=0.4, round_rows=64, top_k=1, side="both"),
        shapley=False,
        linear=False,
    ),
    Case(
        "regression-shapley",
        Regression(sizes="shapley", round_rows=64, images_per_coalition=2),
        adds_up=True,
        linear=False,
    ),
    Case("repair", RepairRegression(most_removed=0.8), shapley=False, linear=False),
    Case(
        "repair-table",
        RepairRegression(most_removed=0.8, rows=2_500, entry_cost=0.01),
        shapley=False,
        linear=False,
    ),
    Case("marginals", Marginals(top_k=2, batch_size=8, chunk=4)),
    Case("marginals-reach", Marginals(top_k=1, side="both", batch_size=4, reach=0.5)),
    Case(
        "auto",
        Auto(top_k=1, epsilon=0.0, round_rows=32, batch_size=4),
        shapley=False,
        linear=False,
    ),
    Case("stars", Stars(share=0.5, batch_size=4)),
    Case("stars-of-the-full", Stars(most_removed=0.0, share=0.5, batch_size=4), shapley=False),
    Case("leave-one-out", LeaveOneOut(), shapley=False),
    Case("random", RandomScores(), plays=False, shapley=False),
)


def having(*promises: str) -> pytest.MarkDecorator:
    cases = [case for case in CASES if all(getattr(case, promise) for promise in promises)]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def run(case: Case, scores: np.ndarray, *, budget: Budget = BUDGET, seed: int = 7) -> Estimation:
    return estimate(TableGame(scores), case.estimator, budget=budget, seed=seed)


def random_scores(n_metrics: int = 1, *, noise: float = 0.2) -> np.ndarray:
    return noisy(any_values(N_PLAYERS, n_metrics, seed=3), noise=noise)


def same(first: Scores, second: Scores) -> bool:
    """Bit for bit."""
    return all(
        np.asarray(getattr(first, name)).tobytes() == np.asarray(getattr(second, name)).tobytes()
        for name in ("values", "std_errors", "ci_low", "ci_high", "samples", "decided")
    )


@having("plays")
def test_a_player_that_changes_nothing_gets_nothing(case: Case) -> None:
    scores = run(case, alike(random_scores(2), without(N_PLAYERS, 3))).scores
    allowed = 0.0 if case.linear else 4.5 * scores.std_errors[3]
    # Where sizes are left out, how V curves with size stays, over n: much for five players.
    left_out = 0.0 if case.linear or case.shapley else 0.3 / N_PLAYERS
    assert (abs(scores.values[3]) <= allowed + left_out).all()


@having("plays")
def test_twins_get_the_same(case: Case) -> None:
    scores = run(case, alike(random_scores(), with_twins(N_PLAYERS, 1, 4))).scores
    sampled = not isinstance(case.estimator, Exact | LeaveOneOut)
    allowed = 5 * np.hypot(*scores.std_errors[[1, 4], 0]) if sampled else 1e-12
    assert abs(scores.values[1, 0] - scores.values[4, 0]) <= allowed


@having("plays")
def test_values_of_a_sum_of_metrics_are_the_sums_of_their_values(case: Case) -> None:
    two = random_scores(2)
    scores = np.concatenate([two, two.sum(axis=2, keepdims=True)], axis=2)
    found = run(case, scores).scores
    allowed = 1e-12 if case.linear else found.std_errors.max()
    values = found.values
    np.testing.assert_allclose(values[:, 2], values[:, 0] + values[:, 1], rtol=0, atol=allowed)


@having("adds_up")
def test_shares_add_up_to_the_grand_value(case: Case) -> None:
    values = any_values(N_PLAYERS, 2, seed=5)
    scores = run(case, quiet(values)).scores
    assert scores.efficient
    np.testing.assert_allclose(scores.values.sum(axis=0), values[-1] - values[0], atol=1e-12)


@having()
def test_only_those_that_promise_it_say_that_they_add_up(case: Case) -> None:
    assert run(case, random_scores()).scores.efficient == case.adds_up


@having("shapley")
def test_values_agree_with_the_truth_within_the_stated_error(case: Case) -> None:
    for seed in range(4):
        table = noisy(any_values(N_PLAYERS, 2, seed=seed), noise=0.2, seed=seed)
        truth = run(CASES[0], table).scores.values
        scores = run(case, table, seed=seed).scores
        assert np.isfinite(scores.std_errors).all()
        assert (abs(scores.values - truth) <= 4.5 * scores.std_errors + 1e-12).all()


@having("shapley")
def test_the_stated_error_is_no_excuse(case: Case) -> None:
    assert run(case, random_scores()).scores.std_errors.max() < 0.05


@having()
@pytest.mark.parametrize("allowed", [0, 1, 5, 31, 33, 100, 1_001])
def test_the_budget_is_never_exceeded(case: Case, allowed: int) -> None:
    game = WatchedGame(TableGame(random_scores()))
    try:
        spent = estimate(game, case.estimator, budget=Budget(allowed), seed=1).spent
    except BudgetError:
        assert case.plays
    else:
        images = sum(
            len(r) * (len(game.facts.pool) if r.images is None else r.images.shape[1])
            for r in game.rounds
        )
        assert (spent.evaluations, spent.rounds) == (game.evaluations, len(game.rounds))
        assert spent.image_passes == images
    assert game.evaluations <= allowed


@having()
def test_one_seed_gives_one_answer_and_another_seed_another(case: Case) -> None:
    first, again = (run(case, random_scores(2)) for _ in range(2))
    assert same(first.scores, again.scores)
    assert first.spent.evaluations == again.spent.evaluations
    other = run(case, random_scores(2), seed=8)
    rolls_dice = not isinstance(case.estimator, Exact | LeaveOneOut)
    assert same(first.scores, other.scores) != rolls_dice


@having()
def test_asking_twice_asks_the_same(case: Case) -> None:
    game = TableGame(random_scores())
    twin, lone = (case.estimator.start(game.facts, np.random.default_rng(2)) for _ in range(2))
    for _ in range(30):
        twin.ask()
        asked, once = twin.ask(), lone.ask()
        assert asked.coalitions.tobytes() == once.coalitions.tobytes()
        if not len(asked):
            break
        for one in (twin, lone):
            one.tell(game.play(asked))
    assert same(twin.read(), lone.read())


@having()
@pytest.mark.parametrize("stroke", [KeyboardInterrupt, RuntimeError])
def test_a_killed_run_resumes_to_the_same_bits(
    case: Case, stroke: type[BaseException], tmp_path: Path
) -> None:
    table = TableGame(random_scores(2))
    budget = Budget(400)
    rounds = estimate(table, case.estimator, budget=budget, seed=4).spent.rounds
    never_killed = estimate(table, case.estimator, budget=budget, seed=4)
    for at in sorted(np.random.default_rng(0).choice(rounds, min(rounds, 4), replace=False)):

        def strike(round_number: int, at: int = at) -> None:
            if round_number == at:
                raise stroke

        store = CheckpointStore(tmp_path / str(at), every_seconds=0.0)
        with pytest.raises(stroke):
            estimate(
                WatchedGame(table, strike), case.estimator, budget=budget, seed=4, checkpoint=store
            )
        resumed = estimate(table, case.estimator, budget=budget, seed=4, checkpoint=store)
        assert same(resumed.scores, never_killed.scores)
        assert resumed.spent.evaluations == never_killed.spent.evaluations
        assert (resumed.finished, resumed.reason) == (never_killed.finished, never_killed.reason)


@having()
def test_a_run_can_be_read_before_anything_is_known(case: Case) -> None:
    facts = TableGame(random_scores(2)).facts
    scores = case.estimator.start(facts, np.random.default_rng(0)).read()
    assert scores.values.shape == scores.std_errors.shape == (N_PLAYERS, 2)
    assert not scores.samples.any()
    assert np.isfinite(scores.values).all()
    assert scores.decided.all() != case.plays


@having()
def test_intervals_hold_their_values(case: Case) -> None:
    scores = run(case, random_scores(2)).scores
    assert (scores.ci_low <= scores.values).all()
    assert (scores.values <= scores.ci_high).all()
    assert 0 < scores.confidence <= 1
    assert scores.decided.shape == scores.samples.shape == (N_PLAYERS,)
