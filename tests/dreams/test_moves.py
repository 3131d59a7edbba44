"""Laws of moves: linear, with an exact adjoint, and small."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.dreams.moves import MoveSizes, random_move

SIZES = st.builds(MoveSizes, st.floats(0, 0.5), st.floats(0, 0.3), st.floats(0, 180))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), SIZES, st.integers(0, 999))
def test_moving_back_is_the_adjoint_of_moving(
    height: int, width: int, sizes: MoveSizes, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    move = random_move(height, width, sizes, rng)
    some, others = rng.standard_normal((2, 3, height, width, 2))
    forth, back = move.moved(some), move.moved_back(others)
    np.testing.assert_allclose((forth * others).sum(), (some * back).sum(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        move.moved(2 * some - others), 2 * forth - move.moved(others), atol=1e-9
    )
    # Weights of one place add up to 1, or to less where something comes in from outside.
    assert (move.weights >= 0).all()
    assert (move.weights.sum(axis=0) <= 1 + 1e-9).all()


def test_no_move_leaves_a_picture_as_it_is() -> None:
    rng = np.random.default_rng(0)
    waves = rng.standard_normal((2, 5, 7, 3))
    move = random_move(5, 7, MoveSizes(0, 0, 0), rng)
    np.testing.assert_allclose(move.moved(waves), waves, atol=1e-12)
    np.testing.assert_allclose(move.moved_back(waves), waves, atol=1e-12)


def test_a_quarter_turn_turns_the_picture() -> None:
    rng = np.random.default_rng(4)
    waves = rng.standard_normal((1, 6, 6, 1))
    for _ in range(20):
        move = random_move(6, 6, MoveSizes(0, 0, 90), rng)
        # A turn keeps the middle, and the mean of what does not leave the picture.
        ring = np.zeros((1, 6, 6, 1))
        ring[0, 2:4, 2:4] = 1.0
        assert abs(move.moved(ring).sum() - 4.0) < 0.7
    assert waves.shape == move.moved(waves).shape
