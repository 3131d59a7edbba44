"""Totals of sums that go together, and what an auxiliary metric tells of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round
from repairkit.core.scores import Budget, Scores
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.linear import pooling
from repairkit.estimators.linear.regression import Regression, RegressionRun
from tests.games import Floats


def sums_like(rng: np.random.Generator, n: int, noise: Floats) -> tuple[Floats, Floats, Floats]:
    """True sums of three classes, sums with errors, and the errors, (3, n)."""
    scale = np.exp(rng.standard_normal(n))
    common, own = rng.standard_normal((2, n)) * scale, rng.standard_normal((3, n)) * scale
    true = np.stack([common[0], 0.4 * common[0] + 0.3 * own[1], 0.2 * common[1]])
    true -= true.mean(axis=1, keepdims=True)
    errors = np.broadcast_to(noise[:, None], true.shape) * (0.8 + 0.4 * rng.random(true.shape))
    sums = true + errors * rng.standard_normal(true.shape)
    return true, sums - sums.mean(axis=1, keepdims=True), errors


@pytest.mark.parametrize("noise", [(0.3, 0.3, 0.3), (0.2, 0.6, 1.2), (1.0, 0.2, 0.2)])
def test_pooled_totals_are_nearer_than_sums_and_their_errors_hold(
    noise: tuple[float, ...],
) -> None:
    rng = np.random.default_rng(1)
    true, sums, errors = sums_like(rng, 2_000, np.array(noise))
    totals, drawn, stated = pooling.pool(sums, errors)
    assert totals.sum() == pytest.approx(0, abs=1e-8)
    off = totals - true.sum(axis=0)
    assert (off**2).mean() < ((sums - true).sum(axis=0) ** 2).mean()
    assert (off**2).mean() < ((sums[0] - true.sum(axis=0)) ** 2).mean()
    assert 0.935 <= (np.abs(off) <= 1.96 * stated).mean() <= 0.97
    large = np.argsort(-np.abs(true.sum(axis=0)))[:200]
    assert (np.abs(off) <= 1.96 * stated)[large].mean() >= 0.85
    assert (drawn <= stated * (1 + 1e-9)).all()
    again = pooling.pool(true + errors * rng.standard_normal(true.shape), errors)[0]
    assert (again - totals).std() == pytest.approx(np.sqrt(2) * np.sqrt((drawn**2).mean()), rel=0.2)


def test_sums_without_errors_are_added_up() -> None:
    true, _, errors = sums_like(np.random.default_rng(2), 300, np.ones(3))
    for few in (1e-9, 0.0):
        totals, _, stated = pooling.pool(true, few * errors)
        np.testing.assert_allclose(totals, true.sum(axis=0), atol=1e-3)
        assert stated.max() < 1e-2


def test_a_player_of_which_a_class_knows_nothing_stays_unknown() -> None:
    _, sums, errors = sums_like(np.random.default_rng(3), 300, np.full(3, 0.3))
    unknown = errors.copy()
    unknown[2, 7] = np.inf
    stated = pooling.pool(sums, unknown)[2]
    assert np.isinf(stated[7])
    assert np.isfinite(np.delete(stated, 7)).all()


def test_classes_that_go_together_by_chance_add_nothing() -> None:
    """The first class is known well, the others are noise alone, some hundred times over."""
    kept, worse = [], []
    for seed in range(100):
        rng, n = np.random.default_rng(seed), 1_000
        true = rng.standard_t(3, n)
        errors = np.broadcast_to(np.array([0.5, 2.0, 2.0, 6.0])[:, None], (4, n))
        sums = errors * rng.standard_normal((4, n))
        sums[0] += true
        totals, _, _ = pooling.pool(sums - sums.mean(axis=1, keepdims=True), errors)
        kept.append(np.polyfit(true, totals, 1)[0])
        worse.append(((totals - true) ** 2).mean() / ((sums[0] - true) ** 2).mean())
    assert np.mean(worse) < 1
    assert 0.85 <= np.mean(kept) <= 1.05


def test_classes_that_surely_go_together_are_added_up() -> None:
    rng, n = np.random.default_rng(7), 1_000
    true = rng.standard_t(3, n)
    errors = np.broadcast_to(np.array([0.3, 1.0, 1.0])[:, None], (3, n))
    sums = np.array([1.0, 0.8, 0.5])[:, None] * true + errors * rng.standard_normal((3, n))
    totals, _, _ = pooling.pool(sums - sums.mean(axis=1, keepdims=True), errors)
    assert np.polyfit(true, totals, 1)[0] == pytest.approx(2.3, abs=0.2)


# With an auxiliary metric


def both_like(
    rng: np.random.Generator, n: int, alike: float, signal: float
) -> tuple[Floats, Floats, Floats]:
    """True sums of a class, sums with errors, and the errors, of a metric and its auxiliary one.

    Errors are correlated by `alike`, and the true sums by `signal`; the auxiliary one has other
    units and a fifth of the error.
    """
    scale = np.exp(rng.standard_normal(n))
    own, other = rng.standard_normal((2, n)) * scale
    true = np.stack([own, signal * own + np.sqrt(1 - signal**2) * other]) * [[1.0], [50.0]]
    errors = np.broadcast_to(np.array([[1.0], [10.0]]), true.shape)
    drawn = rng.standard_normal((2, n))
    drawn[1] = alike * drawn[0] + np.sqrt(1 - alike**2) * drawn[1]
    true -= true.mean(axis=1, keepdims=True)
    sums = true + errors * drawn
    return true, sums - sums.mean(axis=1, keepdims=True), errors


@pytest.mark.parametrize("alike", [0.0, 0.7, -0.5])
@pytest.mark.parametrize("signal", [0.98, 0.8])
def test_an_auxiliary_metric_brings_totals_nearer_and_errors_hold(
    alike: float, signal: float
) -> None:
    true, sums, errors = both_like(np.random.default_rng(1), 2_000, alike, signal)
    alone = pooling.pool(sums[:1], errors[:1])[0]
    totals, drawn, stated = pooling.pool(sums, errors, np.array([alike]))
    off = totals - true[0]
    assert (off**2).mean() < (0.5 if signal > 0.9 else 0.85) * ((alone - true[0]) ** 2).mean()
    assert 0.93 <= (np.abs(off) <= 1.96 * stated).mean() <= 0.97
    assert (drawn <= stated * (1 + 1e-9)).all()


def test_a_part_of_the_error_is_drawn_anew_by_other_rows() -> None:
    true, _, errors = both_like(np.random.default_rng(2), 2_000, 0.6, 0.9)
    totals = []
    for seed in (3, 4):
        drawn = np.random.default_rng(seed).standard_normal((2, 2_000))
        drawn[1] = 0.6 * drawn[0] + 0.8 * drawn[1]
        total, noise, _ = pooling.pool(true + errors * drawn, errors, np.array([0.6]))
        totals.append(total)
    differences = float(np.std(totals[0] - totals[1]))
    assert differences == pytest.approx(np.sqrt(2 * (noise**2).mean()), rel=0.15)


def test_an_auxiliary_metric_that_has_nothing_to_do_with_it_changes_little() -> None:
    """Its errors go together with the metric's, but no true sums do."""
    worse = []
    for seed in range(20):
        true, sums, errors = both_like(np.random.default_rng(seed), 500, 0.3, 0.0)
        alone = pooling.pool(sums[:1], errors[:1])[0]
        totals = pooling.pool(sums, errors, np.array([0.3]))[0]
        worse.append(((totals - true[0]) ** 2).mean() / ((alone - true[0]) ** 2).mean())
    assert np.mean(worse) <= 1.0  # common errors are taken off
    assert np.max(worse) <= 1.05


@given(
    one=st.floats(1e-3, 1e3), other=st.floats(1e-3, 1e3), sign=st.sampled_from([-1, 1]),
    alike=st.floats(-0.9, 0.9), seed=st.integers(0, 50),
)  # fmt: skip
def test_units_play_no_part_and_no_order_of_players(
    one: float, other: float, sign: int, alike: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    _, sums, errors = both_like(rng, 200, 0.5, 0.9)
    related = np.array([alike])
    before = pooling.pool(sums, errors, related)
    units = np.array([[one], [sign * other]])
    turned = pooling.pool(units * sums, np.abs(units) * errors, sign * related)
    for now, then in zip(turned, before, strict=True):
        np.testing.assert_allclose(now, one * then, rtol=1e-6, atol=1e-9 * one)
    order = rng.permutation(200)
    shuffled = pooling.pool(sums[:, order], errors, related)
    for now, then in zip(shuffled, before, strict=True):
        np.testing.assert_allclose(now, then[order], rtol=1e-6, atol=1e-9)


# In a regression


class LineGame:
    """Hits where an image's place in (0, 1) is below a sum over players, and soft hits beside them.

    Places are even, so that V of hits is the sum, and the Shapley values are its terms.
    """

    def __init__(self, n_players: int = 100, *, n_images: int = 400, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        values = np.exp(rng.standard_normal(n_players)) * (1 - 2 * (rng.random(n_players) < 0.1))
        self.values = 0.8 / values.sum() * values
        self.places = rng.permutation((np.arange(n_images) + 0.5) / n_images)
        self.facts = GameFacts(
            n_players=n_players,
            metrics=("hits", "soft"),
            score_widths=(1.0, 1.0),
            pool=ImagePool.uniform(n_images),
            auxiliaries=(1, -1),
        )

    def play(self, round: Round) -> Outcomes:
        sums = 0.1 + round.coalitions @ self.values
        images = round.images
        places = self.places[None] if images is None else self.places[images]
        ahead = sums[:, None] - places
        soft = 1 / (1 + np.exp(-ahead / 0.15))
        return Outcomes(np.stack([(ahead > 0).astype(float), soft], axis=2))


class Deaf(LineGame):
    """The same game, of which nobody knows that soft hits tell of hits."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options)
        self.facts = replace(self.facts, auxiliaries=())


def solved(game: LineGame, seed: int, n_rows: int = 4_000, **options: object) -> Scores:
    settings = Regression(top_k=10, round_rows=512, **options)  # type: ignore[arg-type]
    return estimate(game, settings, budget=Budget(n_rows), seed=seed).scores


def test_soft_hits_bring_values_nearer_to_the_known_ones() -> None:
    off: dict[type, list[float]] = {LineGame: [], Deaf: []}
    held = []
    for seed in range(6):
        for kind in off:
            game = kind(seed=seed)
            scores = solved(game, seed, sizes="balanced", most_removed=0.95)
            off[kind].append(float(((scores.values[:, 0] - game.values) ** 2).mean()))
            if kind is LineGame:
                held.append((scores.ci_low[:, 0] <= game.values)
                            & (game.values <= scores.ci_high[:, 0]))  # fmt: skip
                assert "soft hits" in scores.interval
                assert scores.noise is not None
            else:
                assert "soft hits" not in scores.interval
    assert np.mean(off[LineGame]) < 0.6 * np.mean(off[Deaf])
    assert 0.9 <= np.mean(held) <= 0.995


def test_the_auxiliary_metric_itself_keeps_its_values() -> None:
    one, other = (
        solved(kind(), 0, sizes="balanced", most_removed=0.95) for kind in (LineGame, Deaf)
    )
    np.testing.assert_array_equal(one.values[:, 1], other.values[:, 1])
    np.testing.assert_array_equal(one.std_errors[:, 1], other.std_errors[:, 1])
    assert not np.array_equal(one.values[:, 0], other.values[:, 0])


def test_the_same_rows_are_drawn_with_and_without() -> None:
    runs = [
        estimate(kind(), Regression(top_k=10), budget=Budget(3_000), seed=1).run
        for kind in (LineGame, Deaf)
    ]
    one, other = (run for run in runs if isinstance(run, RegressionRun))
    np.testing.assert_array_equal(one.rows.all_images(), other.rows.all_images())
    np.testing.assert_array_equal(one.rows.all_sizes(), other.rows.all_sizes())


def test_laws_that_promise_unbiased_values_do_not_borrow() -> None:
    for options in ({"sizes": "shapley"}, {"sizes": "balanced", "errors_over": "images"}):
        one, other = (solved(kind(), 0, **options) for kind in (LineGame, Deaf))
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.std_errors, other.std_errors)


def test_few_players_do_not_borrow() -> None:
    one, other = (
        solved(kind(n_players=40), 0, sizes="balanced", most_removed=0.95)
        for kind in (LineGame, Deaf)
    )
    np.testing.assert_array_equal(one.values, other.values)


def test_errors_go_together_as_they_do_over_runs() -> None:
    """The correlation that a fit states, and that of the errors of 30 runs."""
    game, errors, stated = Deaf(n_players=80), [], []
    told = LineGame(n_players=80)
    for seed in range(30):
        settings = Regression(top_k=10, sizes="balanced", most_removed=0.95)
        run = estimate(told, settings, budget=Budget(1_500), seed=seed).run
        assert isinstance(run, RegressionRun)
        fitted = run.fit_rows()
        assert fitted is not None
        stated.append(fitted.correlations[0])
        alone = solved(game, seed, 1_500, sizes="balanced", most_removed=0.95)
        errors.append(alone.values)
    off = np.stack(errors) - np.mean(errors, axis=0)
    seen = (off[..., 0] * off[..., 1]).sum() / np.sqrt(
        (off[..., 0] ** 2).sum() * (off[..., 1] ** 2).sum()
    )
    assert np.mean(stated) == pytest.approx(float(seen), abs=0.08)
