"""How many rounds are under way never matters to a result."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.game import Outcomes, Round
from repairkit.core.scores import Budget, Estimator
from repairkit.estimators.auto import Auto
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.linear.regression import Regression
from repairkit.estimators.linear.repair_values import RepairRegression
from repairkit.estimators.reference_scores import LeaveOneOut
from repairkit.estimators.walking.marginals import Marginals
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab
from tests.games import TableGame, any_values, noisy

SEERS: dict[str, Estimator] = {
    "exact": Exact(),
    "leave-one-out": LeaveOneOut(),
    "permutation": Permutation(batch_size=4, chunk=3),
    "regression": Regression(round_rows=300, pilot_rows=64),
    "repair": RepairRegression(round_rows=300),
    "repair-table": RepairRegression(round_rows=300, rows=4_000, entry_cost=0.01),
    "auto": Auto(round_rows=300, epsilon=1e-9, top_k=2),
}
OTHERS: dict[str, Estimator] = {
    "tmab": Tmab(batch_size=4, epsilon=1e-9),
    "marginals": Marginals(epsilon=1e-9),
    "cut walks": Permutation(batch_size=4, chunk=3, truncate_at=0.1),
}
BUDGET = Budget(5_000)


def table(n_players: int = 7) -> TableGame:
    return TableGame(noisy(any_values(n_players), noise=0.2))


def same(one: Round, two: Round) -> bool:
    images = (one.images is None) == (two.images is None)
    if images and one.images is not None and two.images is not None:
        images = np.array_equal(one.images, two.images)
    return images and np.array_equal(one.coalitions, two.coalitions)


class Overlapping:
    """A table game that is hungry until so many rounds are under way."""

    def __init__(self, game: TableGame, most: int) -> None:
        self.game, self.facts, self.most = game, game.facts, most
        self.begun: dict[int, Round] = {}
        self.n_begun, self.greatest = 0, 0

    @property
    def hungry(self) -> bool:
        return len(self.begun) < self.most

    def begin(self, round: Round) -> int:
        self.n_begun += 1
        self.begun[self.n_begun] = round
        self.greatest = max(self.greatest, len(self.begun))
        return self.n_begun

    def finish(self, number: int) -> Outcomes:
        return self.game.play(self.begun.pop(number))

    def play(self, round: Round) -> Outcomes:
        raise AssertionError(f"a round of {len(round)} was not begun")


@pytest.mark.parametrize("name", SEERS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_a_run_foresees_is_what_it_asks(name: str, seed: int) -> None:
    game = table()
    run = SEERS[name].start(game.facts, np.random.default_rng(seed))
    foreseen: deque[Round] = deque()
    n_checked = 0
    for _ in range(40):
        asked = run.ask()
        if not len(asked):
            break
        if foreseen:
            assert same(foreseen.popleft(), asked)
            n_checked += 1
        pending = [asked, *foreseen]
        while len(pending) < 4:
            following = run.ask_ahead(pending)  # type: ignore[attr-defined]
            if following is None or not len(following):
                break
            pending.append(following)
        foreseen = deque(pending[1:])
        assert same(run.ask(), asked)
        run.tell(game.play(asked))
    assert n_checked or name in ("exact", "leave-one-out")  # one round is all of a small game


@pytest.mark.parametrize("name", [*SEERS, *OTHERS])
@pytest.mark.parametrize("most", [2, 7])
def test_scores_are_the_same_with_several_rounds_under_way(name: str, most: int) -> None:
    estimator = (SEERS | OTHERS)[name]
    plain = estimate(table(), estimator, budget=BUDGET, seed=3)
    game = Overlapping(table(), most)
    overlapped = estimate(game, estimator, budget=BUDGET, seed=3)
    assert plain.scores.values.tobytes() == overlapped.scores.values.tobytes()
    assert plain.scores.std_errors.tobytes() == overlapped.scores.std_errors.tobytes()
    assert plain.reason == overlapped.reason
    assert plain.spent.evaluations == overlapped.spent.evaluations
    if name in ("permutation", "regression", "repair"):
        assert game.greatest == most
    if name == "auto":  # which looks at what it knows now and then
        assert 1 < game.greatest <= most
    if name in OTHERS:
        assert game.greatest == 1
