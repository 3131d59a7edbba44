"""The joint search on made-up outcomes, whose truth is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from repairkit.core.errors import SettingsError
from repairkit.core.game import Coalitions
from repairkit.core.suite import Indices
from repairkit.repairs import Frozen, Search, SearchSettings, assign_folds, gain_of_choice, look

Floats = NDArray[np.float64]
Worth = Callable[[frozenset[int]], float]


@dataclass
class MadeUp:
    """Outcomes per image: the worth of the frozen set, and noise of the set's own."""

    worth: Worth
    noise: float
    n_images: int = 120
    seed: int = 0
    limit: Callable[[frozenset[int]], str] = lambda _: ""

    def outputs(self, frozen: frozenset[int]) -> Floats:
        members = sum(1 << player for player in frozen)
        scatter = np.random.default_rng([self.seed, members]).standard_normal(self.n_images)
        # The members stand in front, for `objection`.
        return np.append(self.worth(frozen) + self.noise * scatter, members)

    def answer(self, coalitions: Coalitions) -> Iterator[Floats]:
        for row in coalitions:
            yield self.outputs(frozenset(np.flatnonzero(~row).tolist()))

    def columns(self, outputs: NDArray[Any]) -> Floats:
        columns: Floats = outputs[:-1]
        return columns

    def figure(self, columns: Floats, positions: Indices) -> float:
        return float(columns[positions].mean())

    def objection(self, outputs: NDArray[Any]) -> str:
        members = int(outputs[-1])
        return self.limit(frozenset(i for i in range(members.bit_length()) if members >> i & 1))


def search(made_up: MadeUp, n_players: int, **settings: Any) -> tuple[tuple[Frozen, ...], Search]:
    rng = np.random.default_rng([made_up.seed, 1])
    asked = SearchSettings(**settings)
    strata = np.arange(made_up.n_images) % 2
    folds = assign_folds(strata.astype(np.int64), asked.n_folds, rng)
    found = Search(made_up.answer, made_up, n_players, folds, asked, rng)
    return found.run(range(n_players)), found


def test_planted_harm_is_found_and_nothing_else() -> None:
    harm = {3: 0.5, 7: 0.3}
    made_up = MadeUp(lambda frozen: sum(harm.get(p, -0.2) for p in frozen), noise=0.1)
    path, found = search(made_up, 12)
    assert path == ((), (3,), (3, 7))
    assert not found.steps[-1].kept
    assert found.n_looks == 1 + 12 + 11 + 10  # to let one go is to look where it was looked


def test_two_that_stand_in_for_each_other_are_not_both_frozen() -> None:
    """Each of 0 and 1 is harmful alone and one of them is needed; by rank both would go."""

    def worth(frozen: frozenset[int]) -> float:
        alone = {0: 0.5, 1: 0.45, 2: 0.2}
        return sum(alone.get(p, -0.1) for p in frozen) - (3.0 if {0, 1} <= frozen else 0.0)

    made_up = MadeUp(worth, noise=0.05)
    path, _ = search(made_up, 6)
    assert set(path[-1]) == {0, 2}
    by_rank = worth(frozenset({0, 1}))
    assert worth(frozenset(path[-1])) > 0 > by_rank


def test_whoever_the_others_do_without_is_let_go() -> None:
    """0 is best alone, and in the way once 1 and 2 are frozen."""
    worths = {0: 0.6, 1: 0.5, 2: 0.5}

    def worth(frozen: frozenset[int]) -> float:
        if {1, 2} <= frozen:
            return 1.3 - 0.1 * (0 in frozen)
        return max((worths[p] for p in frozen), default=0.0) + 0.2 * (len(frozen) > 1)

    path, found = search(MadeUp(worth, noise=0.01), 3)
    assert set(path[-1]) == {1, 2}
    assert [step.dropped for step in found.steps if step.dropped is not None] == [0]


def test_a_beam_finds_a_pair_that_no_first_step_leads_to() -> None:
    def worth(frozen: frozenset[int]) -> float:
        best_alone = 0.5 * (0 in frozen)
        return best_alone + (2.0 if {1, 2} == frozen else 0.1 * len(frozen & {1, 2}))

    greedy, _ = search(MadeUp(worth, noise=0.01), 3, at_most=2)
    wide, _ = search(MadeUp(worth, noise=0.01), 3, at_most=2, beam=3)
    assert set(greedy[-1]) != {1, 2}
    assert set(wide[-1]) == {1, 2}


def test_limits_are_kept_and_at_most_so_many_are_frozen() -> None:
    made_up = MadeUp(
        lambda frozen: 0.5 * len(frozen),
        noise=0.01,
        limit=lambda frozen: "breaks a limit" if 2 in frozen else "",
    )
    path, found = search(made_up, 5, at_most=3)
    assert len(path[-1]) == 3
    assert 2 not in path[-1]
    assert "as many as allowed" in found.steps[-1].reason
    everything, found = search(made_up, 5)
    assert sorted(everything[-1]) == [0, 1, 3, 4]
    assert "no candidate is left" in found.steps[-1].reason


def test_figures_rise_along_the_path() -> None:
    worths = np.random.default_rng(5).normal(0, 0.2, 20)
    made_up = MadeUp(lambda frozen: sum(worths[p] for p in frozen), noise=0.5)
    path, found = search(made_up, 20)
    figures = [found.figure(frozen) for frozen in path]
    assert figures == sorted(figures)
    assert len(set(figures)) == len(figures)


def test_of_nothing_but_noise_a_step_is_taken_as_rarely_as_stated() -> None:
    n_runs, doubt = 150, 0.1
    taken = 0
    for seed in range(n_runs):
        made_up = MadeUp(lambda _: 0.0, noise=1.0, n_images=80, seed=seed)
        path, _ = search(made_up, 15, doubt=doubt, n_resamples=100)
        taken += len(path) > 1
    # Three standard deviations of a share of 150.
    assert taken / n_runs <= doubt + 3 * np.sqrt(doubt * (1 - doubt) / n_runs)


def test_the_cross_fitted_gain_of_noise_is_nothing_where_the_best_looks_good() -> None:
    naive, honest = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        made_up = MadeUp(lambda _: 0.0, noise=1.0, n_images=60)
        folds = assign_folds(np.zeros(60, np.int64), 5, rng)
        looked = [look(made_up, np.append(rng.standard_normal(60), 0), folds) for _ in range(21)]
        champion, contenders = looked[0], looked[1:]
        gain = gain_of_choice(
            made_up, champion, contenders, folds, doubt=0.1, n_resamples=20, rng=rng
        )
        naive.append(max(c.figure for c in contenders) - champion.figure)
        honest.append(gain.value)
        assert gain.low <= gain.value
    error = np.std(honest) / np.sqrt(len(honest))
    assert abs(np.mean(honest)) < 3 * error
    assert np.mean(naive) > 5 * error


def test_folds_hold_their_share_of_every_stratum() -> None:
    strata = np.repeat([0, 1, 2], [50, 23, 7])
    folds = assign_folds(strata, 5, np.random.default_rng(0))
    for stratum, size in ((0, 50), (1, 23), (2, 7)):
        counts = np.bincount(folds.fold_of[strata == stratum], minlength=5)
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == size
    drawn = folds.draws(10, np.random.default_rng(1))
    assert (np.sort(strata[drawn], axis=1) == np.sort(strata)).all()


@pytest.mark.parametrize("wrong", [{"at_most": 0}, {"beam": 0}, {"doubt": 1.0}, {"n_folds": 1}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        SearchSettings(**wrong)
