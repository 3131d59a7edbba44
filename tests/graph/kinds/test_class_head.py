"""The layer that makes the class scores: found, changed, and undone to the byte."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper

from repairkit.core.errors import ModelError
from repairkit.core.filters import HeadChange, Patch
from repairkit.graph.baking import bake, biased, changes_head, refitted, revert
from repairkit.graph.kinds.class_head import ClassHead, find_head, head_named
from repairkit.graph.kinds.sites import survey
from repairkit.graph.protos import GraphIndex
from repairkit.graph.stored.model_files import first_difference, same_model
from tests import class_heads, models
from tests.class_heads import HEADS
from tests.running import run

NO_BIAS = ("matmul_alone",)
EVERY = pytest.mark.parametrize("name", HEADS)


def _tapped(model: ModelProto, tensor: str, images: np.ndarray) -> np.ndarray:
    copy = ModelProto()
    copy.CopyFrom(model)
    if tensor not in {o.name for o in copy.graph.output}:
        copy.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    session_outputs = [o.name for o in copy.graph.output]
    return np.asarray(run(copy, {"image": images})[session_outputs.index(tensor)])


def _head(model: ModelProto) -> tuple[GraphIndex, ClassHead]:
    index = GraphIndex(model)
    return index, find_head(index, model.graph.output[0].name)


def _answer(model: ModelProto, images: np.ndarray) -> np.ndarray:
    made = run(model, {"image": images})[0]
    return made.reshape(len(images), -1)


def _is_near(found: np.ndarray, wanted: np.ndarray) -> bool:
    # The runtime computes a sigmoid by a formula that is off by some 1e-8, however small it is.
    return np.abs(found - wanted).max() <= max(1e-5 * np.abs(wanted).max(), 1e-7)


@EVERY
def test_the_head_makes_the_outputs_of_its_features(name: str) -> None:
    model, images = HEADS[name](), models.images(7)
    _, head = _head(model)
    rows = head.feature_rows(_tapped(model, head.features, images))
    assert _is_near(head.answers(head.scores(rows, head.weight, head.bias)), _answer(model, images))
    made = head.score_rows(_tapped(model, head.own_output, images))
    assert _is_near(head.answers(made), _answer(model, images))


@EVERY
@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=3)
def test_baked_class_biases_add_to_the_scores_and_are_undone_to_the_byte(
    name: str, seed: int
) -> None:
    model, images = HEADS[name](), models.images(5, seed)
    index, head = _head(model)
    shift = np.random.default_rng(seed).normal(size=head.n_classes)
    if name in NO_BIAS:
        with pytest.raises(ModelError, match="no place for class biases"):
            biased(index, head, shift)
        return
    change = biased(index, head, shift)
    baked = bake(survey(model), Patch((), change))
    onnx.checker.check_model(baked.model)
    scores = head.score_rows(_tapped(model, head.own_output, images)) + shift
    assert _is_near(_answer(baked.model, images), head.answers(scores))
    assert same_model(revert(baked.model, baked.edits), model)
    assert [n.name for n in baked.model.graph.node] == [n.name for n in model.graph.node]


@EVERY
@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=3)
def test_a_baked_last_layer_gives_what_its_features_give_and_is_undone_to_the_byte(
    name: str, seed: int
) -> None:
    model, images = HEADS[name](), models.images(5, seed)
    index, head = _head(model)
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=head.weight.shape)
    shift = rng.normal(size=head.n_classes) * (name not in NO_BIAS)
    change = refitted(index, head, weight, shift)
    baked = bake(survey(model), Patch((), change))
    onnx.checker.check_model(baked.model)
    rows = head.feature_rows(_tapped(model, head.features, images)).astype(np.float64)
    plain = head.scores(rows, head.weight, head.bias)
    wanted = head.answers(plain + rows @ weight.T + shift)
    assert _is_near(_answer(baked.model, images), wanted)
    assert change.weight is not None
    assert _is_near(head.answers(head.scores(rows, change.weight, change.bias)), wanted)
    assert same_model(revert(baked.model, baked.edits), model)
    again = head_named(GraphIndex(baked.model), head.name)
    assert np.array_equal(again.weight, change.weight)
    assert not changes_head(again, change)


@EVERY
def test_no_shift_leaves_every_byte_alone(name: str) -> None:
    model = HEADS[name]()
    index, head = _head(model)
    if name not in NO_BIAS:
        change = biased(index, head, np.zeros(head.n_classes))
        baked = bake(survey(model), Patch((), change))
        assert same_model(baked.model, model), first_difference(baked.model, model)
        assert baked.edits == ()
        assert not changes_head(head, change)
    same = refitted(index, head, np.zeros(head.weight.shape), np.zeros(head.n_classes))
    assert bake(survey(model), Patch((), same)).edits == ()


def test_a_bias_that_another_node_reads_too_is_copied() -> None:
    model = class_heads.shared_bias()
    index, head = _head(model)
    baked = bake(survey(model), Patch((), biased(index, head, np.array([1.0, 2.0, 3.0]))))
    assert [e.kind for e in baked.edits] == ["added"]
    kept = next(t for t in baked.model.graph.initializer if t.name == "b")
    assert kept == next(t for t in model.graph.initializer if t.name == "b")


def _ends_in(*kinds: str) -> ModelProto:
    model = class_heads.gemm()
    name = "raw"
    model.graph.node[-1].output[0] = name
    for number, kind in enumerate(kinds):
        made = "scores" if number == len(kinds) - 1 else f"step_{number}"
        model.graph.node.append(helper.make_node(kind, [name], [made], f"end_{number}"))
        name = made
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (_ends_in("Relu"), "a Relu stands before it"),
        (_ends_in("Softmax", "Neg"), "a Neg stands before it"),
        (_ends_in("Softmax", "Softmax"), "a Softmax stands before it"),
        (_ends_in("Softmax", "Identity"), ""),
        (_ends_in("Softmax", "Log"), ""),
        (_ends_in("Sigmoid", "Log"), "a Sigmoid stands before it"),
    ],
)
def test_what_no_change_of_the_last_layer_passes_exactly_is_refused_in_one_line(
    model: ModelProto, said: str
) -> None:
    if not said:
        assert _head(model)[1].name == "fc"
        return
    with pytest.raises(ModelError, match=said) as caught:
        _head(model)
    assert "\n" not in str(caught.value)


def test_an_activation_before_the_mean_over_positions_is_refused() -> None:
    model = class_heads.conv_pooled()
    model.graph.node[-2].input[0] = "bent"
    model.graph.node.insert(3, helper.make_node("Relu", ["maps"], ["bent"], "bend"))
    with pytest.raises(ModelError, match="a Relu stands before it"):
        _head(model)


@pytest.mark.parametrize(
    "change",
    [
        HeadChange("bias", "fc", np.zeros(2)),
        HeadChange("bias", "fc", None),
        HeadChange("last-layer", "fc", np.ones(3), None),
        HeadChange("last-layer", "fc", np.ones(3), np.ones((5, 3))),
        HeadChange("bias", "conv", np.ones(3)),
    ],
)
def test_a_change_that_does_not_fit_the_head_is_refused(change: HeadChange) -> None:
    with pytest.raises(ModelError):
        bake(survey(class_heads.gemm()), Patch((), change))
