"""The joint search on made-up outcomes, whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from repairkit.core.errors import SettingsError
from repairkit.core.suite import Array, Indices
from repairkit.repairs.crossfit import assign_folds, gain_of_choice, look, widening
from repairkit.repairs.search import Frozen, Screened, Search, SearchSettings

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
    additive: bool = True

    def outputs(self, frozen: frozenset[int]) -> Floats:
        members = sum(1 << player for player in frozen)
        scatter = np.random.default_rng([self.seed, members]).standard_normal(self.n_images)
        # The members stand in front, for `objection`.
        return np.append(self.worth(frozen) + self.noise * scatter, members)

    def answer(self, sets: Sequence[Frozen]) -> Iterator[Floats]:
        for frozen in sets:
            yield self.outputs(frozenset(frozen))

    def columns(self, outputs: Array) -> Floats:
        columns: Floats = outputs[:-1]
        return columns

    def figure(self, columns: Floats, positions: Indices) -> float:
        return float(columns[positions].mean())

    def objection(self, outputs: Array, positions: Indices) -> str:
        assert len(positions)
        members = int(outputs[-1])
        return self.limit(frozenset(i for i in range(members.bit_length()) if members >> i & 1))


def search(
    made_up: MadeUp, n_players: int, *, most_steps: float = math.inf, **settings: Any
) -> tuple[tuple[Frozen, ...], Search]:
    rng = np.random.default_rng([made_up.seed, 1])
    asked = SearchSettings(**settings)
    strata = np.arange(made_up.n_images) % 2
    folds = assign_folds(strata.astype(np.int64), asked.n_folds, rng)
    found = Search(
        answer=made_up.answer,
        criterion=made_up,
        folds=folds,
        settings=asked,
        rng=rng,
        most_steps=most_steps,
    )
    everyone = list(range(n_players))
    return found.run(Screened.of(everyone, [everyone] * folds.n_folds)), found


def test_planted_harm_is_found_and_nothing_else() -> None:
    harm = {3: 0.5, 7: 0.3}
    made_up = MadeUp(lambda frozen: sum(harm.get(p, -0.2) for p in frozen), noise=0.1)
    path, found = search(made_up, 12, width=12)
    assert path == ((), (3,), (3, 7))
    assert not found.steps[-1].kept
    assert found.n_looks == 1 + 12 + 11 + 10  # to let one go is to look where it was looked
    narrow, fewer = search(made_up, 12, width=2)
    assert narrow == path
    assert fewer.n_looks < found.n_looks


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
    figures = [found.seen.figure(frozen) for frozen in path]
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


def test_what_cannot_be_added_up_is_looked_at_in_full() -> None:
    made_up = MadeUp(lambda frozen: 0.5 * len(frozen & {1, 2}), noise=0.01, additive=False)
    _, found = search(made_up, 9, width=2, at_most=2)
    assert found.n_looks == 1 + 9 + 8
    made_up.additive = True
    _, found = search(made_up, 9, width=2, at_most=2)
    assert found.n_looks < 1 + 9 + 8


def test_screening_of_noise_without_the_judging_fold_lets_in_as_few_as_stated() -> None:
    """Players screened on the images that then judge them would be let in far more often."""
    n_runs, doubt, n_players, n_images = 100, 0.3, 60, 100
    let_in = {"inside": 0, "outside": 0}
    for seed in range(n_runs):
        rng = np.random.default_rng([seed, 3])
        changes = rng.standard_normal((n_players, n_images))
        made_up = _Table(changes)
        folds = assign_folds(np.zeros(n_images, np.int64), 5, rng)

        def screen(rows: Indices, changes: Floats = changes) -> list[int]:
            return list(map(int, np.argsort(-changes[:, rows].mean(axis=1))[:5]))

        overall = screen(folds.everyone)
        ways = {"inside": [screen(rest) for rest in folds.rest], "outside": [overall] * 5}
        for way, by_fold in ways.items():
            settings = SearchSettings(at_most=1, doubt=doubt, n_resamples=60)
            found = Search(
                answer=made_up.answer,
                criterion=made_up,
                folds=folds,
                settings=settings,
                rng=np.random.default_rng(seed),
            )
            let_in[way] += len(found.run(Screened.of(overall, by_fold))) > 1
    error = np.sqrt(doubt * (1 - doubt) / n_runs)
    assert let_in["inside"] / n_runs <= doubt + 3 * error
    assert let_in["outside"] / n_runs > let_in["inside"] / n_runs


@dataclass
class _Table:
    """Changes that single players make to each image, (n_players, n_images); they add up."""

    changes: Floats
    additive: bool = True

    def answer(self, sets: Sequence[Frozen]) -> Iterator[Floats]:
        for frozen in sets:
            yield self.changes[list(frozen)].sum(axis=0)

    def columns(self, outputs: Array) -> Floats:
        return outputs

    def figure(self, columns: Floats, positions: Indices) -> float:
        return float(columns[positions].mean())

    def objection(self, outputs: Array, positions: Indices) -> str:
        assert len(outputs) >= len(positions)
        return ""


def test_images_outside_have_no_say() -> None:
    """What a search takes follows from the images that take part, whatever the others say."""
    rng = np.random.default_rng(4)
    changes = rng.normal(0.0, 1.0, (12, 150))
    changes[[2, 7]] += 0.6
    within = np.sort(rng.choice(150, 90, replace=False))
    paths = []
    for others in (0.0, 5.0):
        known = changes.copy()
        known[3, np.setdiff1d(np.arange(150), within)] += others
        folds = assign_folds(np.zeros(150, np.int64), 5, np.random.default_rng(1), within=within)
        assert (folds.everyone == within).all()
        everyone = list(range(12))
        table = _Table(known)
        settings = SearchSettings(at_most=4)
        found = Search(
            answer=table.answer,
            criterion=table,
            folds=folds,
            settings=settings,
            rng=np.random.default_rng(2),
        )
        paths.append(found.run(Screened.of(everyone, [everyone] * folds.n_folds)))
    assert paths[0] == paths[1]
    assert len(paths[0]) > 1


@given(st.lists(st.integers(0, 2), min_size=8, max_size=60), st.integers(2, 6), st.integers(0, 99))
def test_twins_share_a_fold_and_strata_their_shares(
    strata: list[int], n_folds: int, seed: int
) -> None:
    twice = np.array(strata * 2)
    twins = np.tile(np.arange(len(strata)), 2)
    rng = np.random.default_rng(seed)
    folds = assign_folds(twice, n_folds, rng, twins=twins)
    assert (folds.fold_of[: len(strata)] == folds.fold_of[len(strata) :]).all()
    for stratum in set(strata):
        own = folds.fold_of[: len(strata)][np.array(strata) == stratum]
        counts = np.bincount(own, minlength=folds.n_folds)
        assert counts.max() - counts.min() <= 1
    assert folds.everyone.tolist() == list(range(len(twice)))


def test_a_cross_fitted_figure_is_widened_as_published() -> None:
    assert widening(5) == pytest.approx(np.sqrt(1 + 5 / 4))
    assert widening(2) == pytest.approx(np.sqrt(3))


def test_a_fold_without_a_contender_keeps_the_champion() -> None:
    table = _Table(np.array([[1.0] * 10]))
    folds = assign_folds(np.zeros(10, np.int64), 2, np.random.default_rng(0))
    champion, better = (look(table, np.full(10, worth), folds) for worth in (0.0, 1.0))
    allowed = np.array([[True, False]])
    gain = gain_of_choice(
        table,
        champion,
        [better],
        folds,
        doubt=0.3,
        n_resamples=20,
        rng=np.random.default_rng(0),
        allowed=allowed,
    )
    assert gain.value == pytest.approx(0.5)


@pytest.mark.parametrize("most_steps", [1, 2, 3])
def test_a_search_of_few_steps_is_the_start_of_a_longer_one(most_steps: int) -> None:
    made_up = MadeUp(lambda frozen: 0.5 * len(frozen & {1, 2, 5}), noise=0.01)
    whole, _ = search(made_up, 9)
    assert len(whole) > 4
    path, few = search(made_up, 9, most_steps=most_steps)
    assert path == whole[: most_steps + 1]
    assert few.n_taken == len(path) - 1
    assert few.steps[-1].kept  # it ends without another look
