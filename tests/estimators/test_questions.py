import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.errors import SettingsError
from repairkit.estimators.questions import (
    check_question,
    contested,
    contested_in_paper,
    settle_top_k,
)


def bounds(values: list[float], radius: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    centre, spread = np.array(values), np.array(radius)
    return centre - spread, centre + spread, centre


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1)), min_size=2, max_size=8),
    st.integers(1, 7),
    st.floats(0, 0.5),
)
def test_nobody_is_contested_exactly_where_the_bounds_are_apart(
    players: list[tuple[float, float]], top_k: int, epsilon: float
) -> None:
    low, high, values = bounds(*map(list, zip(*players, strict=True)))  # type: ignore[arg-type]
    top_k = min(top_k, len(players) - 1)
    order = np.argsort(-values, kind="stable")
    apart = low[order[:top_k]].min() >= high[order[top_k:]].max() - epsilon
    still_open = contested(low, high, values, top_k=top_k, side="highest", epsilon=epsilon)
    assert still_open.any() != apart


def test_a_player_far_from_the_boundary_is_not_contested() -> None:
    low, high, values = bounds([9.0, 5.0, 4.9, 0.0], [1.0, 1.0, 1.0, 1.0])
    still_open = contested(low, high, values, top_k=2, side="highest", epsilon=0.0)
    assert still_open.tolist() == [False, True, True, False]


def test_both_sides_are_the_union() -> None:
    low, high, values = bounds([9.0, 8.9, 5.0, 0.1, 0.0], [1.0] * 5)
    question = {"top_k": 1, "epsilon": 0.0}
    highest = contested(low, high, values, side="highest", **question)  # type: ignore[arg-type]
    lowest = contested(low, high, values, side="lowest", **question)  # type: ignore[arg-type]
    both = contested(low, high, values, side="both", **question)  # type: ignore[arg-type]
    assert highest.tolist() == [True, True, False, False, False]
    assert lowest.tolist() == [False, False, False, True, True]
    assert (both == (highest | lowest)).all()


def test_in_the_paper_the_kth_itself_stays_until_its_radius_is_below_epsilon() -> None:
    for radius, stays in ((0.11, True), (0.09, False)):
        low, high, values = bounds([3.0, 2.0, 1.0], [radius] * 3)
        still_open = contested_in_paper(low, high, values, top_k=2, side="highest", epsilon=0.1)
        assert still_open.tolist() == [False, stays, False]


def test_unbounded_players_are_open_whatever_the_question() -> None:
    low, high, values = bounds([3.0], [np.inf])
    for rule in (contested, contested_in_paper):
        assert rule(low, high, values, top_k=1, side="both", epsilon=0.0).all()


@pytest.mark.parametrize(("n_players", "top_k"), [(1, 1), (10, 1), (11, 2), (5_000, 100)])
def test_a_tenth_of_the_players_is_asked_for_by_default(n_players: int, top_k: int) -> None:
    assert settle_top_k(None, n_players) == top_k


def test_questions_without_sense_are_refused() -> None:
    with pytest.raises(SettingsError, match="give at most 3"):
        settle_top_k(4, 3)
    with pytest.raises(SettingsError, match="at least 1"):
        check_question(0, "highest")
    with pytest.raises(SettingsError, match="did you mean 'lowest'"):
        check_question(None, "lowset")
