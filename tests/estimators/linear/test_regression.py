from typing import Any

import numpy as np
import pytest

from repairkit.core.errors import SettingsError
from repairkit.core.game import Outcomes, Round
from repairkit.core.scores import Budget
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.linear.drawing import (
    LAWS,
    draw_sizes,
    find_collapse,
    pilot_sizes,
    probabilities,
    remove_at_random,
)
from repairkit.estimators.linear.krylov import lanczos
from repairkit.estimators.linear.regression import Regression, RegressionRun
from repairkit.estimators.linear.repair_values import RepairRegression
from repairkit.estimators.linear.rows import RegressionRows, squares_by_image
from tests.games import (
    Floats,
    SoftGame,
    TableGame,
    WatchedGame,
    additive,
    any_values,
    members,
    noisy,
    quiet,
)

SHAPLEY = Regression(sizes="shapley", round_rows=256)


def truth(scores: Floats) -> Floats:
    return estimate(TableGame(scores), Exact(), budget=Budget(), seed=0).scores.values


def rows_of(n_rows: int, n_players: int, seed: int = 0) -> tuple[RegressionRows, Floats]:
    """Rows, and the design that they stand for."""
    rng = np.random.default_rng(seed)
    rows = RegressionRows.none(n_players)
    present = []
    for _ in range(3):
        sizes = rng.integers(1, n_players, n_rows)
        coalitions = remove_at_random(rng, sizes, n_players)
        rows.add(Round(coalitions, rng.integers(0, 7, (n_rows, 1))))
        present.append(coalitions - coalitions.mean(axis=1, keepdims=True))
    return rows, np.concatenate(present)


def test_products_with_packed_rows_are_those_with_the_design() -> None:
    rows, design = rows_of(50, 21)
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((21, 3))
    vectors -= vectors.mean(axis=0)
    columns = rng.standard_normal((150, 2))
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(rows.times(vectors), design @ vectors, **close)
    np.testing.assert_allclose(rows.transposed_times(columns), design.T @ columns, **close)
    np.testing.assert_allclose(rows.gram_times(vectors), design.T @ design @ vectors, **close)
    np.testing.assert_allclose(rows.squares(columns), (design**2).T @ columns**2, **close)
    assert rows.spread() * 21 == pytest.approx((design**2).sum())
    assert (rows.counts == (design < 0).sum(axis=0)).all()


def test_clusters_are_the_sums_over_the_rows_of_an_image() -> None:
    rows, design = rows_of(40, 19)
    residuals = np.random.default_rng(2).standard_normal((120, 2))
    images = rows.all_images()[:, 0]
    expected, crossed = np.zeros((19, 2)), np.zeros((19, 2))
    known = np.array([5, 0, 3])
    beside = np.random.default_rng(3).standard_normal((3, 19, 2))
    for image in range(7):
        own = images == image
        sums = design[own].T @ residuals[own]
        expected += sums**2
        for place in np.flatnonzero(known == image):
            crossed += sums * beside[place]
    squares, crosses = squares_by_image(
        rows, residuals, lambda players: (known, beside[:, players])
    )
    np.testing.assert_allclose(squares, expected, rtol=1e-3)
    np.testing.assert_allclose(crosses, crossed, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("law", LAWS)
def test_sizes_are_drawn_in_proportion(law: str) -> None:
    shares = probabilities(law, 1, 9, 10)  # type: ignore[arg-type]
    sizes = draw_sizes(np.random.default_rng(0), shares, 1, 10_000)
    np.testing.assert_allclose(np.bincount(sizes)[1:] / 10_000, shares, atol=2e-4)


def test_coalitions_lack_as_many_as_asked_and_everyone_equally_often() -> None:
    sizes = np.resize(np.arange(1, 8), 4_000)
    coalitions = remove_at_random(np.random.default_rng(0), sizes, 12)
    assert ((~coalitions).sum(axis=1) == sizes).all()
    np.testing.assert_allclose((~coalitions).mean(axis=0), sizes.mean() / 12, rtol=0.02)


def test_the_collapse_is_found_between_the_sizes_of_the_pilot() -> None:
    sizes = pilot_sizes(1_000, 240)
    values = np.clip(1 - sizes / 200, 0, 1)
    found = find_collapse(sizes, values, full=1.0, empty=0.0, lost=0.85, n_players=1_000)
    assert 120 < found < 240


@pytest.mark.parametrize(("full", "values"), [(0.0, 0.0), (1.0, 1.0), (-1.0, 0.0)])
def test_without_a_collapse_all_sizes_are_drawn(full: float, values: float) -> None:
    sizes = pilot_sizes(50, 60)
    told = np.full(60, values)
    assert find_collapse(sizes, told, full=full, empty=0.0, lost=0.8, n_players=50) == 49


@pytest.mark.parametrize("most_rows", [None, 3])
def test_with_shapleys_sizes_any_game_is_estimated_without_bias(most_rows: int | None) -> None:
    scores = noisy(any_values(6, seed=4), noise=0.3)
    true = truth(scores)[:, 0]
    settings = Regression(sizes="shapley", round_rows=256, images_per_coalition=most_rows or 1)
    errors = np.array(
        [
            estimate(TableGame(scores), settings, budget=Budget(1_200), seed=seed).scores.values[
                :, 0
            ]
            - true
            for seed in range(30)
        ]
    )
    assert (abs(errors.mean(axis=0)) <= 4 * errors.std(axis=0, ddof=1) / 30**0.5).all()


def test_values_add_up_with_shapleys_sizes() -> None:
    scores = quiet(any_values(5, 2, seed=2), 8)
    values = estimate(TableGame(scores), SHAPLEY, budget=Budget(500), seed=0).scores.values
    grand = scores[-1].mean(axis=0) - scores[0].mean(axis=0)
    np.testing.assert_allclose(values.sum(axis=0), grand, atol=1e-9)


def test_an_additive_game_without_noise_is_solved_nearly_exactly() -> None:
    shares = [0.4, 0.2, 0.0, -0.1, 0.3, 0.05]
    for settings in (Regression(most_removed=1.0), SHAPLEY, RepairRegression(most_removed=0.9)):
        game = TableGame(quiet(additive(shares), 4))
        values = estimate(game, settings, budget=Budget(2_000), seed=0).scores.values[:, 0]
        np.testing.assert_allclose(values, shares, atol=0.01)


def test_intervals_cover_as_often_as_they_say() -> None:
    scores = noisy(any_values(6, seed=1), noise=0.4)
    true = truth(scores)[:, 0]
    held = []
    for seed in range(40):
        end = estimate(TableGame(scores), SHAPLEY, budget=Budget(800), seed=seed).scores
        held.append((end.ci_low[:, 0] <= true) & (true <= end.ci_high[:, 0]))
    # 240 intervals, of which a run's are not independent: 95 % but for three standard errors.
    assert np.mean(held) >= 0.90


@pytest.mark.slow
def test_intervals_are_neither_too_narrow_nor_too_wide_where_players_are_many() -> None:
    game = SoftGame(60, seed=3)
    held, spread, stated = [], [], []
    for seed in range(60):
        end = estimate(game, Regression(most_removed=0.2), budget=Budget(3_000), seed=seed).scores
        spread.append(end.values[:, 0])
        stated.append(end.std_errors[:, 0])
        held.append(end)
    middle = np.mean(spread, axis=0)
    covered = np.mean([(e.ci_low[:, 0] <= middle) & (middle <= e.ci_high[:, 0]) for e in held])
    assert 0.925 <= covered <= 0.985
    ratio = np.mean(stated) / np.std(spread, axis=0, ddof=1).mean()
    assert 0.85 <= ratio <= 1.15


def test_the_pilot_keeps_coalitions_where_v_lives() -> None:
    game = WatchedGame(SoftGame(200, seed=0))
    end = estimate(game, Regression(sizes="balanced"), budget=Budget(3_000), seed=0)
    sizes = np.concatenate([(~r.coalitions).sum(axis=1) for r in game.rounds[2:]])
    assert 5 <= sizes.max() <= 120
    assert end.statistics["most_removed"] >= sizes.max()
    assert {"rows", "penalty", "cross_validated_r2", "reliability"} <= end.statistics.keys()


def test_repair_removes_one_to_five_in_a_hundred() -> None:
    game = WatchedGame(SoftGame(200, seed=0))
    end = estimate(game, RepairRegression(), budget=Budget(2_000), seed=0)
    sizes = np.concatenate([(~r.coalitions).sum(axis=1) for r in game.rounds[1:]])
    assert (sizes.min(), sizes.max()) == (1, 10)  # one lacks one player less than the least
    assert "a semivalue over 2 to 10 of 200 removals" in end.scores.interval
    assert not end.scores.efficient


def semivalue(values: Floats, weights: Floats) -> Floats:
    """By enumeration: the mean of V(S + i) - V(S), where S lacks j players by `weights[j]`."""
    n = len(values).bit_length() - 1
    present = members(n)
    lacking = n - present.sum(axis=1)
    found = np.zeros(n)
    for player in range(n):
        for j in np.flatnonzero(weights):
            own = np.flatnonzero((lacking == j) & ~present[:, player])
            found[player] += weights[j] * (values[own | 1 << player, 0] - values[own, 0]).mean()
    return found / weights.sum()


@pytest.mark.parametrize(("n", "least", "most"), [(13, 1, 4), (12, 3, 7), (6, 2, 5)])
def test_every_size_of_a_repair_counts_the_same(n: int, least: int, most: int) -> None:
    """Players matter the more the more others are gone, so that it shows which sizes count."""
    own = np.random.default_rng(n).normal(0.0, 1.0, n)
    present = members(n)
    lacking = n - present.sum(axis=1)
    values = ((present @ own) * (1 + lacking**2 / 4.0))[:, None]
    sizes = np.arange(n + 1)
    asked = (sizes >= least) & (sizes <= most)
    even = semivalue(values, asked.astype(float))
    by_rows = semivalue(values, (asked * sizes * (n - sizes)).astype(float))
    estimator = RepairRegression(
        least_removed=(least + 0.5) / n, most_removed=(most - 0.5) / n, top_k=1
    )
    found = estimate(TableGame(quiet(values)), estimator, budget=Budget(40_000), seed=1).scores
    assert (abs(found.values[:, 0] - even) <= 4.5 * found.std_errors[:, 0]).all()
    off = (found.values[:, 0] - by_rows) / found.std_errors[:, 0]
    assert abs(off).max() > 4.5


def test_balanced_sizes_count_the_same_up_to_the_collapse() -> None:
    n, most = 12, 5
    own = np.random.default_rng(3).normal(0.3, 1.0, n)
    present = members(n)
    lacking = n - present.sum(axis=1)
    values = ((present @ own) * (1 + lacking**2 / 30.0))[:, None]
    even = semivalue(values, ((np.arange(n + 1) >= 1) & (np.arange(n + 1) <= most)).astype(float))
    paid = values[-1, 0] - values[lacking == most, 0].mean()
    scale = most / n * float(np.clip((values[-1, 0] - values[0, 0]) / paid, 1.0, 1.3))
    found, by_rows = (
        estimate(
            TableGame(quiet(values)),
            Regression(sizes=law, most_removed=most / n, top_k=1),
            budget=Budget(40_000),
            seed=1,
        ).scores
        for law in ("balanced", "even")
    )
    assert (abs(found.values[:, 0] - scale * even) <= 4.5 * found.std_errors[:, 0]).all()
    assert (abs(by_rows.values[:, 0] - scale * even) > 4.5 * by_rows.std_errors[:, 0]).any()


@pytest.mark.parametrize(
    ("n_players", "settings", "law"),
    [
        (64, {}, "shapley"),
        (65, {}, "pooled"),
        (65, {"errors_over": "images"}, "balanced"),
        (64, {"most_removed": 0.2}, "balanced"),
        (65, {"sizes": "balanced"}, "balanced"),
        (65, {"sizes": "falling"}, "falling"),
    ],
)
def test_the_usual_law_of_sizes(n_players: int, settings: dict[str, Any], law: str) -> None:
    run = Regression(**settings).start(SoftGame(n_players).facts, np.random.default_rng(0))
    assert run.law == law


def test_errors_over_images_are_no_smaller_than_over_rows() -> None:
    game = SoftGame(40, seed=1)
    rows, images = (
        estimate(
            game, RepairRegression(errors_over=over, most_removed=0.2), budget=Budget(3_000), seed=0
        ).scores
        for over in ("rows", "images")
    )
    assert (rows.values == images.values).all()
    assert (images.std_errors >= rows.std_errors * (1 - 1e-9)).all()
    assert images.std_errors.mean() > 1.02 * rows.std_errors.mean()


def test_images_drawn_unevenly_are_compared_with_their_own_baseline() -> None:
    game = SoftGame(30, seed=2, uneven=True)
    even = SoftGame(30, seed=2)
    for each in (game, even):
        end = estimate(each, Regression(most_removed=0.3), budget=Budget(4_000), seed=0)
        assert end.statistics["cross_validated_r2"] > 0.05


def test_a_metric_without_any_effect_gets_nothing() -> None:
    scores = np.concatenate([quiet(any_values(5), 4), np.full((32, 4, 1), 0.5)], axis=2)
    end = estimate(TableGame(scores), SHAPLEY, budget=Budget(600), seed=0).scores
    np.testing.assert_allclose(end.values[:, 1], 0.0, atol=1e-9)
    np.testing.assert_allclose(end.std_errors[:, 1], 0.0, atol=1e-9)


def test_many_metrics_are_solved_from_one_design() -> None:
    many = np.repeat(noisy(any_values(5), noise=0.1), 20, axis=2)
    values = estimate(TableGame(many), SHAPLEY, budget=Budget(800), seed=0).scores.values
    np.testing.assert_allclose(values, np.repeat(values[:, :1], 20, axis=1), atol=1e-6)


def test_the_only_player_has_all() -> None:
    for settings in (Regression(), RepairRegression()):
        end = estimate(TableGame(quiet(additive([0.5]), 3)), settings, budget=Budget(), seed=0)
        assert end.finished
        assert end.scores.values.tolist() == [[0.5]]


def test_reading_twice_solves_once() -> None:
    game = TableGame(noisy(any_values(5), noise=0.2))
    run = SHAPLEY.start(game.facts, np.random.default_rng(0))
    assert isinstance(run, RegressionRun)
    for _ in range(4):
        run.tell(game.play(run.ask()))
    first = run.fit_rows()
    assert run.fit_rows() is first
    run.tell(Outcomes(game.play(run.ask()).scores))
    assert run.fit_rows() is not first


@pytest.mark.parametrize(
    ("kind", "settings", "match"),
    [
        (Regression, {"sizes": "fallin"}, "did you mean 'falling'"),
        (Regression, {"lost": 0.0}, "lost"),
        (Regression, {"most_removed": 1.5}, "most_removed"),
        (Regression, {"images_per_coalition": 0}, "images_per_coalition"),
        (Regression, {"errors_over": "image"}, "did you mean 'images'"),
        (Regression, {"errors_over": "images", "images_per_coalition": 2}, "one image per"),
        (Regression, {"errors_over": "images", "sizes": "pooled"}, "set sizes to balanced"),
        (Regression, {"side": "left"}, "side"),
        (RepairRegression, {"least_removed": 0.2}, "give the smaller share first"),
        (RepairRegression, {"round_rows": 0}, "round_rows"),
    ],
)
def test_settings_without_sense_are_refused(
    kind: type, settings: dict[str, object], match: str
) -> None:
    with pytest.raises(SettingsError, match=match):
        kind(**settings)


def test_halves_of_the_rows_come_to_agree_and_v_falls_with_removals() -> None:
    game = SoftGame(60)
    run = Regression(sizes="falling").start(game.facts, np.random.default_rng(0))
    for _ in range(40):
        run.tell(game.play(run.ask()))
    details = run.details
    trace, curve = np.array(details["convergence"]), np.array(details["curve"])
    assert (np.diff(trace[:, 0]) > 0).all()
    assert trace[-1, 1] > max(0.8, trace[0, 1])
    assert curve[:, 1].sum() == len(run.rows)
    assert np.corrcoef(curve[:, 0], curve[:, 2])[0, 1] < -0.9


# Penalties and traces


def problem(n_rows: int, n_players: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    design = rng.standard_normal((n_rows, n_players))
    design -= design.mean(axis=1, keepdims=True)
    return design, design.T @ rng.standard_normal((n_rows, 2))


@pytest.mark.parametrize("penalty", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("n_rows", [20, 100, 2_000])
def test_every_penalty_is_solved_from_one_recurrence(n_rows: int, penalty: float) -> None:
    design, columns = problem(n_rows, 40)
    gram = design.T @ design
    spectrum = lanczos(lambda v: gram @ v, columns, 39)
    for column in range(2):
        expected = np.linalg.solve(gram + penalty * np.eye(40), columns[:, column])
        found = spectrum.solve(column, penalty)
        assert np.linalg.norm(found - expected) <= 0.02 * np.linalg.norm(expected)
        lowered = 2 * columns[:, column] @ expected - expected @ gram @ expected
        assert spectrum.explained(column, np.array([penalty]))[0] == pytest.approx(
            lowered, rel=0.02
        )


def test_traces_are_means_over_probes() -> None:
    design, _ = problem(100, 30)
    gram = design.T @ design
    probes = np.eye(30) - 1 / 30
    spectrum = lanczos(lambda v: gram @ v, probes, 29)
    values = np.linalg.eigvalsh(gram)[1:]
    found = 29 * spectrum.mean_of(lambda v: v / (v + 50.0), slice(None))
    assert found == pytest.approx((values / (values + 50.0)).sum(), rel=1e-3)


def test_a_column_of_zeros_is_solved_by_zeros() -> None:
    design, columns = problem(100, 10)
    columns[:, 1] = 0.0
    spectrum = lanczos(lambda v: design.T @ design @ v, columns, 9)
    assert not spectrum.solve(1, 1.0).any()
    assert spectrum.solve(0, 1.0).any()


def test_filters_of_narrow_layers_are_absent_as_often_as_others() -> None:
    """By counting, in the first round on a SqueezeNet: decks deal every player before any again.

    Independent draws would leave out 15 % of the players, and squeeze layers be 20 % off.
    """
    squeezes = [16, 16, 32, 32, 48, 48, 64, 64]
    widths = [64, *(width for squeeze in squeezes for width in (squeeze, 4 * squeeze, 4 * squeeze))]
    n, ends = sum(widths), np.cumsum(widths)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        sizes = draw_sizes(rng, probabilities("falling", 1, 60, n), 1, 256)
        absent = (~remove_at_random(rng, sizes, n)).sum(axis=0)
        assert (absent == 0).mean() < 0.01
        for end, width in zip(ends, widths, strict=True):
            if width <= 64:
                assert absent[end - width : end].mean() == pytest.approx(absent.mean(), rel=0.1)
