"""The fast evaluator answers as the instrumented model does, whatever the plan."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.game import Coalitions
from repairkit.engine.cones.candidates import WAYS
from repairkit.engine.cones.fast import FastEvaluator
from repairkit.engine.evaluator import ThreadExecutor, difference, keep_all
from repairkit.engine.working import open_evaluator
from tests.engine.games import Setup, deep_model, set_up
from tests.models import LAYERS, images

_DTYPES = {"half_precision": "float16"}


def compiled_ways(setup: Setup) -> list[FastEvaluator]:
    """A fast evaluator for every way in which the model can be compiled, both with and without
    overwriting."""
    sample = setup.suite.batch(np.arange(1))
    found = [setup.candidates.compile(way, sample) for way in WAYS]
    return [
        FastEvaluator(compiled, setup.suite, overwriting=overwriting)
        for compiled in found
        if compiled is not None
        for overwriting in (True, False)
    ]


def random_rows(n_players: int, n_rows: int, seed: int = 0) -> Coalitions:
    rng = np.random.default_rng(seed)
    return rng.random((n_rows, n_players)) < rng.random((n_rows, 1))


def assert_agree(found: Any, expected: Any) -> None:
    for row, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert difference(ours, theirs) is None, f"row {row}"


@pytest.mark.parametrize("name", LAYERS)
def test_every_way_agrees_with_the_instrumented_model(name: str) -> None:
    setup = set_up(LAYERS[name](), images(7, dtype=_DTYPES.get(name, "float32")))
    rows = random_rows(len(setup.roster), 40)
    expected = setup.reference().answer(rows, None, keep_all)
    if setup.batching.opened.step is None:
        assert compiled_ways(setup)
    for evaluator in compiled_ways(setup) if setup.batching.opened.step is None else []:
        assert_agree(evaluator.answer(rows, None, keep_all), expected)


@st.composite
def rounds(draw: st.DrawFn, n_players: int) -> Coalitions:
    """Walks, stars and rows at random, one after another."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        base = rng.random(n_players) < draw(st.sampled_from([0.3, 0.9, 1.0]))
        n_rows = draw(st.integers(1, 6))
        rows = np.repeat(base[None], n_rows, axis=0)
        leaving = rng.integers(0, n_players, (n_rows, draw(st.integers(1, 3))))
        shape = draw(st.sampled_from(["walk", "star", "adding", "random"]))
        for row in range(n_rows):
            if shape == "walk" and row:
                rows[row] = rows[row - 1]
            rows[row, leaving[row]] = shape == "adding"
            if shape == "random":
                rows[row] = rng.random(n_players) < 0.6
        parts.append(rows)
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def deep() -> Setup:
    return set_up(deep_model(), images(24))


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_plan_changes_a_bit(deep: Setup, data: st.DataObject) -> None:
    rows = data.draw(rounds(len(deep.roster)))
    everyone = np.arange(24)
    drawn = data.draw(
        st.sampled_from([None, np.tile(everyone[:9], (len(rows), 1)), everyone[:, None]])
    )
    if drawn is not None and len(drawn) != len(rows):
        drawn = np.resize(drawn, (len(rows), 1))
    alone = compiled_ways(deep)[0]
    one_by_one = np.concatenate(
        [
            FastEvaluator(alone.compiled, deep.suite).answer(
                rows[i : i + 1], None if drawn is None else drawn[i : i + 1], keep_all
            )
            for i in range(len(rows))
        ]
    )
    assert_agree(one_by_one, deep.reference().answer(rows, drawn, keep_all))
    for evaluator in compiled_ways(deep)[:2]:
        for _ in range(2):  # the second time states are there
            np.testing.assert_array_equal(evaluator.answer(rows, drawn, keep_all), one_by_one)


@pytest.mark.parametrize("cache_memory", [0, 10_000, 200_000, 2**30])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_memory_change_no_bit(deep: Setup, workers: int, cache_memory: int) -> None:
    rng = np.random.default_rng(4)
    n = len(deep.roster)
    order = rng.permutation(n)
    walk = np.array(
        [[np.flatnonzero(order == p)[0] >= gone for p in range(n)] for gone in range(n)]
    )
    drawn = np.tile(rng.integers(0, 24, 40), (n, 1))
    compiled = compiled_ways(deep)[0].compiled
    evaluator = FastEvaluator(
        compiled,
        deep.suite,
        executor=ThreadExecutor(workers),
        cache_memory=cache_memory,
        batch_size=8,
    )
    expected = FastEvaluator(compiled, deep.suite, batch_size=8).answer(walk, drawn, keep_all)
    cut = [walk[: n // 2], walk[n // 2 :]]
    found = [evaluator.answer(rows, drawn[: len(rows)], keep_all) for rows in cut]
    np.testing.assert_array_equal(np.concatenate(found), expected)
    stars = np.ones((150, n), bool)
    stars[np.arange(150), np.arange(150) % n] = False
    np.testing.assert_array_equal(
        evaluator.answer(stars, None, keep_all),
        FastEvaluator(compiled, deep.suite, batch_size=8).answer(stars, None, keep_all),
    )
    assert evaluator.states.n_bytes <= cache_memory


def test_sites_at_activation_and_dense_sites_agree() -> None:
    setup = set_up(deep_model(), images(5), at="activation")
    rows = random_rows(len(setup.roster), 30)
    evaluator = open_evaluator(setup.candidates, setup.reference())
    assert "mask nodes" in evaluator.path
    assert_agree(
        evaluator.answer(rows, None, keep_all), setup.reference().answer(rows, None, keep_all)
    )
