"""What a finished run says of some of its images is what a game of only these would have told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round, SomeImages
from repairkit.core.scores import Budget, Estimator, Run
from repairkit.estimators import reference_scores
from repairkit.estimators.auto import Auto
from repairkit.estimators.driving.driver import estimate, scores_on
from repairkit.estimators.linear.regression import Regression, RegressionRun
from repairkit.estimators.linear.repair_values import RepairRegression
from repairkit.estimators.reference_scores import LeaveOneOut, RandomScores
from repairkit.estimators.registry import ESTIMATORS
from tests.games import Floats, TableGame, any_values, noisy

N_PLAYERS, N_IMAGES = 6, 24


class WeighedGame:
    """A table game whose images count by `weights` (n_images, n_metrics), drawn by `drawn`."""

    def __init__(self, scores: Floats, weights: Floats, drawn: Floats) -> None:
        self.table, self.weights, self.drawn = TableGame(scores), weights, drawn
        pool = ImagePool(drawn, np.arange(len(drawn)) % 2)
        own = [np.flatnonzero(column) for column in weights.T]
        images_of = tuple(None if len(images) == len(drawn) else images for images in own)
        names = tuple(f"m{i}" for i in range(weights.shape[1]))
        widths = (9.0,) * len(names)
        self.facts = GameFacts(
            n_players=self.table.facts.n_players,
            metrics=names,
            score_widths=widths,
            pool=pool,
            guard=0,
            images_of=images_of,
        )

    def play(self, round: Round) -> Outcomes:
        scores = self.table.play(round).scores
        if round.images is None:
            return Outcomes(scores * self.weights * len(self.drawn))
        return Outcomes(scores * (self.weights / self.drawn[:, None])[round.images])


def weighed(kinds: np.ndarray, n_metrics: int) -> Floats:
    """Uniform weights, then the mean over kinds, then one kind after another."""
    known = np.unique(kinds)
    columns = [np.full(len(kinds), 1 / len(kinds))]
    columns.append(sum((kinds == k) / (kinds == k).sum() for k in known) / len(known))
    while len(columns) < n_metrics:
        own = kinds == known[(len(columns) - 2) % len(known)]
        columns.append(own / own.sum())
    return np.stack(columns[:n_metrics], axis=1)


def games(
    positions: np.ndarray, *, n_metrics: int, seed: int
) -> tuple[WeighedGame, WeighedGame, SomeImages]:
    """A game, the game of some of its images, and how the first is cut to the second."""
    table = noisy(any_values(N_PLAYERS, n_metrics, seed=seed), noise=0.5, n_images=N_IMAGES)
    kinds = np.arange(N_IMAGES) % 3
    drawn = np.random.default_rng(seed).random(N_IMAGES) + 0.2
    drawn /= drawn.sum()
    weights, here = weighed(kinds, n_metrics), weighed(kinds[positions], n_metrics)
    share = float(drawn[positions].sum())
    whole = WeighedGame(table, weights, drawn)
    part = WeighedGame(table[:, positions], here, drawn[positions] / share)
    before = weights[positions]
    ratios = np.divide(here, before, out=np.zeros_like(here), where=before > 0)
    return (
        whole,
        part,
        SomeImages(
            facts=part.facts, positions=positions, ratios=ratios, share=share, n_all=N_IMAGES
        ),
    )


def some_positions(draw: st.DrawFn) -> np.ndarray:
    """A few images of each of the three kinds, in any order."""
    chosen: list[int] = []
    for kind in range(3):
        own = list(range(kind, N_IMAGES, 3))
        chosen += draw(st.lists(st.sampled_from(own), min_size=2, unique=True))
    return np.array(draw(st.permutations(chosen)))


positions_of_every_kind = st.composite(some_positions)()


def told(game: WeighedGame, estimator: Estimator, n_rows: int = 600) -> Run:
    run = estimate(game, estimator, budget=Budget(n_rows), seed=3).run
    assert run is not None
    return run


@settings(max_examples=20, deadline=None)
@given(positions_of_every_kind, st.sampled_from([2, 3, 10]), st.integers(0, 9))
def test_leave_one_out_is_that_of_the_images_alone(
    positions: np.ndarray, n_metrics: int, seed: int
) -> None:
    whole, part, some = games(positions, n_metrics=n_metrics, seed=seed)
    found = scores_on(told(whole, LeaveOneOut()), some)
    alone = estimate(part, LeaveOneOut(), budget=Budget(), seed=0).scores
    assert found is not None
    np.testing.assert_allclose(found.values, alone.values, rtol=0, atol=1e-5)
    np.testing.assert_allclose(found.std_errors, alone.std_errors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.ci_low, alone.ci_low, rtol=1e-4, atol=1e-4)


@settings(max_examples=12, deadline=None)
@given(positions_of_every_kind, st.sampled_from([2, 10]), st.integers(0, 9))
@pytest.mark.parametrize("kind", ["repair", "falling", "shapley"])
def test_a_regression_solves_the_rows_of_these_images_and_no_others(
    kind: str, positions: np.ndarray, n_metrics: int, seed: int
) -> None:
    whole, part, some = games(positions, n_metrics=n_metrics, seed=seed)
    estimator: Estimator = (
        RepairRegression(most_removed=0.5)
        if kind == "repair"
        else Regression(sizes="falling", most_removed=0.5)
        if kind == "falling"
        else Regression(sizes="shapley")
    )
    run = told(whole, estimator)
    assert isinstance(run, RegressionRun)
    found = scores_on(run, some)
    assert found is not None

    # By hand: a run of the smaller game that is told these rows, played in that game.
    n = N_PLAYERS
    alone = estimator.start(part.facts, np.random.default_rng(3))
    assert isinstance(alone, RegressionRun)
    alone.entropy = run.entropy
    alone.tell(part.play(Round(np.stack([np.ones(n, bool), np.zeros(n, bool)]))))
    images = run.rows.all_images()[:, 0]
    removed = np.unpackbits(np.concatenate(run.rows.bits), axis=1, count=n).astype(bool)
    place = {image: i for i, image in enumerate(positions.tolist())}
    kept = [row for row, image in enumerate(images.tolist()) if image in place]
    asked = Round(~removed[kept], np.array([[place[int(images[row])]] for row in kept]))
    played = part.play(asked)
    alone.tell(Outcomes(played.scores, asked))
    expected = alone.read()
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.std_errors, expected.std_errors, rtol=1e-3, atol=1e-4)
    assert (found.samples == expected.samples).all()


@given(positions_of_every_kind)
@settings(max_examples=5, deadline=None)
def test_what_the_other_images_did_plays_no_part(positions: np.ndarray) -> None:
    whole, _, some = games(positions, n_metrics=2, seed=1)
    others = np.setdiff1d(np.arange(N_IMAGES), positions)
    changed, _, _ = games(positions, n_metrics=2, seed=1)
    changed.table.scores[:, others] = 7.0 - 3 * changed.table.scores[:, others]
    for estimator in (LeaveOneOut(), RepairRegression(most_removed=0.5)):
        first, second = (scores_on(told(game, estimator), some) for game in (whole, changed))
        assert first is not None
        assert second is not None
        assert first.values.tobytes() == second.values.tobytes()
        assert first.std_errors.tobytes() == second.std_errors.tobytes()


@pytest.mark.parametrize("n_rows", [260, 270, 280])
@pytest.mark.parametrize("seed", range(4))
def test_few_rows_are_enough_or_it_is_said_that_nothing_can_be_told(n_rows: int, seed: int) -> None:
    """Of a small scoring, a part of the images has fewer rows than values need."""
    positions = np.array([0, 1, 2, 11 + seed])  # one of each kind at least
    whole, _, some = games(positions, n_metrics=2, seed=seed)
    run = told(whole, RepairRegression(most_removed=0.5, rows=n_rows), n_rows)
    found = scores_on(run, some)
    assert found is None or np.isfinite(found.values).all()


def test_auto_solves_its_regression_without_the_marginals() -> None:
    positions = np.arange(0, N_IMAGES, 2)
    whole, _, some = games(positions, n_metrics=2, seed=4)
    run = told(whole, Auto(top_k=1, epsilon=0.0, round_rows=64, batch_size=4))
    inner = scores_on(run.regression, some)  # type: ignore[attr-defined]  # an AutoRun
    found = scores_on(run, some)
    assert inner is not None
    assert found is not None
    np.testing.assert_array_equal(found.values, inner.values)


_NO_TOP_K = ("permutation", "stars", "leave-one-out", "random")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_only_those_that_know_their_images_answer(name: str) -> None:
    whole, _, some = games(np.arange(12), n_metrics=2, seed=2)
    options = {"batch_size": 4} if name in ("tmab", "permutation", "marginals") else {}
    more = {"top_k": 1} if name not in (*_NO_TOP_K, "exact") else {}
    run = told(whole, ESTIMATORS[name](**options, **more))
    found = scores_on(run, some)
    assert (found is None) == (name in ("tmab", "permutation", "marginals", "stars", "exact"))


def test_random_scores_are_the_same_on_any_images() -> None:
    whole, _, some = games(np.arange(12), n_metrics=2, seed=2)
    run = told(whole, RandomScores())
    found = scores_on(run, some)
    assert found is not None
    np.testing.assert_array_equal(found.values, run.read().values)


def test_images_that_share_coalitions_cannot_be_told_apart() -> None:
    whole, _, some = games(np.arange(12), n_metrics=2, seed=2)
    assert scores_on(told(whole, Regression(images_per_coalition=2, top_k=1)), some) is None


def test_a_table_that_would_take_too_much_memory_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, _, some = games(np.arange(12), n_metrics=2, seed=2)
    usual = told(whole, LeaveOneOut())
    monkeypatch.setattr(reference_scores, "MOST_BYTES", 4 * N_PLAYERS * N_IMAGES * 2 - 1)
    bounded = told(whole, LeaveOneOut())
    assert scores_on(bounded, some) is None
    np.testing.assert_array_equal(bounded.read().values, usual.read().values)
