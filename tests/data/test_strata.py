from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from repairkit.data.parts import draw_shares, label_bins, round_counts

SHARES = st.lists(st.integers(1, 10), min_size=1, max_size=3).flatmap(
    lambda parts: st.integers(0, 5).map(lambda rest: [part / (sum(parts) + rest) for part in parts])
)
STRATA = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=120)


@given(STRATA, SHARES, st.integers(0, 99))
def test_every_stratum_is_within_one_image_of_its_shares(
    rows: list[tuple[int, int]], shares: list[float], seed: int
) -> None:
    labels, groups = np.array(rows).T
    drawn = draw_shares(labels, groups, shares, np.random.default_rng(seed))
    assert drawn.min() >= 0
    assert drawn.max() <= len(shares)
    for row in set(rows):
        members = (labels == row[0]) & (groups == row[1])
        for part, share in enumerate(shares):
            assert abs((drawn[members] == part).sum() - share * members.sum()) < 1


@given(st.integers(3, 60), st.integers(0, 99))
def test_many_strata_of_one_image_still_add_up_to_the_shares(n_images: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = draw_shares(np.arange(n_images), None, [0.2, 0.4, 0.4], rng)
    counts = np.bincount(drawn, minlength=4)
    assert np.all(np.abs(counts - n_images * np.array([0.2, 0.4, 0.4, 0])) < 1.5)


def test_a_small_stratum_is_spread_over_all_parts() -> None:
    for seed in range(20):
        drawn = draw_shares(np.zeros(3), None, [0.1, 0.3, 0.6], np.random.default_rng(seed))
        assert sorted(drawn) == [1, 2, 2] or sorted(drawn) == [0, 1, 2]
    counts = round_counts(3, np.array([0.2, 0.4, 0.4, 0.0]), np.zeros(4))
    assert counts.tolist() == [1, 1, 1, 0]


def test_what_no_share_takes_is_left_over() -> None:
    drawn = draw_shares(np.zeros(10, dtype=int), None, [0.1, 0.2], np.random.default_rng(0))
    assert np.bincount(drawn).tolist() == [1, 2, 7]


def test_targets_are_stratified_by_quantile() -> None:
    assert np.bincount(label_bins(np.arange(100.0) ** 3)).tolist() == [10] * 10
    assert np.unique(label_bins(np.zeros(50))).size == 1
    assert label_bins(np.array([])).size == 0
