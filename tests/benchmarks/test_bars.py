from __future__ import annotations

import numpy as np
import pytest

from benchmarks.bars import Line, at, print_bars, shortfall
from benchmarks.costs import UsualCosts, kind_of
from benchmarks.peers import IMAGES, Counted
from benchmarks.ranking import judge, shared
from repairkit.core.game import Round
from tests.games import TableGame, WatchedGame, any_values, quiet


def line(method: str, evaluations: float, top: float, bottom: float, game: str = "g") -> Line:
    return Line(game, 100, method, evaluations, evaluations * 50, top, bottom, 0.85, 0.8)


def test_a_missed_bar_says_by_how_much(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        line("tmab", 10_000, 0.9, 0.8),
        line("regression", 1_000, 0.9, 0.5),
        line("auto", 1_000, 0.9, 0.8),
    ]
    print_bars(rows, {"g": 1.0})
    said = capsys.readouterr().out
    assert "auto reaches tmab's precision with 1/10 of its passes on 1 of 1 games: met" in said
    assert (
        "regression reaches tmab's precision with 1/10 of its passes on 0 of 1 games: missed"
        in said
    )
    assert "short on g by 0.30 (top 0.90, bottom 0.50 after 1,000" in said
    assert "g: auto at 1,280 image passes per player: rank correlation 0.850" in said
    assert "missed by 0.050" in said


def test_lines_are_compared_only_where_they_are_near_in_passes() -> None:
    rows = [line("auto", 500, 0.1, 0.1), line("auto", 950, 0.2, 0.2), line("auto", 1_100, 0.3, 0.3)]
    assert at(rows, "g", "auto", 1_000) == rows[1]
    assert at(rows, "g", "auto", 400) is None
    assert shortfall(rows[0], rows[1]) == pytest.approx(0.1)
    assert shortfall(rows[1], rows[0]) < 0


def test_true_values_are_judged_perfect_and_reversed_ones_worst() -> None:
    true = np.random.default_rng(0).standard_normal(100)
    assert judge(true, true) == pytest.approx((1.0, 1.0, 1.0, 1.0))
    top, bottom, correlation, _ = judge(-true, true)
    assert (top, bottom) == (0.0, 0.0)
    assert correlation == pytest.approx(-1.0)
    assert shared(true, np.where(true == true.max(), -9.0, true)) == 0.95


def test_rounds_are_told_apart_by_what_their_rows_share() -> None:
    ranks = np.random.default_rng(0).permutation(64)
    walk = ranks >= np.arange(20)[:, None]
    anyhow = np.random.default_rng(1).random((20, 64)) < 0.8
    same, own = np.zeros((20, 16), np.int64), np.arange(320).reshape(20, 16)
    assert kind_of(Round(walk)) == "whole"
    assert kind_of(Round(walk, same)) == "shared"
    assert kind_of(Round(anyhow, same)) == kind_of(Round(anyhow, own)) == "own"
    assert kind_of(Round(anyhow, own[:, :1])) == "scattered"
    assert UsualCosts().of(Round(walk, same)) < UsualCosts().of(Round(anyhow, own))


def test_a_peer_compares_neighbours_on_the_same_images_and_others_on_fresh_ones() -> None:
    game = WatchedGame(TableGame(quiet(any_values(5), n_images=500)))
    counted = Counted(game, np.random.default_rng(0))
    walk = np.tril(np.ones((5, 5), bool))[:4]
    jumps = np.array([[1, 0, 1, 0, 1], [0, 1, 0, 1, 0]], bool)
    values = counted(np.concatenate([walk, jumps]))
    whole = counted(np.ones(5, bool))
    images = game.rounds[0].images
    assert images is not None
    assert images.shape == (6, IMAGES)
    assert (images[:4] == images[0]).all()
    assert (images[4] != images[3]).any()
    assert (images[5] != images[4]).any()
    table = any_values(5)[:, 0]
    np.testing.assert_allclose(values, table[[1, 3, 7, 15, 21, 10]])
    np.testing.assert_allclose(whole, table[31])
    assert [passes for _, passes in counted.rounds] == [6 * IMAGES, 500]
