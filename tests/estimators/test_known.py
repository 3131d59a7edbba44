"""What scores say surely: by enumeration, and over many runs of games whose values are known."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.scores import Budget, Estimator, Scores
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.known import (
    CountedImages,
    expected_overlap,
    times_the_budget,
    what_is_known,
)
from repairkit.estimators.linear.regression import Regression
from repairkit.estimators.reference_scores import LeaveOneOut
from repairkit.estimators.walking.marginals import Marginals
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab
from tests.games import TableGame, additive, any_values, noisy


def bounded(values: list[float], radius: list[float]) -> Scores:
    centre, arm = np.array(values), np.array(radius)
    joint = np.stack([centre - arm, centre + arm], axis=1)
    return replace(Scores.plain(("accuracy",), centre[:, None]), joint=joint)


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 3)), min_size=2, max_size=5))
def test_a_top_is_settled_if_every_truth_within_the_bounds_has_it(
    players: list[tuple[int, int]],
) -> None:
    """Truths at both ends of all bounds are tried: an extreme one breaks a set, if any does."""
    values, radius = map(list, zip(*players, strict=True))
    scores = bounded([float(v) for v in values], [r + 0.25 for r in radius])
    known = what_is_known(scores)
    assert known is not None
    assert scores.joint is not None
    order = scores.ranking()
    for sign, settled in ((1, known.settled_highest), (-1, known.settled_lowest)):
        ranked = order if sign == 1 else np.argsort(scores.values[:, 0], kind="stable")
        truths = [sign * np.array(truth) for truth in product(*scores.joint.tolist())]
        for k in range(1, len(values)):
            holds = all(t[ranked[:k]].min() > t[ranked[k:]].max() for t in truths)
            assert (k in settled) == holds


def test_signs_are_counted_where_the_bounds_exclude_zero() -> None:
    known = what_is_known(bounded([3.0, 1.0, 0.0, -1.0, -3.0], [1.0, 1.0, 1.0, 0.5, 4.0]))
    assert known is not None
    assert (known.above, known.below) == (1, 1)


def test_scores_without_joint_bounds_say_nothing() -> None:
    assert what_is_known(Scores.plain(("accuracy",), np.ones((3, 1)))) is None


def test_so_many_times_the_samples_settle_the_top() -> None:
    scores = bounded([4.0, 3.0, 0.0], [1.0, 2.0, 2.0])
    times = times_the_budget(scores, 1)
    assert times == pytest.approx(9.0)
    assert scores.joint is not None
    for share, settles in ((1.01, True), (0.99, False)):
        arms = np.array([1.0, 2.0, 2.0]) / np.sqrt(share * times)
        known = what_is_known(bounded([4.0, 3.0, 0.0], arms.tolist()))
        assert known is not None
        assert (1 in known.settled_highest) == settles
    assert times_the_budget(bounded([1.0, 1.0], [0.1, 0.1]), 1) is None


ESTIMATORS: dict[str, tuple[Estimator, int]] = {
    "permutation": (Permutation(batch_size=4, stop="never"), 600),
    "permutation that stops": (Permutation(batch_size=4, top_k=2), 600),
    "leave-one-out": (LeaveOneOut(), 20),
    "regression": (Regression(sizes="shapley", round_rows=256), 3_000),
    "tmab": (Tmab(batch_size=4, top_k=2), 600),
    "marginals": (Marginals(top_k=2, batch_size=4), 600),
}


@pytest.mark.long
@pytest.mark.parametrize("name", ESTIMATORS)
def test_joint_bounds_hold_all_values_in_most_runs(name: str) -> None:
    """95 % are promised: of 40 runs more than 6 that break it have a chance below 1 %."""
    estimator, budget = ESTIMATORS[name]
    broken = 0
    for seed in range(40):
        # The images are a sample: another draw of them for each seed, around one truth.
        table = noisy(any_values(6, seed=1), noise=0.2, n_images=400, seed=seed)
        truth = estimate(
            TableGame(any_values(6, seed=1)[:, None, :]), reference(name), budget=Budget(), seed=0
        ).scores.values[:, 0]
        scores = estimate(TableGame(table), estimator, budget=Budget(budget), seed=seed).scores
        assert scores.joint is not None
        broken += not bool(((scores.joint[:, 0] <= truth) & (truth <= scores.joint[:, 1])).all())
    assert broken <= 6


def reference(name: str) -> Estimator:
    return LeaveOneOut() if name == "leave-one-out" else Exact()


def test_walks_stop_once_the_top_is_apart_and_not_before() -> None:
    table = noisy(additive([0.1, 0.3, 0.05, 0.0, -0.1]), noise=0.1, n_images=64)
    ended = estimate(
        TableGame(table), Permutation(batch_size=16, top_k=1), budget=Budget(6_000), seed=1
    )
    truth = estimate(TableGame(table), Exact(), budget=Budget(), seed=0).scores
    assert ended.finished
    assert ended.reason == "the top 1 are decided"
    assert ended.scores.decided.all()
    assert ended.scores.ranking()[0] == truth.ranking()[0]
    known = what_is_known(ended.scores)
    assert known is not None
    assert 1 in known.settled_highest


@pytest.mark.long
@pytest.mark.parametrize("noise", [0.05, 0.3, 2.0])
def test_the_expected_overlap_is_that_of_two_runs(noise: float) -> None:
    rng = np.random.default_rng(5)
    truth = rng.standard_t(2, 400) * 0.3
    errors = noise * rng.uniform(0.5, 1.5, 400)
    expected, seen = [], []
    for _ in range(20):
        first, second = (truth + errors * rng.standard_normal(400) for _ in range(2))
        expected.append(expected_overlap(first, errors, 10, rng))
        seen.append(overlap(first, second))
    assert abs(np.mean(expected) - np.mean(seen)) < 0.75


def overlap(first: np.ndarray, second: np.ndarray) -> int:
    """Of the top 10; ties are broken by column, as rankings break them."""
    tops = [set(np.argsort(-v, kind="stable")[:10].tolist()) for v in (first, second)]
    return len(tops[0] & tops[1])


def test_the_expected_overlap_holds_where_small_errors_go_with_small_values() -> None:
    """As with rare events: most players hardly matter, and their errors are tiny too."""
    rng = np.random.default_rng(6)
    errors = 10 ** rng.uniform(-4, 0, 300)
    truth = 2 * errors * rng.standard_normal(300)
    expected, seen = [], []
    for _ in range(20):
        first, second = (truth + errors * rng.standard_normal(300) for _ in range(2))
        expected.append(expected_overlap(first, errors, 10, rng))
        seen.append(overlap(first, second))
    assert abs(np.mean(expected) - np.mean(seen)) < 0.75


@pytest.mark.parametrize("wins", [0.0, 0.5])
def test_the_expected_overlap_counts_ties_as_another_run_breaks_them(wins: float) -> None:
    """Without one filter few images are lost, so values are small counts, and most of them tie."""
    rng = np.random.default_rng(7)
    losing = rng.permutation(np.concatenate([np.geomspace(0.1, 0.005, 20), np.full(180, 0.002)]))
    winning = wins * losing * rng.uniform(0, 1, 200)
    expected, seen = [], []
    for _ in range(20):
        chances = rng.random((2, 200, 225))
        lost, won = chances < losing[:, None], chances > 1 - winning[:, None]
        changes = lost.astype(float) - won
        first, second = changes.mean(axis=2)
        errors = changes[0].std(axis=1, ddof=1) / np.sqrt(225)
        expected.append(expected_overlap(first, errors, 10, rng))
        seen.append(overlap(first, second))
    assert abs(np.mean(expected) - np.mean(seen)) < 0.75


@given(
    st.integers(8, 200).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(
                st.tuples(st.integers(0, n // 2), st.integers(0, n // 2)), min_size=2, max_size=9
            ),
        )
    )
)
def test_values_and_errors_tell_the_images_lost_and_won(
    drawn: tuple[int, list[tuple[int, int]]],
) -> None:
    n, players = drawn
    players = [(1, 0), (0, 0), *players]  # one image apart, so that the step is known
    changes = np.array([[1.0] * a + [-1.0] * b + [0.0] * (n - a - b) for a, b in players])
    values, errors = changes.mean(axis=1), changes.std(axis=1, ddof=1) / np.sqrt(n)
    counted = CountedImages.of(values, errors)
    if counted is None:  # values of so few players show no ties
        assert len(np.unique(values)) >= len(values)
    else:
        assert counted.n_images == n
        assert list(zip(counted.lost, counted.won, strict=True)) == players


def test_values_that_are_no_counts_are_not_taken_for_counts() -> None:
    values = np.array([0.25, 0.125, 0.125, 0.0, -0.125])
    assert CountedImages.of(values, np.full(5, 0.1)) is None
    assert CountedImages.of(values + 0.01, np.full(5, 0.1)) is None


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1e-9, 0.3, 1.0, -40.0]), st.sampled_from([0.0, 1e-6, 0.5])),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 8),
)
def test_an_overlap_is_a_number_from_none_to_all(
    players: list[tuple[float, float]], top_k: int
) -> None:
    values, errors = (np.array(column) for column in zip(*players, strict=True))
    top_k = min(top_k, len(values))
    overlap = expected_overlap(values, errors, top_k, np.random.default_rng(0))
    assert 0 <= overlap <= top_k
    if top_k == len(values):
        assert overlap == top_k


def test_without_errors_another_run_repeats_the_top() -> None:
    values = np.arange(20.0)
    assert expected_overlap(values, np.zeros(20), 5, np.random.default_rng(0)) == 5
    unknown = np.full(20, np.inf)
    assert expected_overlap(values, unknown, 5, np.random.default_rng(0)) == 25 / 20
