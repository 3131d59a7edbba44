from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="exact intervals and normal margins take scipy")

from benchmarks.promising import BALANCED, SMOOTH, WORST, Row, Rows, bounds_of_share
from benchmarks.simulated_promises import WAYS, World, try_one

ROW = Row(setting="net", objective=WORST, n_images=200, draw=3, rule="new", revision="abc")


@pytest.mark.parametrize(("met", "of"), [(0, 20), (3, 40), (40, 40)])
def test_the_interval_of_a_share_leaves_a_fortieth_on_either_side(met: int, of: int) -> None:
    from scipy.stats import binom

    low, high = bounds_of_share(met, of)
    assert (low == 0) == (met == 0)
    assert (high == 1) == (met == of)
    if met:
        assert binom.sf(met - 1, of, low) == pytest.approx(0.025)
    if met < of:
        assert binom.cdf(met, of, high) == pytest.approx(0.025)


def test_a_promise_is_kept_where_the_promised_figure_rises_and_not_another() -> None:
    true = {WORST: -0.01, BALANCED: 0.02}
    made = replace(ROW, figure=BALANCED, true=true, stated=(0.05, 0.0, 0.1))
    assert made.kept
    assert made.gain == -0.01
    assert made.excess == pytest.approx(0.03)
    assert not replace(made, figure=WORST).kept
    assert ROW.gain == 0
    assert not ROW.kept


def test_rows_are_made_once_and_found_again(tmp_path: Path) -> None:
    made = replace(ROW, figure=WORST, stated=(0.1, 0.0, 0.2), true={WORST: 0.1})
    calls = []

    def work() -> Row:
        calls.append(1)
        return made

    path = tmp_path / "folder" / "rows.jsonl"
    first = Rows(path)
    for _ in range(2):
        assert first.make(made.key, work).key == made.key
    (again,) = Rows(path)
    assert Rows(path).make(made.key, work).gain == again.gain == 0.1
    assert len(calls) == 1


@pytest.mark.parametrize("n_groups", [2, 10])
@pytest.mark.parametrize(("truth", "frozen"), [("0", (5,)), ("-0.5", (7,)), ("+7", (0, 1, 2))])
def test_the_exact_truth_of_a_table_is_what_many_images_say(
    n_groups: int, truth: str, frozen: tuple[int, ...]
) -> None:
    world = World.of(n_groups, truth)
    groups, margins, effects = world.draw(60_000, np.random.default_rng(0))
    after = margins + effects[list(frozen)].sum(axis=0)
    sizes = np.bincount(groups)
    shares = np.bincount(groups, after > 0) / sizes
    likelihoods = np.bincount(groups, -np.logaddexp(0, -after)) / sizes
    found = world.figures(frozen)
    assert found[WORST] == pytest.approx(shares.min(), abs=0.02)
    assert found[SMOOTH] == pytest.approx(likelihoods.min(), abs=0.03)
    assert found[BALANCED] == pytest.approx(likelihoods.mean(), abs=0.01)
    change = found[WORST] - world.figures(())[WORST]
    assert change == pytest.approx(float(truth) / 100, abs=1e-9)


@pytest.mark.parametrize("rule", WAYS)
def test_no_rule_promises_of_a_table_in_which_every_filter_helps(rule: str) -> None:
    assert not try_one(2, "-0.5", 200, 0, rule).promised


@pytest.mark.slow
@pytest.mark.parametrize("rule", WAYS)
def test_both_rules_promise_of_a_table_what_its_truth_bears_out(rule: str) -> None:
    row = try_one(2, "+14", 1_500, 0, rule)
    assert row.promised
    assert row.kept
    assert 0.02 < row.true[WORST] <= 0.16
