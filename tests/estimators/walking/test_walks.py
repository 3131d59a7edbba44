import numpy as np

from repairkit.core.game import GameFacts, ImagePool
from repairkit.estimators.walking.walks import (
    PlayerWalk,
    Truncation,
    advance,
    ask_for,
    begin_walk,
    marginals,
    next_coalitions,
)

NEVER = Truncation(None, 1)


def walk_of(ranks: list[int], players: list[int]) -> PlayerWalk:
    """A walk in a known order."""
    drawn = begin_walk(
        GameFacts(
            n_players=len(ranks), metrics=("m",), score_widths=(1.0,), pool=ImagePool.uniform(4)
        ),
        (1, 2),
        0,
        players=np.array(players),
        batch_size=3,
    )
    order = np.array(ranks)
    wanted = order[players]
    prefixes = np.union1d(wanted, wanted + 1)
    return PlayerWalk(
        number=0,
        ranks=order,
        images=drawn.images,
        players=np.array(players),
        prefixes=prefixes,
        values=np.zeros((len(prefixes), 1)),
    )


def column(values: list[float]) -> np.ndarray:
    return np.array(values)[:, None]


def test_a_full_walk_asks_for_every_prefix_from_all_to_none() -> None:
    walk = walk_of([2, 0, 1], [0, 1, 2])
    assert next_coalitions(walk, 10).astype(int).tolist() == [
        [1, 1, 1],
        [1, 0, 1],
        [1, 0, 0],
        [0, 0, 0],
    ]


def test_players_that_are_not_sampled_leave_without_evaluation() -> None:
    # Gone in the order 4, 3, 2, 1, 0; before 3 and before 0 a value is wanted anew.
    walk = walk_of([4, 3, 2, 1, 0], [0, 3])
    assert walk.prefixes.tolist() == [1, 2, 4, 5]
    advance([walk], column([0.9, 0.7, 0.3, 0.2]), 16, guard=0, rule=NEVER)
    np.testing.assert_allclose(marginals(walk)[:, 0], [0.1, 0.2])


def test_a_walk_is_cut_after_so_many_low_values_in_a_row() -> None:
    walk = walk_of([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    rule = Truncation(0.5, 2)
    advance([walk], column([1.0, 0.4, 0.6]), 3, guard=0, rule=rule)
    assert not walk.done
    # One low value, a recovery, then two: the rest of the chunk is left out.
    advance([walk], column([0.45, 0.35, 77.0]), 3, guard=0, rule=rule)
    assert walk.truncated
    assert walk.cut == 4
    np.testing.assert_allclose(marginals(walk)[:, 0], [0.6, -0.2, 0.15, 0.1, 0.0], atol=1e-12)


def test_a_row_of_low_values_is_counted_across_chunks() -> None:
    walk = walk_of([0, 1, 2, 3], [0, 1, 2, 3])
    for values in ([1.0, 0.1], [0.1, 0.1]):
        advance([walk], column(values), 2, guard=0, rule=Truncation(0.5, 3))
    assert walk.truncated
    assert walk.cut == 3


def test_the_guard_alone_cuts() -> None:
    walk = walk_of([0, 1], [0, 1])
    walk.values = np.zeros((3, 2))
    values = np.array([[0.0, 1.0], [0.0, 0.9], [0.0, 0.1]])
    advance([walk], values, 16, guard=1, rule=Truncation(0.5, 1))
    assert walk.truncated
    assert walk.cut == 2


def test_lanes_share_a_round_and_each_keeps_its_own_images() -> None:
    facts = GameFacts(n_players=4, metrics=("m",), score_widths=(1.0,), pool=ImagePool.uniform(50))
    walks = [
        begin_walk(facts, (1, 2), number, players=np.arange(4), batch_size=6) for number in range(2)
    ]
    asked = ask_for(walks, 3, 4)
    assert asked.images is not None
    assert (asked.images[:3] == walks[0].images).all()
    assert (asked.images[3:] == walks[1].images).all()
    assert (walks[0].images != walks[1].images).any()
    advance(walks, column([5.0, 4.0, 3.0, 9.0, 8.0, 7.0]), 3, guard=0, rule=NEVER)
    assert walks[1].values[:3, 0].tolist() == [9.0, 8.0, 7.0]


def test_a_walk_depends_on_its_number_alone() -> None:
    facts = GameFacts(n_players=30, metrics=("m",), score_widths=(1.0,), pool=ImagePool.uniform(50))
    everyone, few = (
        begin_walk(facts, (7, 8), 5, players=np.arange(n), batch_size=6) for n in (30, 3)
    )
    assert (everyone.ranks == few.ranks).all()
    assert (everyone.images == few.images).all()
