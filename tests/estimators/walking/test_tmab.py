from dataclasses import replace

import numpy as np
import pytest

from repairkit.core.errors import BudgetError, SettingsError
from repairkit.core.scores import Budget
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab, TmabRun
from tests.games import Floats, TableGame, WatchedGame, additive, any_values, noisy, quiet

QUICK = Tmab(top_k=2, epsilon=0.02, batch_size=8, value_range=1.0, fresh=0.0)


def interacting() -> Floats:
    """Two players ahead by a little, one harmful, and interactions."""
    return additive([0.5, 0.3, 0.12, 0.1, 0.0, -0.2]) + 0.1 * any_values(6, seed=1)


def run_for(estimator: Tmab, scores: Floats, evaluations: int, seed: int = 0) -> TmabRun:
    game = TableGame(scores)
    run = estimator.start(game.facts, np.random.default_rng(seed))
    spent = 0
    while len(asked := run.ask()) and spent + len(asked) <= evaluations:
        run.tell(game.play(asked))
        spent += len(asked)
    return run


@pytest.mark.long
def test_the_statement_is_right_in_at_least_1_less_delta_of_the_runs_that_make_it() -> None:
    scores = noisy(interacting(), noise=0.3)
    truth = estimate(TableGame(scores), Exact(), budget=Budget(), seed=0).scores.values[:, 0]
    threshold = np.sort(truth)[-2] - QUICK.epsilon
    right = []
    for seed in range(20):
        end = estimate(TableGame(scores), QUICK, budget=Budget(50_000), seed=seed)
        assert end.finished
        assert end.reason == "the top 2 are decided"
        assert end.scores.decided.all()
        right.append((truth[end.scores.ranking()[:2]] >= threshold).all())
    assert np.mean(right) >= 1 - QUICK.delta


@pytest.mark.parametrize("side", ["highest", "lowest", "both"])
def test_each_side_finds_its_players(side: str) -> None:
    estimator = replace(QUICK, top_k=1, side=side)
    end = estimate(TableGame(noisy(interacting(), noise=0.1)), estimator, budget=Budget(), seed=1)
    ranking = end.scores.ranking()
    assert end.finished
    if side != "lowest":
        assert ranking[0] == 0
    if side != "highest":
        assert ranking[-1] == 5


def test_players_that_are_decided_are_sampled_no_more() -> None:
    scores = noisy(interacting(), noise=0.3)
    end = estimate(TableGame(scores), QUICK, budget=Budget(), seed=1)
    samples = end.scores.samples
    assert samples[[1, 2]].min() > 1.5 * samples[[0, 5]].max()


def test_lucb_stops_sooner_than_the_paper() -> None:
    scores = noisy(interacting(), noise=0.3)
    budget = Budget(100_000)
    lucb, paper = (
        estimate(TableGame(scores), replace(QUICK, stop=stop), budget=budget, seed=2)
        for stop in ("lucb", "paper")
    )
    assert lucb.finished
    assert lucb.spent.evaluations < paper.spent.evaluations


def test_all_values_are_covered_at_once() -> None:
    scores = noisy(interacting(), noise=0.5)
    truth = estimate(TableGame(scores), Exact(), budget=Budget(), seed=0).scores.values
    held = [
        ((end.scores.ci_low <= truth) & (truth <= end.scores.ci_high)).all()
        for end in (
            estimate(TableGame(scores), replace(QUICK, batch_size=1, value_range=None),
                     budget=Budget(1_500), seed=seed)
            for seed in range(15)
        )
    ]  # fmt: skip
    assert np.mean(held) >= 0.9


def test_by_default_the_range_is_twice_the_width_of_a_value() -> None:
    table = noisy(any_values(4, 2), noise=0.1)
    game = TableGame(table, widths=(3.0, 0.5))
    wide, same = (
        estimate(game, replace(QUICK, value_range=r), budget=Budget(200), seed=0).scores
        for r in (None, 6.0)
    )
    assert (wide.ci_high == same.ci_high).all()


def test_lanes_change_no_walk() -> None:
    scores = noisy(any_values(6, 2), noise=0.2)
    one, three = (run_for(Tmab(batch_size=4, lanes=n), scores, 7 * 30) for n in (1, 3))
    assert one.n_walks == three.n_walks == 30
    assert one.moments.means.tobytes() == three.moments.means.tobytes()


def test_the_size_of_chunks_changes_no_untruncated_walk() -> None:
    scores = noisy(any_values(6), noise=0.2)
    small, large = (run_for(Tmab(batch_size=4, lanes=1, chunk=c), scores, 7 * 20) for c in (3, 16))
    assert small.moments.means.tobytes() == large.moments.means.tobytes()


def test_untruncated_walks_are_those_of_plain_monte_carlo() -> None:
    scores = noisy(any_values(6), noise=0.2)
    budget = Budget(7 * 20)
    plain = estimate(TableGame(scores), Permutation(batch_size=4), budget=budget, seed=3)
    bandit = estimate(TableGame(scores), Tmab(batch_size=4, lanes=1), budget=budget, seed=3)
    assert plain.scores.values.tobytes() == bandit.scores.values.tobytes()


def test_behind_the_cut_players_get_a_sample_of_nothing() -> None:
    # V is the share of players present: with patience 2, the walk is cut where 2 of 8 are left.
    scores = quiet(additive([1 / 8] * 8))
    run = run_for(Tmab(truncate_at=0.45, truncate_patience=2, lanes=1), scores, 16 * 400)
    read = run.read()
    assert run.curve.n_cut == run.n_walks
    assert run.curve.mean_cut == 6.0
    np.testing.assert_allclose(run.curve.mean_value_at_cut, [2 / 8])
    assert (read.samples == run.n_walks).all()
    assert not read.efficient
    # Six of eight shares are paid out; what truncation hides is V at the cut less V(none).
    np.testing.assert_allclose(read.values.sum(), 6 / 8)
    np.testing.assert_allclose(read.values[:, 0], 6 / 64, atol=5 * read.std_errors.max())


def test_without_truncation_nothing_is_cut() -> None:
    run = run_for(QUICK, quiet(any_values(4)), 200)
    assert run.curve.n_cut == 0
    assert np.isnan(run.curve.mean_cut)
    assert np.isnan(run.curve.mean_value_at_cut).all()


def test_rows_behind_a_cut_count_as_evaluations() -> None:
    game = WatchedGame(TableGame(quiet(additive([1 / 8] * 8))))
    estimator = Tmab(truncate_at=0.95, truncate_patience=1, lanes=1, chunk=5)
    spent = estimate(game, estimator, budget=Budget(100), seed=0).spent
    assert {len(round) for round in game.rounds} == {5}
    assert spent.evaluations == 100


def test_walks_that_are_not_complete_do_not_count() -> None:
    run = run_for(Tmab(batch_size=4, lanes=1, chunk=4), noisy(any_values(6), noise=0.1), 7 + 4)
    assert run.n_walks == 1
    assert (run.read().samples == 1).all()
    assert np.isinf(run.read().std_errors).all()


def test_a_budget_too_small_for_the_first_walks_is_refused() -> None:
    game = WatchedGame(TableGame(quiet(any_values(6))))
    with pytest.raises(BudgetError, match="raise it to at least 14"):
        estimate(game, Tmab(), budget=Budget(13), seed=0)
    assert not game.rounds
    late = Tmab(truncate_at=-5.0, chunk=2)
    with pytest.raises(BudgetError, match="the budget of 13 evaluations is spent, and that is too"):
        estimate(game, late, budget=Budget(13), seed=0)


def test_the_letter_of_the_paper() -> None:
    letter = Tmab.paper()
    assert (letter.top_k, letter.epsilon, letter.delta, letter.value_range) == (100, 1e-4, 0.1, 1.0)
    assert (letter.truncate_at, letter.truncate_patience, letter.stop) == (0.2, 1, "paper")
    assert not letter.union_bound


def test_one_player_is_decided_after_two_samples() -> None:
    end = estimate(TableGame(quiet(additive([0.5]))), Tmab(), budget=Budget(), seed=0)
    assert end.scores.samples.tolist() == [2]
    assert end.scores.values.tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epsilon", -1.0),
        ("epsilon", float("nan")),
        ("delta", 0.0),
        ("delta", 1.0),
        ("value_range", 0.0),
        ("truncate_at", float("nan")),
        ("truncate_patience", 0),
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("lanes", True),
        ("chunk", 0),
        ("stop", "never"),
        ("side", "left"),
        ("top_k", 0),
    ],
)
def test_settings_without_sense_are_refused(setting: str, value: object) -> None:
    with pytest.raises(SettingsError, match=setting):
        Tmab(**{setting: value})  # type: ignore[arg-type]


def test_bounds_stay_within_what_a_value_can_be() -> None:
    scores = noisy(any_values(6, 2), noise=0.2)
    game = TableGame(scores, widths=(1.0, 0.25))
    read = estimate(game, Tmab(batch_size=4), budget=Budget(100), seed=0).scores
    assert read.ci_low.min(axis=0).tolist() == [-1.0, -0.25]
    assert read.ci_high.max(axis=0).tolist() == [1.0, 0.25]


def test_statistics_tell_of_truncation() -> None:
    scores = quiet(additive([1 / 8] * 8))
    cut = Tmab(truncate_at=0.45, truncate_patience=2)
    told = estimate(TableGame(scores), cut, budget=Budget(2_000), seed=0).statistics
    assert told["truncated_walks"] == told["walks"] > 0
    assert (told["mean_cut"], told["mean_value_at_cut"]) == (6.0, 0.25)
    plain = estimate(TableGame(scores), Tmab(), budget=Budget(2_000), seed=0).statistics
    assert set(plain) == {"walks", "truncated_walks", "fresh_walks"}


@pytest.mark.slow
def test_fresh_samples_free_the_values_of_those_selected_from_having_been_selected() -> None:
    """Of many alike, the largest mean is too large, and what is drawn afterwards is not."""
    scores = noisy(additive([0.05] * 10), noise=1.0, n_images=64)
    close = Tmab(top_k=1, epsilon=0.2, batch_size=2, value_range=0.2, union_bound=False)
    old: list[float] = []
    new: list[float] = []
    for seed in range(40):
        for found, fresh in ((old, 0.0), (new, 1.0)):
            estimator = replace(close, fresh=fresh)
            run = run_for(estimator, scores, 20_000, seed)
            assert not len(run.ask())
            found.append(float(run.read().values[run.selected[0], 0]))
    error = np.std(new) / np.sqrt(len(new))
    assert np.mean(old) > 0.05 + 4 * error
    assert abs(np.mean(new) - 0.05) < 4 * error


def test_those_selected_are_sampled_again_as_often_as_is_asked() -> None:
    scores = noisy(interacting(), noise=0.3)
    before = estimate(TableGame(scores), QUICK, budget=Budget(), seed=1)
    again = estimate(TableGame(scores), replace(QUICK, fresh=0.5), budget=Budget(), seed=1)
    two = before.scores.ranking()[:2]
    walks = int(np.ceil(before.scores.samples[two].max() / 2))
    assert (again.scores.samples[two] == walks).all()
    assert again.statistics["fresh_walks"] == walks
    assert again.reason == f"the top 2 are decided, and estimated again by {walks} fresh walks"
    others = np.setdiff1d(np.arange(6), two)
    assert (again.scores.values[others] == before.scores.values[others]).all()
    assert (again.scores.ci_low <= again.scores.values).all()


def test_two_halves_of_the_walks_come_to_agree() -> None:
    run = run_for(replace(QUICK, epsilon=0.0), noisy(interacting(), noise=0.3), 20_000)
    trace = np.array(run.details["convergence"])
    assert (np.diff(trace[:, 0]) > 0).all()
    assert trace[-1, 1] > 0.9


def test_the_curve_is_that_of_the_mean_value_by_removals() -> None:
    run = run_for(replace(QUICK, epsilon=0.0, top_k=6), quiet(additive([1 / 6] * 6)), 7 * 20)
    points = np.array(run.details["curve"])
    np.testing.assert_allclose(points[:, 2], 1 - points[:, 0] / 6, atol=1e-12)
    assert run.details["truncation"] == {"walks": run.n_walks, "truncated_walks": 0}
