"""A table of single removals beside the rows: cheaper, and still the same values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round, SomeImages
from repairkit.core.scores import Budget, Run, Scores
from repairkit.estimators.driving.driver import Estimation, estimate, scores_on
from repairkit.estimators.linear.control import N_FOLDS, ControlRows, fit_coefficients, shrink
from repairkit.estimators.linear.drawing import Split
from repairkit.estimators.linear.repair_values import RepairRegression, RepairRun
from tests.estimators.linear.test_regression import semivalue
from tests.games import Floats, TableGame, WatchedGame, members


class ImageGame:
    """Many players whose effect differs from image to image; pairs take away from one another.

    `sway` is how much effects differ, `pairs` how much two players take away together.
    """

    def __init__(
        self, n_players: int, n_images: int, *, sway: float, pairs: float, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        self.own = rng.normal(0.02, 0.05, n_players)
        self.by_image = self.own + sway * rng.standard_normal((n_images, n_players))
        self.together = pairs * rng.standard_normal((n_players, n_players))
        np.fill_diagonal(self.together, 0.0)
        self.noise = rng.standard_normal((n_images, n_players))
        pool = ImagePool.uniform(n_images)
        self.facts = GameFacts(
            n_players=n_players,
            metrics=("m",),
            score_widths=(9.0,),
            pool=pool,
            guard=0,
            images_of=(None,),
        )

    def play(self, round: Round) -> Outcomes:
        removed = (~round.coalitions).astype(float)
        odd = ((removed @ self.together) * removed).sum(axis=1)[:, None]
        if round.images is None or round.images.shape[1] > 1:
            lost, sway = removed @ self.by_image.T, removed @ self.noise.T
            if round.images is not None:
                lost, sway = (np.take_along_axis(x, round.images, axis=1) for x in (lost, sway))
        else:
            own = round.images[:, 0]
            lost = (removed * self.by_image[own]).sum(axis=1)[:, None]
            sway = (removed * self.noise[own]).sum(axis=1)[:, None]
        scores = 1.0 - lost + odd * (1 + 0.5 * np.sin(sway))
        return Outcomes(scores[:, :, None])


def run_of(game: ImageGame | TableGame, seed: int = 0, **options: float | str | None) -> Estimation:
    rows = int(options.pop("budget", 4_000))  # type: ignore[arg-type]  # a number
    known: dict[str, object] = {"most_removed": 0.1, "rows": rows, **options}
    return estimate(game, RepairRegression(**known), budget=Budget(rows), seed=seed)  # type: ignore[arg-type]


def test_values_are_the_stated_semivalue_of_any_game() -> None:
    """By enumeration: effects of each image, and interactions that no table of singles knows."""
    n, n_images = 11, 24
    rng = np.random.default_rng(3)
    present, absent = members(n).astype(float), (~members(n)).astype(float)
    lost = absent @ rng.standard_normal((n, n_images))
    pairs = rng.standard_normal((n, n))
    odd = np.einsum("cp,pq,cq->c", absent, pairs, absent)[:, None]
    table = (present.sum(axis=1)[:, None] * 0.1 - lost + 0.3 * odd)[:, :, None]
    sizes = np.arange(n + 1)
    truth = semivalue(table.mean(axis=1), ((sizes >= 1) & (sizes <= 5)).astype(float))
    asked = {"least_removed": 0.5 / n, "most_removed": 4.5 / n, "errors_over": "rows", "top_k": 1}
    with_table = run_of(TableGame(table), budget=9_000, **asked)
    plain = estimate(
        TableGame(table),
        RepairRegression(**asked),  # type: ignore[arg-type]  # its settings
        budget=Budget(9_000),
        seed=0,
    )
    assert with_table.statistics["table_images"] == n_images
    off = abs(with_table.scores.values[:, 0] - truth)
    assert (off <= 4.5 * with_table.scores.std_errors[:, 0]).all()
    assert off.max() < 0.1 * np.ptp(truth)
    assert with_table.scores.std_errors.mean() < 0.7 * plain.scores.std_errors.mean()


GAME = ImageGame(40, 120, sway=0.15, pairs=0.03)


@pytest.fixture(scope="module")
def long_run() -> Scores:
    """Of rows alone."""
    estimator = RepairRegression(most_removed=0.1, errors_over="rows")
    return estimate(GAME, estimator, budget=Budget(150_000), seed=99).scores


@pytest.mark.parametrize("over", ["rows", "images"])
def test_intervals_cover_as_often_as_they_say(over: str, long_run: Scores) -> None:
    game, truth, covered = GAME, long_run, []
    for seed in range(10):
        found = run_of(game, seed, errors_over=over, top_k=2, budget=6_000)
        assert found.statistics["table_images"] > 0
        scores = found.scores
        off = abs(scores.values[:, 0] - truth.values[:, 0])
        covered.append(off <= 1.96 * np.hypot(scores.std_errors, truth.std_errors)[:, 0])
    # These images are all there are, so that errors over images like them are too wide here.
    assert np.mean(covered) >= 0.925
    assert over == "images" or np.mean(covered) <= 0.985


def test_the_same_cost_tells_more_where_images_differ() -> None:
    game = ImageGame(60, 150, sway=0.4, pairs=0.01)
    truth = game.by_image.mean(axis=0)
    errors = {}
    for rows in (None, 5_000):
        estimator = RepairRegression(most_removed=0.1, rows=rows, top_k=2)
        found = [
            estimate(game, estimator, budget=Budget(5_000), seed=seed).scores.values[:, 0]
            for seed in range(3)
        ]
        errors[rows] = np.mean([np.std(values - truth) for values in found])
    assert errors[5_000] < 0.4 * errors[None]


def test_where_images_are_alike_all_is_spent_on_rows() -> None:
    game = WatchedGame(ImageGame(60, 150, sway=0.0, pairs=0.05))
    found = run_of(game)  # type: ignore[arg-type]  # a game
    assert found.statistics["table_images"] == 0
    assert found.spent.evaluations == 4_000
    assert found.statistics["rows"] > 0.85 * 4_000
    drawn = np.unique(np.concatenate([r.images.ravel() for r in game.rounds[-3:]]))  # type: ignore[union-attr]
    assert len(drawn) == 150


def test_a_table_of_some_images_is_about_all_of_them() -> None:
    game = ImageGame(50, 2_000, sway=0.3, pairs=0.005)
    found = run_of(game, budget=6_000, top_k=2)
    n_images = found.statistics["table_images"]
    assert 50 < n_images < 600
    off = abs(found.scores.values[:, 0] - game.by_image.mean(axis=0))
    assert (off <= 4.5 * found.scores.std_errors[:, 0]).all()
    assert f"a table of what {n_images:.0f} images lose" in found.scores.interval


def test_values_of_some_images_are_solved_from_their_rows_and_entries() -> None:
    game = ImageGame(40, 90, sway=0.3, pairs=0.02)
    run = run_of(game, errors_over="rows", top_k=2).run
    assert isinstance(run, RepairRun)
    assert run.n_images == 90
    some = np.arange(0, 90, 3)
    facts = GameFacts(
        n_players=40,
        metrics=("m",),
        score_widths=(9.0,),
        pool=ImagePool.uniform(len(some)),
        guard=0,
        images_of=(None,),
    )
    cut = SomeImages(
        facts=facts, positions=some, ratios=np.full((len(some), 1), 3.0), share=1 / 3, n_all=90
    )
    found = scores_on(run, cut)
    assert found is not None
    off = abs(found.values[:, 0] - game.by_image[some].mean(axis=0))
    assert (off <= 5 * found.std_errors[:, 0] + 0.05).all()
    others = np.setdiff1d(np.arange(90), some)
    spoilt = _with_other_outcomes(run, others)
    again = scores_on(spoilt, cut)
    assert again is not None
    assert again.values.tobytes() == found.values.tobytes()
    assert again.std_errors.tobytes() == found.std_errors.tobytes()


@pytest.mark.parametrize("n_kept", [1, 4, 20])
def test_few_images_of_a_run_without_a_table_are_told_or_left_out(n_kept: int) -> None:
    game = ImageGame(30, 60, sway=0.0, pairs=0.1)
    run = run_of(game, budget=900, top_k=2, entry_cost=0.1).run
    assert isinstance(run, RepairRun)
    assert run.n_images == 0
    some = np.arange(0, 3 * n_kept, 3)
    facts = GameFacts(
        n_players=30,
        metrics=("m",),
        score_widths=(9.0,),
        pool=ImagePool.uniform(n_kept),
        guard=0,
        images_of=(None,),
    )
    cut = SomeImages(
        facts=facts,
        positions=some,
        ratios=np.full((n_kept, 1), 60 / n_kept),
        share=n_kept / 60,
        n_all=60,
    )
    found = scores_on(run, cut)
    assert found is None or (found.samples.any() and np.isfinite(found.values).all())
    assert n_kept < 20 or found is not None


def _with_other_outcomes(run: RepairRun, images: np.ndarray) -> Run:
    """Whatever these images told is replaced by nonsense."""
    inner = run.regression
    about = np.isin(inner.rows.all_images()[:, 0], images)
    for table in (inner.outcomes, inner.predicted):
        table.numbers = [np.concatenate(table.numbers)]
        table.numbers[0][about] = 77.0
    assert inner.table is not None
    inner.table.losses[np.isin(inner.table.images, images)] = -55.0
    inner.baseline[images] = 33.0
    return run


def test_a_run_stopped_before_its_rows_tells_what_its_entries_say() -> None:
    game = ImageGame(40, 90, sway=0.3, pairs=0.02)
    run = RepairRegression(most_removed=0.1, rows=4_000, top_k=2).start(
        game.facts, np.random.default_rng(0)
    )
    assert not run.read().samples.any()
    while not (isinstance(run, RepairRun) and run.regression.table):
        run.tell(game.play(run.ask()))
    found = run.read()
    present = np.ones((41, 40), bool)
    present[np.arange(40), np.arange(40)] = False
    outcomes = game.play(Round(present)).scores[:, :, 0]
    lost = outcomes[-1] - outcomes[:-1]
    np.testing.assert_allclose(found.values[:, 0], lost.mean(axis=1), atol=1e-6)
    np.testing.assert_allclose(found.std_errors[:, 0], lost.std(axis=1) / 90**0.5, rtol=1e-4)
    assert "not the semivalue" in found.interval


@settings(max_examples=200, deadline=None)
@given(
    st.integers(2, 20_000),
    st.integers(1, 3_000),
    st.integers(1, 40),
    st.integers(300, 10_000_000),
    st.floats(0.01, 2.0),
    st.floats(0.0, 1.0),
)
def test_a_split_keeps_its_budget_and_its_memory(
    n_players: int, n_images: int, n_metrics: int, rows: int, cost: float, explained: float
) -> None:
    split = Split(
        n_players=n_players, n_images=n_images, n_metrics=n_metrics, rows=rows, entry_cost=cost
    )
    assert split.pilot_images * split.image_cost <= 0.15 * rows + 1e-9
    k = split.images_of_table(explained) if split.pilot_images else 0
    assert k == 0 or split.pilot_images <= k <= n_images
    assert 4 * k * n_players * n_metrics <= 2**28
    assert k * split.image_cost + split.pilot_rows <= rows
    if k:  # then it promises less variance than rows alone
        left = rows - split.pilot_rows - k * split.image_cost
        promised = (1 - explained) * n_players / left + explained * (1 / k - 1 / n_images)
        spent = split.pilot_rows + split.pilot_images * split.image_cost
        assert promised < n_players / (rows - spent)


def test_the_largest_networks_get_rows() -> None:
    """As a repair of 17,216 filters on 1,000 images, where a third is explained."""
    split = Split(n_players=17_216, n_images=1_000, n_metrics=2, rows=500 * 17_216, entry_cost=0.22)
    assert split.images_of_table(0.3) == 0
    assert split.pilot_images * split.image_cost < 0.03 * split.rows
    assert (
        Split(
            n_players=17_216, n_images=1_000, n_metrics=2, rows=200_000, entry_cost=0.22
        ).pilot_images
        == 0
    )


def rows_to_fit(
    n_rows: int, truth: Floats, rng: np.random.Generator
) -> tuple[ControlRows, np.ndarray]:
    images = rng.integers(0, 40, n_rows)
    ahead = rng.standard_normal((40, 1))[images]
    predicted = rng.standard_normal((n_rows, 1))
    sizes = rng.integers(1, 6, n_rows)
    outcomes = -predicted * truth[images % N_FOLDS] + ahead - 0.1 * sizes[:, None]
    return ControlRows(
        outcomes=outcomes,
        predicted=predicted,
        ahead=ahead,
        sizes=sizes,
        images=images,
        weights=np.ones(n_rows),
    ), images % N_FOLDS


def test_a_folds_coefficient_comes_from_the_other_folds() -> None:
    rng = np.random.default_rng(0)
    slopes = np.array([[1.0], [1.0], [1.0], [1.0], [6.0]])
    rows, folds = rows_to_fit(4_000, slopes, rng)
    found, explained = fit_coefficients(rows, folds)
    assert found[4, 0] == pytest.approx(1.0, abs=1e-6)
    assert found[:4, 0].min() > 2.0
    assert 0 < explained[0] < 1


def test_corrections_that_are_noise_are_drawn_to_nothing() -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((200, 1))
    factors, variances = shrink(noise, np.ones((200, 1)))
    assert np.mean((factors * noise) ** 2) < 0.3
    real = 10 * rng.standard_normal((200, 1))
    factors, variances = shrink(real + noise, np.ones((200, 1)))
    assert factors.min() > 0.9
    # Someone unlike the others is moved by one error at the most.
    noise[7] = 30.0
    factors, variances = shrink(noise, np.ones((200, 1)))
    assert factors[7] * 30.0 >= 29.0 - 1e-9
    assert variances[7] == 1.0
