"""Nodes that work over all images of a batch are found by structure, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from repairkit.graph.mixing import find_mixers, find_random
from tests import models
from tests.running import input_name
from tests.zoo import ZOO_MODELS, load

Weights = dict[str, np.ndarray]


def node(kind: str, reads: str, makes: str = "made", **attributes: Any) -> NodeProto:
    return helper.make_node(kind, reads.split(), makes.split(), f"the_{kind}", **attributes)


def model(nodes: list[NodeProto], weights: Weights | None = None, *, opset: int = 17) -> ModelProto:
    """Some nodes on `image` (batch x 2 x 6 x 6) that make `made`, read by an output."""
    last = helper.make_node("Identity", ["made"], ["logits"], "last")
    found = models.model_of([*nodes, last], weights or {}, opset=opset)
    found.graph.output[0].type.tensor_type.ClearField("shape")
    return found


def axes(*numbers: int) -> Weights:
    return {"axes": np.array(numbers, np.int64)}


NORM = {name: np.ones(2, np.float32) for name in ("g", "b", "m", "v")}
FLAT = helper.make_node("Flatten", ["image"], ["flat"], "flatten")
SEQUENCE = helper.make_node("Reshape", ["image", "sequence"], ["steps"], "sequence")
LSTM: Weights = {
    "sequence": np.array([0, 12, 6], np.int64),
    "w": np.zeros((1, 16, 6), np.float32),
    "r": np.zeros((1, 16, 4), np.float32),
}
TURN = helper.make_node("Transpose", ["steps"], ["turned"], "turn", perm=[1, 0, 2])

MIXING: dict[str, ModelProto] = {
    "dynamic": model([node("DynamicQuantizeLinear", "image", "made s z")]),
    "training": model(
        [node("BatchNormalization", "image g b m v", "made m2 v2", training_mode=1)], NORM
    ),
    "old training": model(
        [node("BatchNormalization", "image g b m v", "made m2 v2 a b2")], NORM, opset=9
    ),
    "mean": model([node("ReduceMean", "image", axes=[0])]),
    "all": model([node("ReduceMax", "image", keepdims=0)]),
    "from behind": model([node("ReduceSum", "image axes")], axes(-4, 1), opset=18),
    "softmax": model([node("Softmax", "image", axis=0)]),
    "softmax from behind": model([node("LogSoftmax", "image", axis=-4)]),
    "old softmax": model([node("Softmax", "image", axis=0)], opset=11),
    "argmax": model([node("ArgMax", "image", axis=0)]),
    "sums": model([node("CumSum", "image axes")], axes(0)),
    "sorted": model([node("TopK", "image axes", "made places", axis=0)], axes(1)),
    "lp": model([node("LpNormalization", "image", axis=0)]),
    "layer norm": model([node("LayerNormalization", "image g", axis=0)], NORM),
    "mean variance": model([node("MeanVarianceNormalization", "image")]),
    "token": model(
        [node("Concat", "image t", axis=0)], {"t": np.zeros((1, 2, 6, 6), np.float32)}
    ),
    "gram": model([FLAT, node("Transpose", "flat", "back"), node("MatMul", "flat back")]),
    "covariance": model([FLAT, node("Gemm", "flat flat", transA=1)]),
    "einsum": model([FLAT, node("Einsum", "flat flat", equation="ni,nj->ij")]),
    "time": model([SEQUENCE, node("LSTM", "steps w r", hidden_size=4)], LSTM),
    "unique": model([node("Unique", "image")]),
    "non-zero": model([node("NonZero", "image")]),
    "picked": model([node("Gather", "image axes", axis=0)], axes(0)),
    "reversed": model([node("Slice", "image b e a s")], dict(zip("beas", [
        np.array([n], np.int64) for n in (-1, -99, 0, -1)
    ], strict=True))),
    "behind a turn": model(
        [node("Transpose", "image", "turned", perm=[1, 2, 3, 0]),
         node("Softmax", "turned", axis=3)]
    ),
    "conv over images": model(
        [node("Transpose", "image", "turned", perm=[1, 0, 2, 3]),
         node("GlobalAveragePool", "turned")]
    ),
    "outer": model(
        [node("ReduceMean", "image", "one", axes=[1, 2, 3], keepdims=0),
         node("Unsqueeze", "one axes", "column"), node("Sub", "column one")], axes(1)
    ),
}  # fmt: skip

APART: dict[str, ModelProto] = {
    "inference": model([node("BatchNormalization", "image g b m v")], NORM),
    "channels": model([node("Softmax", "image", axis=1)]),
    "old softmax": model([node("Softmax", "image", axis=1)], opset=11),
    "no axes": model(
        [node("ReduceMean", "image", noop_with_empty_axes=1)], opset=18
    ),
    "places": model([node("ReduceMean", "image", axes=[2, 3], keepdims=0)]),
    "turned back": model(
        [node("Transpose", "image", "turned", perm=[1, 0, 2, 3]),
         node("ReduceMean", "turned", "one", axes=[0], keepdims=0),
         node("Softmax", "one", axis=-1)]
    ),
    "time apart": model([SEQUENCE, TURN, node("LSTM", "turned w r", hidden_size=4)], LSTM),
    "attention": model(
        [SEQUENCE, node("Transpose", "steps", "back", perm=[0, 2, 1]),
         node("MatMul", "steps back", "pairs"), node("Softmax", "pairs", "shares", axis=-1),
         node("MatMul", "shares steps")], LSTM
    ),
    "einsum": model([FLAT, node("Einsum", "flat flat", equation="ni,nj->nij")]),
    "whole slice": model([node("Slice", "image b e a")], {
        "b": np.array([0]), "e": np.array([2**63 - 1]), "a": np.array([0])
    }),
    "constants": model([node("DynamicQuantizeLinear", "k", "q s z"), node("Add", "image s")], {
        "k": np.ones(3, np.float32)
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXING)
def test_a_node_over_the_images_is_named(name: str) -> None:
    found = find_mixers(MIXING[name], "image")
    assert found, name
    assert found[0].node.startswith("the_")
    assert f"({found[0].kind})" in str(found[0])


@pytest.mark.parametrize("name", APART)
def test_a_node_that_leaves_images_apart_is_not(name: str) -> None:
    assert find_mixers(APART[name], "image") == ()


@pytest.mark.parametrize("path", ZOO_MODELS, ids=lambda path: path.stem)
def test_no_real_model_is_suspected(path: Path) -> None:
    found = load(path)
    assert find_mixers(found, input_name(found)) == ()


def test_only_nodes_that_the_judged_output_needs_count() -> None:
    found = MIXING["unique"]
    found.graph.node.add().CopyFrom(helper.make_node("Relu", ["image"], ["other"], "relu"))
    found.graph.output.add(name="other")
    assert find_mixers(found, "image")
    assert find_mixers(found, "image", ("other",)) == ()


def test_random_nodes_are_named_and_sleeping_dropout_is_not() -> None:
    def dropout(ratio: float, *, active: bool) -> ModelProto:
        weights = {"r": np.array(ratio, np.float32), "t": np.array(active)}
        return model([node("Dropout", "image r t")], weights)

    assert find_random(dropout(0.5, active=True))[0].node == "the_Dropout"
    assert find_random(dropout(0.0, active=True)) == ()
    assert find_random(dropout(0.5, active=False)) == ()
    noise = model([node("RandomNormalLike", "image", "noise"), node("Add", "image noise")])
    assert find_random(noise)[0].kind == "RandomNormalLike"
    assert find_random(model([node("Relu", "image")])) == ()
