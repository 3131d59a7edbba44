"""Sets are answered once for all searches, and memory is kept within bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from repairkit.core.suite import Array
from repairkit.jobs.repair.cures.supplies import Looks

N_PLAYERS, N_IMAGES = 6, 5


class Counted:
    """Answers that tell which players are absent, and which sets were asked."""

    path = "made up"

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def answer(self, coalitions: NDArray[np.bool_], images: None, reduce: Any) -> Array:
        assert images is None
        assert callable(reduce)
        sets = [tuple(np.flatnonzero(~row).tolist()) for row in coalitions]
        self.asked += sets
        return np.stack([_outputs(frozen) for frozen in sets])


def _outputs(frozen: tuple[int, ...]) -> NDArray[np.float64]:
    return np.full((N_IMAGES, 2), float(sum(2**p for p in frozen)))


SETS = st.lists(st.lists(st.integers(0, N_PLAYERS - 1), max_size=4, unique=True), max_size=12)


@given(st.lists(SETS, max_size=5), st.sampled_from([1, 3, 32]), st.sampled_from([0, 160, 2**20]))
def test_every_set_gets_its_own_answer_in_order(
    rounds: list[list[list[int]]], rows_at_once: int, most_bytes: int
) -> None:
    counted = Counted()
    looks = Looks(
        counted,
        n_players=N_PLAYERS,
        n_images=N_IMAGES,
        rows_at_once=rows_at_once,
        most_bytes=most_bytes,
    )
    for sets in rounds:
        wanted = [tuple(frozen) for frozen in sets]
        found = list(looks(wanted))
        assert len(found) == len(wanted)
        for frozen, outputs in zip(wanted, found, strict=True):
            assert (outputs == _outputs(frozen)).all()
    assert looks.n_asked == len(counted.asked)
    if most_bytes == 2**20:
        assert len(counted.asked) == len(set(counted.asked))


def test_the_order_within_a_set_makes_no_other_set() -> None:
    counted = Counted()
    looks = Looks(counted, n_players=N_PLAYERS, n_images=N_IMAGES)
    first, second = looks.of((3, 1)), looks.of((1, 3))
    assert (first == second).all()
    assert counted.asked == [(1, 3)]
