"""What differs between graphs: nothing where nothing does, and just what does where it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

from repairkit.jobs.diff import tensor_numbers
from repairkit.jobs.diff.graph_changes import GraphChanges, compare_graphs
from repairkit.jobs.diff.graph_view import Stored
from repairkit.jobs.diff.stored_changes import KINDS
from repairkit.jobs.diff.tensor_numbers import compare_numbers
from tests import ensembles, models, wild_models
from tests.jobs.diff import disguises

NAMES_ALONE = {"nodes_renamed", "values_renamed", "tensors_renamed", "order", "tensors_moved"}
MODELS = st.one_of(
    st.sampled_from(sorted(disguises.KINDS)).map(lambda name: disguises.KINDS[name]()),
    st.builds(disguises.branching, st.integers(0, 2**16), st.integers(1, 8)),
    st.just(disguises.with_choice()),
)
NETWORKS = st.builds(disguises.branching, st.integers(0, 2**16), st.integers(2, 8))


def compared(a: ModelProto, b: ModelProto) -> GraphChanges:
    stored = [{t.name for t in m.graph.initializer} for m in (a, b)]
    fed = [
        [i.name for i in m.graph.input if i.name not in s]
        for m, s in zip((a, b), stored, strict=True)
    ]
    return compare_graphs(a, b, dict(zip(*fed, strict=True)), lambda _: None)


def found(changes: GraphChanges) -> dict[str, list[dict[str, Any]]]:
    return {kind: rows for kind, rows in changes.entries.items() if rows}


@given(MODELS)
@settings(max_examples=25, deadline=None)
def test_a_model_differs_from_itself_in_nothing(model: ModelProto) -> None:
    changes = compared(model, model)
    assert changes.same_computation
    assert found(changes) == {}
    assert set(changes.entries) == set(KINDS)
    assert changes.n_same == changes.n_nodes[0]


@given(MODELS, st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_other_names_in_another_order_compute_the_same(model: ModelProto, seed: int) -> None:
    other = disguises.reordered(disguises.renamed(model), seed)
    changes = compared(model, other)
    assert changes.same_computation
    assert set(found(changes)) <= NAMES_ALONE
    assert len(changes.pairing.forth) == changes.n_nodes[0] == changes.n_nodes[1]
    named = sum(bool(node.name) for node in model.graph.node if node.op_type != "Constant")
    assert len([r for r in changes.entries["nodes_renamed"] if not r["where"]]) == named


@given(NETWORKS)
@settings(max_examples=25, deadline=None)
def test_another_exporters_way_of_writing_computes_the_same(model: ModelProto) -> None:
    changes = compared(model, disguises.rewritten(model))
    assert changes.same_computation
    assert not changes.any_number
    assert not changes.entries["nodes_changed"]
    assert {row["operator"] for row in changes.entries["nodes_added"]} <= {"Identity"}
    assert not changes.entries["nodes_removed"]


@given(NETWORKS, NETWORKS, st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_both_directions_tell_the_same(one: ModelProto, other: ModelProto, seed: int) -> None:
    other = disguises.reordered(disguises.renamed(other), seed)
    forth, back = compared(one, other), compared(other, one)
    assert forth.pairing.forth == back.pairing.back
    assert forth.same_computation == back.same_computation
    turned = {"nodes_added": "nodes_removed", "tensors_added": "tensors_removed"}
    turned |= {b: a for a, b in turned.items()}
    for kind, rows in forth.entries.items():
        mirrored = back.entries[turned.get(kind, kind)]
        assert sorted(map(_flat, rows)) == sorted(_flat(_turned(row)) for row in mirrored), kind


def _turned(row: dict[str, Any]) -> dict[str, Any]:
    result = dict(row)
    if "a" in row:
        result["a"], result["b"] = row["b"], row["a"]
    if "read_by" in row:
        result["dtype"], result["shape"] = row["dtype"][::-1], row["shape"][::-1]
    if "places" in row:
        result["places"] = row["places"][::-1]
    if "changes" in row:
        result["operator"] = row["operator"][::-1]
        result["changes"] = [_turned(change) for change in row["changes"]]
    return result


def _flat(row: dict[str, Any]) -> str:
    # A node's name is told as it stands in the first of the two graphs.
    kept = {k: v for k, v in row.items() if k not in ("where", "read_by", "operator")}
    return repr(sorted(kept.items(), key=lambda item: item[0]))


@given(MODELS, st.data())
@settings(max_examples=25, deadline=None)
def test_one_changed_byte_is_one_tensor_and_one_channel(
    model: ModelProto, data: st.DataObject
) -> None:
    tensors = [t for t in model.graph.initializer if numpy_helper.to_array(t).nbytes]
    if not tensors:
        return
    tensor = data.draw(st.sampled_from(tensors))
    array = numpy_helper.to_array(tensor)
    byte = data.draw(st.integers(0, array.nbytes - 1))
    other = disguises.reordered(disguises.with_changed_byte(model, tensor.name, byte), 1)
    changes = compared(model, other)
    assert set(found(changes)) <= {"tensors_changed", "order"}
    (row,) = changes.entries["tensors_changed"]
    assert (row["a"], row["b"], row["n_differ"]) == (tensor.name, tensor.name, 1)
    place = np.unravel_index(byte // array.itemsize, array.shape) if array.shape else ()
    assert row["channels"] == [int(place[row["channel_axis"]])] if place else [0]


def test_channels_are_those_of_the_layer() -> None:
    for layer, tensor, axis in (
        ("own_bias", "w", 0),
        ("transposed", "w", 1),
        ("no_bias", "fc_w", 1),
        ("bias_add", "b", 0),
        ("both_biases", "c", 1),
    ):
        model = models.LAYERS[layer]()
        other = disguises.with_changed_byte(model, tensor, 0)
        (row,) = compared(model, other).entries["tensors_changed"]
        assert row["channel_axis"] == axis, layer


@given(NETWORKS, st.data())
@settings(max_examples=25, deadline=None)
def test_a_node_that_is_gone_is_that_node_alone(model: ModelProto, data: st.DataObject) -> None:
    plain = [n for n, node in enumerate(model.graph.node) if node.op_type in ("Relu", "Tanh")]
    position = data.draw(st.sampled_from(plain))
    gone = model.graph.node[position]
    other = disguises.renamed(disguises.without_node(model, position))
    changes = compared(model, other)
    removed = changes.entries["nodes_removed"]
    assert [row["operator"] for row in removed] == [gone.op_type]
    assert not changes.entries["nodes_added"]
    assert not changes.any_number
    readers = [n for n in model.graph.node if gone.output[0] in n.input]
    assert len(changes.entries["nodes_changed"]) <= len(readers)


def test_an_operator_in_the_place_of_another_is_a_change_of_that_node() -> None:
    model = models.own_bias()
    other = disguises.renamed(model)
    relu = next(n for n in other.graph.node if n.op_type == "Relu")
    relu.op_type = "Tanh"
    changes = compared(model, other)
    (row,) = changes.entries["nodes_changed"]
    assert row["operator"] == ["Relu", "Tanh"]
    assert row["changes"] == [{"what": "operator", "a": "Relu", "b": "Tanh"}]
    assert not changes.same_computation
    assert not changes.entries["nodes_added"]


def test_an_attribute_that_states_the_default_is_no_change_and_another_is() -> None:
    model = models.own_bias()
    same, other = ModelProto(), ModelProto()
    for copy in (same, other):
        copy.CopyFrom(model)
    same.graph.node[0].attribute.extend(
        [helper.make_attribute("group", 1), helper.make_attribute("kernel_shape", [3, 3])]
    )
    other.graph.node[0].attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    assert found(compared(model, same)) == {}
    (row,) = compared(model, other).entries["nodes_changed"]
    assert row["changes"] == [{"what": "attribute pads", "a": None, "b": "1, 1, 1, 1"}]


def test_a_normalisation_folded_into_its_convolution_leaves_the_rest_in_place() -> None:
    a, b = models.normalised(), models.own_bias()
    changes = compared(a, disguises.renamed(b))
    assert [row["operator"] for row in changes.entries["nodes_removed"]] == ["BatchNormalization"]
    assert not changes.entries["nodes_added"]
    assert {row["a"] for row in changes.entries["nodes_renamed"]} >= {"conv", "act", "pool", "fc"}


def test_a_body_is_compared_where_it_stands() -> None:
    a, b = disguises.with_choice(), disguises.with_choice(3.0)
    changes = compared(a, disguises.renamed(b))
    (row,) = changes.entries["tensors_changed"]
    assert (row["where"], row["a"], row["largest_absolute"]) == ("choice/then_branch", "inner", 2.0)
    assert not changes.any_node
    assert not changes.same_computation


def test_a_function_is_compared_by_what_it_computes() -> None:
    a, b = wild_models.with_function(), wild_models.with_function()
    for node in b.functions[0].node:
        node.name = f"{node.name} again"
    assert compared(a, b).same_computation
    b.functions[0].node[-1].op_type = "Sigmoid"
    changes = compared(a, b)
    assert not changes.same_computation
    assert [row["where"] for row in changes.entries["nodes_changed"]] == [
        f"function {b.functions[0].domain}.{b.functions[0].name}"
    ]


@pytest.mark.parametrize("kind", ["TreeEnsembleRegressor", "TreeEnsembleClassifier"])
@given(tree=st.integers(0, 4), seed=st.integers(0, 30))
@settings(max_examples=10, deadline=None)
def test_the_trees_that_differ_are_named(kind: str, tree: int, seed: int) -> None:
    a = ensembles.forest(seed, kind=kind).model
    b = ModelProto()
    b.CopyFrom(a)
    node = b.graph.node[0]
    lists = {held.name: held for held in node.attribute}
    prefix = "class" if kind == "TreeEnsembleClassifier" else "target"
    ids = list(lists[f"{prefix}_treeids"].ints)
    order = list(dict.fromkeys(lists["nodes_treeids"].ints))
    lists[f"{prefix}_weights"].floats[ids.index(order[tree])] += 1.0
    changes = compared(a, b)
    (row,) = changes.entries["trees"]
    assert (row["changed"], row["added"], row["removed"]) == ([tree], [], [])
    assert not changes.any_node


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_numbers_are_compared_as_numpy_compares_them(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float32", "float64", "float16", "int8", "int64", "bool"]))
    shape = tuple(data.draw(st.lists(st.integers(1, 4), max_size=3)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    a = (4 * rng.standard_normal(shape)).astype(dtype)
    b = np.where(rng.random(shape) < 0.3, (4 * rng.standard_normal(shape)).astype(dtype), a)
    axis = data.draw(st.integers(0, max(len(shape) - 1, 0)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_numbers, "CHUNK", data.draw(st.integers(1, 9)))
        changes = compare_numbers(_stored(a), _stored(b), axis)
    assert changes is not None
    moved = np.abs(b.astype(np.float64) - a)
    sizes = np.maximum(np.abs(a.astype(np.float64)), np.abs(b.astype(np.float64)))
    differ = np.atleast_1d(a != b)
    assert changes.n_differ == differ.sum()
    assert changes.largest_absolute == moved.max()
    assert changes.largest_relative == pytest.approx((moved / np.where(sizes, sizes, 1)).max())
    assert changes.n_not_finite == 0
    others = tuple(n for n in range(differ.ndim) if n != axis)
    assert changes.channels == tuple(np.flatnonzero(differ.any(axis=others)).tolist())


def test_numbers_without_a_distance_are_counted() -> None:
    a = np.array([1.0, np.nan, np.inf, 2.0], np.float32)
    b = np.array([np.inf, np.nan, np.inf, 3.0], np.float32)
    changes = compare_numbers(_stored(a), _stored(b), 0)
    assert changes is not None
    assert (changes.n_differ, changes.n_not_finite, changes.largest_absolute) == (2, 1, 1.0)
    assert compare_numbers(_stored(a), _stored(a[:2]), 0) is None


def _stored(array: np.ndarray) -> Stored:
    return Stored(
        name="t", kind="initializer", dtype=str(array.dtype), shape=array.shape, read=lambda: array
    )
