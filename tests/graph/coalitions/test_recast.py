"""A graph in another width computes the same, between the same inputs and outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from repairkit.graph.coalitions.recast import Width, recast
from repairkit.graph.kinds.sites import find_sites, instrument
from tests.engine.games import deep_model
from tests.models import LAYERS, images
from tests.running import input_name, random_levels, run
from tests.zoo import LIGHT_MODELS, ZOO_MODELS, image_of, load

WIDTHS: list[Width] = ["float16", "float64"]
# What the reference implementation of the standard lacks: grouped transposes, and old quantisation.
UNKNOWN = ("transposed_grouped", "quantised")
OF_WIDTH = {"float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}
REAL = [
    pytest.param(p, id=p.stem, marks=[pytest.mark.slow])
    for p in (*ZOO_MODELS, *LIGHT_MODELS)
    if p.stem not in ("light_vgg19", "light_bvlc_alexnet", "light_zfnet512")
]


def graph_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Any],
    *,
    image: tuple[int | str, ...],
    output: tuple[int | str, ...],
) -> ModelProto:
    """A model with the input `image` and the output `logits`, opset 13."""
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model


def masked(model: ModelProto) -> tuple[ModelProto, dict[str, Any]]:
    """The instrumented model, and masks at random."""
    sites = find_sites(model)
    rng = np.random.default_rng(1)
    shapes = {f"{s.name}/mask": [1] * s.rank for s in sites}
    for site in sites:
        shapes[f"{site.name}/mask"][site.channel_axis] = site.n_channels
    masks = {name: rng.random(shape) < 0.8 for name, shape in shapes.items()}
    return instrument(model, sites, random_levels(sites)), masks


def kinds(model: ModelProto) -> dict[str, int]:
    values = (*model.graph.input, *model.graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["deep", *LAYERS])
def test_another_width_computes_the_same(name: str, width: Width) -> None:
    model = deep_model() if name == "deep" else LAYERS[name]()
    x = images(3, dtype="float16" if name == "half_precision" else "float32")
    whole, masks = masked(model)
    before = whole.SerializeToString()
    other = recast(whole, width)
    assert whole.SerializeToString() == before
    assert kinds(other) == kinds(whole)
    n = 1 if name in ("fixed_batch", "stuck_batch") else 3
    feeds = {"image": x[:n], **masks}
    expected = run(whole, feeds)[0]
    close = 1e-2 if width == "float16" or name == "half_precision" else 1e-5
    for found in _both(other, feeds, runtime=width == "float16", reference=name not in UNKNOWN):
        assert found.dtype == expected.dtype
        assert np.abs(found - expected).max() <= close * np.abs(expected).max()


def _both(
    model: ModelProto, feeds: dict[str, Any], *, runtime: bool, reference: bool
) -> list[np.ndarray]:
    """What ONNX Runtime, which has no convolution in 64 bits, and the standard's own say."""
    found = [run(model, feeds, optimise=True)[0]] if runtime else []
    return found + ([ReferenceEvaluator(model).run(None, feeds)[0]] if reference else [])


@pytest.mark.parametrize("width", WIDTHS)
def test_every_layer_works_in_the_new_width(width: Width) -> None:
    model = recast(deep_model(), width)
    stored = {t.name: t.data_type for t in model.graph.initializer}
    layers = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert layers
    assert {stored[name] for n in layers for name in n.input[1:]} == {OF_WIDTH[width]}
    assert TensorProto.FLOAT not in stored.values()
    assert sum(n.op_type == "Cast" for n in model.graph.node) == 2  # at the input, at the output


def test_64_bits_are_nearer_to_the_truth_than_32() -> None:
    """Sums of numbers that 32 bits cannot hold beside one another."""
    values = np.array([[1e8, 1.0, -1e8, 1.0]], np.float32)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], "flat"),
        helper.make_node("Mul", ["flat", "values"], ["scaled"], "scaled"),
        helper.make_node("ReduceSum", ["scaled"], ["logits"], "sum", keepdims=1),
    ]
    model = graph_of(nodes, {"values": values}, image=(1, 1, 2, 2), output=(1, 1))
    ones = {"image": np.ones((1, 1, 2, 2), np.float32)}
    assert run(recast(model, "float64"), ones)[0] == 2.0


def test_what_shapes_and_constants_make_keeps_its_32_bits() -> None:
    """4,099 positions: 16 bits would count 4,100."""
    nodes = [
        helper.make_node("Shape", ["image"], ["shape"], "shape"),
        helper.make_node("Cast", ["shape"], ["sizes"], "sizes", to=TensorProto.FLOAT),
        helper.make_node("ReduceProd", ["sizes"], ["count"], "count", keepdims=1),
        helper.make_node("Mul", ["count", "one"], ["exact"], "exact"),
        helper.make_node("Cast", ["exact"], ["whole"], "whole", to=TensorProto.INT64),
        helper.make_node("Reshape", ["image", "whole"], ["logits"], "logits"),
    ]
    one = {"one": np.ones(1, np.float32)}
    model = graph_of(nodes, one, image=(1, 1, 1, 4099), output=(4099,))
    x = np.random.default_rng(0).random((1, 1, 1, 4099)).astype(np.float32)
    found = run(recast(model, "float16"), {"image": x})[0]
    np.testing.assert_array_equal(found, x.reshape(-1).astype(np.float16).astype(np.float32))


def test_operators_without_the_width_keep_their_own() -> None:
    """Quantising takes 32 bits up to opset 18, whatever stands around it."""
    weights = {"scale": np.float32(0.1), "zero": np.uint8(3)}
    nodes = [
        helper.make_node("Relu", ["image"], ["act"], "act"),
        helper.make_node("QuantizeLinear", ["act", "scale", "zero"], ["codes"], "q"),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["back"], "d"),
        helper.make_node("Neg", ["back"], ["logits"], "neg"),
    ]
    model = graph_of(nodes, weights, image=("n", 2, 6, 6), output=("n", 2, 6, 6))
    x = {"image": images(2).astype(np.float16).astype(np.float32)}
    other = recast(model, "float16")
    np.testing.assert_allclose(run(other, x)[0], run(model, x)[0], rtol=1e-3)
    onnx.checker.check_model(other)


def test_constants_beyond_the_range_become_its_ends() -> None:
    weights = {"low": np.float32(-3e38), "high": np.float32(1e30)}
    nodes = [helper.make_node("Clip", ["image", "low", "high"], ["logits"], "clip")]
    shape = ("n", 2, 6, 6)
    model = recast(graph_of(nodes, weights, image=shape, output=shape), "float16")
    held = {t.name: float(numpy_helper.to_array(t)) for t in model.graph.initializer}
    assert held == {"low/float16": -65504.0, "high/float16": 65504.0}


def test_names_and_domains_of_the_user_s_stand_in_nobody_s_way() -> None:
    """The model has a tensor called as a twin would be, and names the standard's domain in full."""
    nodes = [
        helper.make_node("Relu", ["image"], ["act"], "act"),
        helper.make_node("Neg", ["act"], ["act/float16"], "neg"),
        helper.make_node("Add", ["act", "act/float16"], ["sum"], "sum"),
        helper.make_node("Exp", ["sum"], ["logits"], "exp"),
    ]
    shape = ("n", 2, 6, 6)
    model = graph_of(nodes, {}, image=shape, output=shape)
    model.opset_import[0].domain = "ai.onnx"
    other = recast(model, "float16")
    assert sum(n.op_type == "Cast" for n in other.graph.node) == 2
    x = {"image": images(2)}
    np.testing.assert_array_equal(run(other, x)[0], np.ones((2, 2, 6, 6), np.float32))


@pytest.mark.parametrize("path", REAL)
def test_real_models_bear_half_precision(path: Path) -> None:
    model = load(path)
    feeds = {input_name(model): image_of(model)}
    expected = run(model, feeds, optimise=True)
    found = run(recast(model, "float16"), feeds, optimise=True)
    for ours, theirs in zip(found, expected, strict=True):
        if np.issubdtype(theirs.dtype, np.floating):
            assert np.abs(ours - theirs).max() <= 2e-2 * np.abs(theirs).max() + 1e-6
