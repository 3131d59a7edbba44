"""Parts of rounds: whoever answers them, twice, late or never, the outcomes are the same bits."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.errors import DeviceError, RepairkitError, SettingsError
from repairkit.core.game import Round
from repairkit.engine.dispatch import DispatchedGame, Part, Report, answer, cut
from tests.games import TableGame, any_values, noisy


class UnrulyCrew:
    """Workers that answer in any order, twice, late, wrongly, or die and come back.

    `unrest` is the probability of each kind of trouble at every answer.
    """

    def __init__(self, game: TableGame, n_workers: int, seed: int, unrest: float) -> None:
        self.game, self.n_workers, self.unrest = game, n_workers, unrest
        self.rng = np.random.default_rng(seed)
        self.parts: list[tuple[int, Part]] = []
        self.mail: list[Report] = [Report(worker) for worker in range(n_workers)]
        self.late: list[Report] = []
        self.now = 0.0
        self.n_answers = 0

    def hand_out(self, worker: int, part: Part) -> None:
        self.parts.append((worker, part))

    def gather(self, timeout_seconds: float) -> Sequence[Report]:
        self.now += timeout_seconds
        if self.mail:
            return [self.mail.pop(int(self.rng.integers(len(self.mail))))]
        if not self.parts or (self.late and self.rng.random() < 0.05):
            return [self.late.pop()] if self.late else []
        worker, part = self.parts.pop(int(self.rng.integers(len(self.parts))))
        trouble = int(self.rng.integers(5)) if self.rng.random() < self.unrest else -1
        if trouble == 0:  # long after it was handed out again, if anyone is idle
            self.late.append(Report(worker, part.key, answer(self.game, part)))
            return []
        if trouble == 1:
            self.parts = [(w, p) for w, p in self.parts if w != worker]
            self.mail.append(Report(worker))
            return [Report(worker, error=RuntimeError("killed"), lost=True)]
        if trouble == 2:
            return [Report(worker, part.key, error=ValueError("nonsense"))]
        self.n_answers += 1
        report = Report(worker, part.key, answer(self.game, part))
        if trouble == 3:
            self.mail += [report] * int(self.rng.integers(1, 4))
        if trouble == 4:
            assert report.scores is not None
            return [Report(worker, part.key, report.scores[:-1])]
        return [report]


def dispatched(crew: UnrulyCrew) -> DispatchedGame:
    facts = crew.game.facts
    return DispatchedGame(
        crew, facts, path="table", seed=1, late_seconds=1.0, clock=lambda: crew.now
    )


def table() -> TableGame:
    return TableGame(noisy(any_values(6), noise=0.3))


def draw_round(rng: np.random.Generator, n_players: int, n_images: int) -> Round:
    n_rows, kind = int(rng.integers(0, 700)), int(rng.integers(4))
    rows = rng.random((n_rows, n_players)) < 0.7
    if kind == 0:
        return Round(rows)
    if kind == 1:
        return Round(rows, rng.integers(0, n_images, (n_rows, 1)))
    if kind == 2:
        return Round(rows, rng.integers(0, n_images, (n_rows, int(rng.integers(1, 12)))))
    walks = np.sort(rng.integers(0, 3, n_rows))
    return Round(rows, rng.integers(0, n_images, (3, 20))[walks])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_workers=st.integers(1, 9))
def test_outcomes_are_the_same_bits_whatever_workers_do(seed: int, n_workers: int) -> None:
    game, rng = table(), np.random.default_rng(seed)
    crew = UnrulyCrew(game, n_workers, seed, unrest=0.12)
    cluster = dispatched(crew)
    rounds = [draw_round(rng, 6, len(game.facts.pool)) for _ in range(4)]
    tickets = [cluster.begin(round) for round in rounds]
    try:
        found = [cluster.finish(ticket) for ticket in tickets]
    except DeviceError:  # the same part failed three times; see below
        return
    for round, outcomes in zip(rounds, found, strict=True):
        expected = game.play(round).scores
        assert outcomes.scores.tobytes() == expected.tobytes()
        assert len(round) == 0 or outcomes.scores.shape == expected.shape


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_workers=st.integers(1, 300))
def test_a_cut_holds_every_row_once_and_in_order(seed: int, n_workers: int) -> None:
    round = draw_round(np.random.default_rng(seed), 6, 40)
    parts = cut(round, n_workers)
    rows = [row for part in parts for row in range(len(round))[part]]
    assert rows == list(range(len(round)))
    for part in parts:
        if round.images is not None and round.images.shape[1] > 8:
            assert (round.images[part] == round.images[part][0]).all()


def test_a_worker_that_answers_twice_counts_once() -> None:
    crew = UnrulyCrew(table(), 2, 0, unrest=0.0)
    cluster = dispatched(crew)
    first = cluster.begin(Round(np.ones((8, 6), bool)))
    crew.mail += [Report(0, (1, 0, 0), np.full((1, 1, 1), 7.0))]  # of a part it never had
    expected = crew.game.play(Round(np.ones((8, 6), bool))).scores
    crew.mail = [report for report in crew.mail if report.key is None]
    assert cluster.finish(first).scores.tobytes() == expected.tobytes()
    crew.mail += [Report(1, (1, 0, 0), np.full((1, 1, 1), 7.0))]
    again = cluster.play(Round(np.ones((8, 6), bool)))
    assert again.scores.tobytes() == expected.tobytes()
    assert cluster.n_repeated == 1


def test_a_part_that_fails_everywhere_is_told_in_one_line() -> None:
    class Broken(UnrulyCrew):
        def gather(self, timeout_seconds: float) -> Sequence[Report]:
            if self.mail:
                return [self.mail.pop()]
            self.now += timeout_seconds
            worker, part = self.parts.pop()
            return [Report(worker, part.key, error=MemoryError("no room"))]

    cluster = dispatched(Broken(table(), 3, 0, 0.0))
    with pytest.raises(DeviceError, match="failed on 3 workers, the last time with MemoryError"):
        cluster.play(Round(np.ones((8, 6), bool)))


def test_a_fault_that_the_user_can_mend_is_raised_as_it_is() -> None:
    class Refusing(UnrulyCrew):
        def gather(self, timeout_seconds: float) -> Sequence[Report]:
            if self.mail:
                return [self.mail.pop()]
            self.now += timeout_seconds
            worker, part = self.parts.pop()
            return [Report(worker, part.key, error=SettingsError("the metric is not finite"))]

    cluster = dispatched(Refusing(table(), 3, 0, 0.0))
    with pytest.raises(RepairkitError, match="the metric is not finite"):
        cluster.play(Round(np.ones((8, 6), bool)))
