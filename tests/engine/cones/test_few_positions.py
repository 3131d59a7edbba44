"""A network that ends in few positions, whose late layers are matrix products."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper

from repairkit.core.game import Coalitions
from repairkit.core.suite import Array
from repairkit.engine.cones import fast as fast_module
from repairkit.engine.cones.compiled import Compiled
from repairkit.engine.cones.fast import FastEvaluator
from repairkit.engine.evaluator import ThreadExecutor, keep_all
from repairkit.engine.working import open_evaluator
from repairkit.graph.coalitions import weight_space
from tests.engine.cones.test_evaluators import assert_agree, random_rows, rounds
from tests.engine.games import Setup, set_up
from tests.models import head, images, model_of

WAYS = ("blocked weights", "plain weights")
PRODUCTS = {"inner": 4, "outer": 4, "shrink": 1, "point": 1}
"""The layers that become products, and the positions that each makes."""


def tail_model() -> ModelProto:
    """A stem, a residual block on four positions, a shrinking layer and a pointwise one."""
    rng = np.random.default_rng(5)
    weights: dict[str, Array] = {}
    nodes = []

    def conv(name: str, source: str, n_in: int, n_out: int, size: int, **attributes: Any) -> str:
        kernel = rng.standard_normal((n_out, n_in, size, size)) / np.sqrt(n_in * size**2)
        weights[f"{name}_w"] = kernel.astype(np.float32)
        weights[f"{name}_b"] = (0.3 * rng.standard_normal(n_out)).astype(np.float32)
        reads = [source, f"{name}_w", f"{name}_b"]
        attributes |= {"pads": [size // 2] * 4}
        nodes.append(helper.make_node("Conv", reads, [f"{name}_y"], name, **attributes))
        return f"{name}_y"

    def op(kind: str, name: str, *reads: str) -> str:
        nodes.append(helper.make_node(kind, list(reads), [name], name))
        return name

    stem = op("Relu", "stem_act", conv("stem", "image", 2, 8, 3, strides=[3, 3]))
    inner = op("Relu", "inner_act", conv("inner", stem, 8, 8, 3))
    around = conv("around", stem, 8, 8, 1)
    total = op("Relu", "sum_act", op("Add", "sum", conv("outer", inner, 8, 8, 3), around))
    small = op("Relu", "small_act", conv("shrink", total, 8, 16, 3, strides=[2, 2]))
    return model_of(nodes + head(conv("point", small, 16, 6, 1), weights, 6), weights)


@pytest.fixture(scope="module")
def convolutions() -> Setup:
    """The network as it is: its kernels are too small for products."""
    setup = set_up(tail_model(), images(24))
    assert [compiled(setup, way).product_cost for way in WAYS] == [0.0, 0.0]
    return setup


@pytest.fixture(scope="module")
def products() -> Setup:
    """The network with matrix products, although its kernels are small."""
    with pytest.MonkeyPatch.context() as patch:
        small = partial(weight_space.with_products, least_weights=1)
        patch.setattr(weight_space, "with_products", small)
        setup = set_up(tail_model(), images(24))
        assert all(compiled(setup, way).product_cost > 0 for way in WAYS)  # kept from here on
    return setup


def compiled(setup: Setup, way: str) -> Compiled:
    result = setup.candidates.compile(way, setup.suite.batch(np.arange(1)))
    assert result is not None
    return result


def evaluators(setup: Setup) -> list[FastEvaluator]:
    return [
        FastEvaluator(compiled(setup, way), setup.suite, overwriting=overwriting)
        for way in WAYS
        for overwriting in (True, False)
    ]


@pytest.mark.parametrize("way", WAYS)
def test_layers_on_few_positions_are_products(products: Setup, way: str) -> None:
    model = compiled(products, way)
    found = {s.site: s.rows for s in model.switches if s.shaped}
    assert found == PRODUCTS
    for switch in model.switches:
        if switch.shaped:  # the arithmetic is that of the matrix, and moving what it makes
            with model.workspaces.lend() as workspace:
                n_made, n_read = workspace.values[switch.kernel].shape()
            node = model.anatomy.index.producers[switch.tensor]
            assert model.costs[node] == n_made * n_read + 16 * n_made
    assert model.product_cost == sum(
        model.costs[p]
        for p, node in enumerate(model.anatomy.nodes)
        if node.name.endswith("product")
    )


@pytest.mark.parametrize("way", WAYS)
def test_their_lanes_are_overwritten(products: Setup, way: str) -> None:
    model = compiled(products, way)
    assert all(rule is not None for rule in model.overwrites)
    routes, n = model.routes(), len(products.roster)
    everyone = np.ones(n, bool)
    for k, switch in enumerate(model.switches):
        lacking = everyone.copy()
        lacking[products.roster.slices[switch.site].start] = False
        route = routes.route(routes.difference(everyone, lacking), routes.worth_keeping, 0)
        assert route.overwritten == (k,)
        made = {name for p in route.piece.nodes for name in model.anatomy.nodes[p].output}
        assert switch.tensor not in made


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_no_plan_changes_a_bit(products: Setup, data: st.DataObject) -> None:
    rows = data.draw(rounds(len(products.roster)))
    drawn = np.tile(np.arange(data.draw(st.sampled_from([1, 9, 24]))), (len(rows), 1))
    expected = products.reference().answer(rows, drawn, keep_all)
    for plain in evaluators(products)[::2]:
        one_by_one = np.concatenate(
            [
                FastEvaluator(plain.compiled, products.suite).answer(
                    rows[i : i + 1], drawn[i : i + 1], keep_all
                )
                for i in range(len(rows))
            ]
        )
        assert_agree(one_by_one, expected)
        for overwriting in (True, False):
            evaluator = FastEvaluator(plain.compiled, products.suite, overwriting=overwriting)
            for _ in range(2):  # the second time states are there
                answer = evaluator.answer(rows, drawn, keep_all)
                np.testing.assert_array_equal(answer, one_by_one)


def test_products_and_convolutions_agree(products: Setup, convolutions: Setup) -> None:
    rows = random_rows(len(products.roster), 60)
    expected = evaluators(convolutions)[0].answer(rows, None, keep_all)
    for evaluator in evaluators(products):
        assert_agree(evaluator.answer(rows, None, keep_all), expected)


def test_a_single_filter_is_all_that_is_turned_off(products: Setup) -> None:
    """Every filter alone, absent and then all that is present, with the levels of each."""
    n = len(products.roster)
    rows: Coalitions = np.concatenate([~np.eye(n, dtype=bool), np.eye(n, dtype=bool)])
    expected = products.reference().answer(rows, None, keep_all)
    for evaluator in evaluators(products):
        assert_agree(evaluator.answer(rows, None, keep_all), expected)


def test_they_are_proven_and_taken(products: Setup) -> None:
    evaluator = open_evaluator(products.candidates, products.reference())
    assert evaluator.path == "blocked weights and cones"
    assert isinstance(evaluator, FastEvaluator)
    assert evaluator.compiled.product_cost > 0


def test_workers_change_no_bit(products: Setup) -> None:
    rows = random_rows(len(products.roster), 30)
    model = compiled(products, WAYS[0])
    expected = FastEvaluator(model, products.suite, batch_size=7).answer(rows, None, keep_all)
    threads = ThreadExecutor(3)
    evaluator = FastEvaluator(model, products.suite, batch_size=7, executor=threads)
    np.testing.assert_array_equal(evaluator.answer(rows, None, keep_all), expected)


def test_runs_are_longer_where_products_matter(
    products: Setup, convolutions: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_module, "_LEAST_MACS", 1.0)  # as if the network were a large one
    assert {e.grain for e in evaluators(convolutions)} == {8}
    assert {e.grain for e in evaluators(products)} == {32}
    share = max(e.compiled.product_cost / e.routes.full.cost for e in evaluators(products))
    monkeypatch.setattr(fast_module, "_PRODUCT_SHARE", 1.01 * share)
    assert {e.grain for e in evaluators(products)} == {8}
