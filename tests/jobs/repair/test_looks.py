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
    """Answers that tell which players are absent, and which sets were asked on which images."""

    path = "made up"

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def answer(
        self, coalitions: NDArray[np.bool_], images: NDArray[np.intp] | None, reduce: Any
    ) -> Array:
        assert callable(reduce)
        if images is None:
            images = np.tile(np.arange(N_IMAGES), (len(coalitions), 1))
        sets = [tuple(np.flatnonzero(~row).tolist()) for row in coalitions]
        self.asked += zip(sets, map(tuple, images.tolist()), strict=True)
        rows = zip(sets, images, strict=True)
        return np.stack([_outputs(frozen)[positions] for frozen, positions in rows])

    @property
    def n_passes(self) -> int:
        return sum(len(images) for _, images in self.asked)


def _outputs(frozen: tuple[int, ...]) -> NDArray[np.float64]:
    """What tells the set and the image."""
    return np.arange(N_IMAGES)[:, None] / 8 + [float(sum(2**p for p in frozen)), -1.0]


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
    assert looks.n_passes == counted.n_passes
    if most_bytes == 2**20:
        assert len(counted.asked) == len(set(counted.asked))


def test_the_order_within_a_set_makes_no_other_set() -> None:
    counted = Counted()
    looks = Looks(counted, n_players=N_PLAYERS, n_images=N_IMAGES)
    first, second = looks.of((3, 1)), looks.of((1, 3))
    assert (first == second).all()
    assert [frozen for frozen, _ in counted.asked if frozen] == [(1, 3)]


@given(st.lists(SETS, max_size=4), st.sampled_from([0, 160, 2**20]), st.data())
def test_images_of_parts_that_are_not_needed_are_not_run(
    rounds: list[list[list[int]]], most_bytes: int, data: st.DataObject
) -> None:
    parts = [np.array([0, 3]), np.array([1]), np.array([2, 4])]
    counted = Counted()
    looks = Looks(
        counted, n_players=N_PLAYERS, n_images=N_IMAGES, parts=parts, most_bytes=most_bytes
    )
    assert (looks.plain == _outputs(())).all()
    for sets in rounds:
        needed = data.draw(st.lists(st.sampled_from(range(3)), max_size=3, unique=True))
        within = np.concatenate([np.empty(0, np.intp), *(parts[part] for part in needed)])
        asked_before = len(counted.asked)
        answers = list(looks([tuple(frozen) for frozen in sets], within))
        for frozen, outputs in zip(sets, answers, strict=True):
            others = np.setdiff1d(np.arange(N_IMAGES), within)
            assert (outputs[within] == _outputs(tuple(frozen))[within]).all()
            assert (outputs[others] == _outputs(())[others]).all()
        for _, images in counted.asked[asked_before:]:
            assert set(images) <= set(within.tolist())
    assert looks.n_passes == counted.n_passes
    if most_bytes == 2**20:
        assert len(counted.asked) == len(set(counted.asked))
