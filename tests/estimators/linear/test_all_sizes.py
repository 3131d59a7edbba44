"""Rows behind the collapse: tried, judged, and pooled with those up to it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.game import Round, SomeImages
from repairkit.core.scores import Budget
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.linear import all_sizes, drawing, ridge
from repairkit.estimators.linear.fits import FullOutcomes
from repairkit.estimators.linear.regression import Regression, RegressionRun
from repairkit.estimators.linear.rows import OutcomeTable, RegressionRows
from tests.games import SoftGame, TableGame, WatchedGame, members, noisy

N, MOST = 12, 4


def late_game(*, late: float, noise: float = 0.05) -> TableGame:
    """Some players act while up to `MOST` are absent, others while more are."""
    rng = np.random.default_rng(5)
    early, other = rng.normal(0.2, 1.0, N), rng.normal(0.2, 1.0, N)
    present = members(N)
    lacking = N - present.sum(axis=1)
    values = (present @ early) * (lacking <= MOST) + late * (present @ other) * (lacking > MOST)
    return TableGame(noisy(values[:, None] / N, noise=noise, n_images=8))


def pooled_run(game: TableGame | SoftGame, n_rows: int, seed: int = 0) -> RegressionRun:
    settings = Regression(sizes="pooled", most_removed=MOST / N, top_k=2, round_rows=512)
    found = estimate(game, settings, budget=Budget(n_rows), seed=seed).run
    assert isinstance(found, RegressionRun)
    return found


def test_values_are_shapleys_where_much_is_done_behind_the_collapse() -> None:
    game = late_game(late=1.5)
    true = estimate(game, Exact(), budget=Budget(), seed=0).scores.values[:, 0]
    held, cut = [], []
    for seed in range(8):
        run = pooled_run(game, 6_000, seed)
        assert run.beyond.pooled
        scores = run.read()
        assert "pooled over all sizes" in scores.interval
        assert scores.noise is not None
        assert (scores.noise <= scores.std_errors[:, 0] * (1 + 1e-9)).all()
        grand = float(run.ends[0, 0] - run.ends[1, 0])
        assert scores.values.sum() == pytest.approx(grand)
        held.append((scores.ci_low[:, 0] <= true) & (true <= scores.ci_high[:, 0]))
        settings = Regression(sizes="balanced", most_removed=MOST / N, top_k=2)
        short = estimate(game, settings, budget=Budget(6_000), seed=seed).scores
        cut.append((short.ci_low[:, 0] <= true) & (true <= short.ci_high[:, 0]))
    # 96 intervals, of which a run's are not independent: 95 % but for three standard errors.
    assert np.mean(held) >= 0.88
    assert np.mean(cut) < 0.7


def test_a_pooled_run_on_some_of_its_images_stays_pooled() -> None:
    game = late_game(late=1.5)
    run = pooled_run(game, 8_000)
    half = TableGame(game.scores[:, :4])
    some = SomeImages(
        facts=half.facts,
        positions=np.arange(4),
        ratios=np.full((4, 1), 2.0),
        share=0.5,
        n_all=8,
    )
    part = run.on_images(some)
    assert part is not None
    assert part.beyond == run.beyond
    scores = part.read()
    true = estimate(half, Exact(), budget=Budget(), seed=0).scores.values
    assert (np.abs(scores.values - true) <= 4.5 * scores.std_errors).all()
    assert scores.std_errors.mean() > run.read().std_errors.mean()


def test_few_rows_are_spent_behind_the_collapse_where_they_tell_nothing_new() -> None:
    game = late_game(late=0.0)
    run = pooled_run(game, 8_000)
    assert not run.beyond.pooled
    behind = int((run.rows.all_sizes() > MOST).sum())
    assert 1.5 * N <= behind <= 8_000 / 16
    assert run.statistics["rows_behind_collapse"] == behind
    assert run.beyond.share < 1 / 128
    assert "cut off behind 4 of 12" in run.read().interval


def test_no_row_is_drawn_behind_the_collapse_before_there_are_eight_to_a_player() -> None:
    game = WatchedGame(SoftGame(200, seed=0))
    run = estimate(game, Regression(), budget=Budget(2_000), seed=0).run
    assert isinstance(run, RegressionRun)
    assert run.law == "pooled"
    sizes = np.concatenate([(~r.coalitions).sum(axis=1) for r in game.rounds[2:]])
    assert len(sizes) < 8 * 200
    assert sizes.max() <= run.most


def test_rounds_asked_ahead_are_those_asked_in_turn() -> None:
    game = late_game(late=1.5)
    settings = Regression(sizes="pooled", most_removed=MOST / N, top_k=2, round_rows=256)
    runs = [settings.start(game.facts, np.random.default_rng(3)) for _ in range(2)]
    for run in runs:
        run.tell(game.play(run.ask()))
    in_turn, ahead = runs
    n_waited, pending = 0, list[Round]()
    for _ in range(30):
        asked = in_turn.ask()
        if not pending:
            pending.append(ahead.ask())
            n_waited += 1
        following = ahead.ask_ahead(pending)
        if following is not None:
            pending.append(following)
        first = pending.pop(0)
        np.testing.assert_array_equal(first.coalitions, asked.coalitions)
        np.testing.assert_array_equal(first.images, asked.images)
        for run, round in ((in_turn, asked), (ahead, first)):
            run.tell(replace(game.play(round), asked=round))
    assert in_turn.beyond == ahead.beyond
    assert in_turn.beyond.pooled
    assert 1 < n_waited < 30


@given(st.integers(2, 3_000), st.data())
def test_classes_hold_every_size_once(n_players: int, data: st.DataObject) -> None:
    most = data.draw(st.integers(1, n_players - 1))
    classes = all_sizes.size_classes(most, n_players)
    assert classes[0] == (1, most)
    assert classes[-1][1] == n_players - 1
    assert all(first <= last for first, last in classes)
    assert all(before[1] + 1 == after[0] for before, after in pairwise(classes))
    if most < n_players - 1:
        shares = all_sizes.shares_behind(most, n_players)
        assert shares.sum() == pytest.approx(1)
        assert (np.flatnonzero(shares) == np.arange(most + 1, n_players)).all()


def test_every_size_of_a_class_counts_the_same() -> None:
    n, rng = 30, np.random.default_rng(0)
    drawn = 0.5 * drawing.semivalue_sizes(1, 6, n, 0.0)[0] + 0.5 * all_sizes.shares_behind(6, n)
    sizes = drawing.draw_sizes(rng, drawn, 0, 60_000)
    rows = RegressionRows.none(n, drawing.semivalue_sizes(1, 6, n, 0.0)[1])
    rows.add(Round(drawing.remove_at_random(rng, sizes, n), np.zeros((60_000, 1), np.intp)))
    outcomes = OutcomeTable(1)
    outcomes.add(np.zeros((60_000, 1)))
    game = SoftGame(n)
    known = all_sizes.RowsKnown(
        facts=game.facts,
        rows=rows,
        outcomes=outcomes,
        full=FullOutcomes(np.zeros((64, 1)), np.zeros(1)),
        empty=np.zeros((64, 1)),
        most=6,
        errors_over="rows",
        entropy=None,
        solve=ridge.solve,
    )
    for first, last in all_sizes.size_classes(6, n):
        part = known.of_sizes(first, last).rows
        lacking, weights = part.all_sizes(), part.all_weights()
        assert weights is not None
        assert (lacking.min(), lacking.max()) == (first, last)
        counted = np.bincount(lacking, weights * lacking * (n - lacking))[first:]
        assert counted / counted.mean() == pytest.approx(np.ones(len(counted)), abs=0.25)


def test_a_metric_of_too_few_rows_is_cut_off() -> None:
    """The second metric is about a single image, which few rows behind the collapse show."""
    base = late_game(late=1.5)
    scores = np.concatenate([base.scores, base.scores * (np.arange(8) == 3)[:, None] * 8], axis=2)
    game = TableGame(scores)
    every = np.arange(8)
    game.facts = replace(game.facts, images_of=(every, every[3:4]))
    settings = Regression(sizes="pooled", most_removed=MOST / N, top_k=2, round_rows=512)
    run = estimate(game, settings, budget=Budget(4_000), seed=1).run
    assert isinstance(run, RegressionRun)
    assert run.beyond.pooled
    scores_read = run.read()
    assert np.isfinite(scores_read.std_errors).all()
    true = estimate(game, Exact(), budget=Budget(), seed=0).scores.values
    assert (np.abs(scores_read.values - true)[:, 0] <= 4.5 * scores_read.std_errors[:, 0]).all()


def test_noise_and_multiples_of_the_effects_are_not_taken_for_something_new() -> None:
    rng, n = np.random.default_rng(4), 400
    effects, errors = rng.standard_normal(n), np.full(n, 0.5)
    seen = []
    for _ in range(300):
        some = effects + errors * rng.standard_normal(n)
        others = 0.7 * effects + errors * rng.standard_normal(n)
        seen.append(all_sizes.unlike((some, errors), (others, errors)))
    assert abs(np.mean(seen)) <= 0.35
    assert np.std(seen) == pytest.approx(1, abs=0.2)
    new = 0.7 * effects + 0.4 * rng.standard_normal(n) + errors * rng.standard_normal(n)
    assert all_sizes.unlike((effects, 0 * errors), (new, errors)) > 4
    assert all_sizes.unlike((effects, 0 * errors), (0 * effects, 0 * errors)) == 0


def test_effects_that_go_together_are_seen_where_each_is_lost_in_noise() -> None:
    rng, n = np.random.default_rng(5), 1_000
    effects, errors = rng.standard_normal(n), np.full(n, 0.3)
    noises = rng.standard_normal((300, n))
    alone = [all_sizes.alike((effects, errors), (3 * each, np.full(n, 3.0))) for each in noises]
    assert abs(np.mean(alone)) <= 0.2
    assert np.std(alone) == pytest.approx(1, abs=0.15)
    # An effect of a fifth of its error, of which `unlike` sees nothing.
    together = (effects + 5 * noises[0], np.full(n, 5.0))
    assert all_sizes.alike((effects, errors), together) > 3.5
    assert all_sizes.unlike((effects, errors), together) < 2.5


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_how_surely_effects_go_together_has_no_unit(one: float, other: float) -> None:
    rng = np.random.default_rng(6)
    (effects, errors), (rest, rest_errors) = rng.random((2, 2, 40))
    seen = all_sizes.alike((effects, errors), (rest, rest_errors))
    scaled = (one * effects, one * errors), (other * rest, other * rest_errors)
    assert all_sizes.alike(*scaled) == pytest.approx(seen)
    assert all_sizes.alike((effects, errors), (-rest, rest_errors)) == pytest.approx(-seen)
    assert all_sizes.alike((effects, errors), (rest, np.full(40, np.inf))) == 0
