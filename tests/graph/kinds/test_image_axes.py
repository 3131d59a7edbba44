"""Sizes that a model leaves open, in every way in which files say so, and what the graph tells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from repairkit.core.errors import ModelError
from repairkit.core.filters import Filter, FrozenFilter, Patch
from repairkit.graph.baking import bake
from repairkit.graph.kinds.image_axes import ImageAxes, image_axes
from repairkit.graph.kinds.sites import survey
from repairkit.graph.protos import GraphIndex
from repairkit.jobs.look.inspection import inspect
from repairkit.jobs.setup.subject import judging_the_model, read_subject
from repairkit.jobs.setup.workbench import Settings, Subject
from tests.models import own_bias
from tests.running import run

Size = int | str | None


def _declare(value: ValueInfoProto, sizes: list[Size] | None) -> None:
    value.type.tensor_type.ClearField("shape")
    if sizes is None:
        return
    shape = value.type.tensor_type.shape
    shape.SetInParent()
    for size in sizes:
        dim = shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        elif size is not None:
            dim.dim_param = size


def _model(inputs: list[Size] | None, outputs: list[Size] | None) -> ModelProto:
    model = own_bias()
    _declare(model.graph.input[0], inputs)
    _declare(model.graph.output[0], outputs)
    return model


OPEN: list[list[Size] | None] = [
    [-1, -1, -1, -1],
    [-7, 2, -1, -(2**40)],
    [0, 0, 0, 0],
    [0, 2, 6, 6],
    ["N", "C", "H", "H"],
    ["", None, "", None],
    ["batch", -1, 6, 6],
    None,
]


@pytest.mark.parametrize("sizes", OPEN, ids=str)
@pytest.mark.parametrize("outputs", [[-1, -1], [0, 3], None, [0, 0]], ids=str)
def test_every_way_to_leave_a_size_open_is_opened_run_and_kept(
    tmp_path: Path, sizes: list[Size] | None, outputs: list[Size] | None
) -> None:
    model = _model(sizes, outputs)
    said = model.graph.value_info.add()
    said.CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [0, -3, 4, "w"]))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    subject = read_subject(path)
    found = inspect(subject, Settings())
    assert subject.spec.layout == "nchw"
    assert subject.spec.shape[0] == 2
    assert [(s.site.name, s.share) for s in found.sites] == [("conv", 1.0)]
    assert found.batch == "any"
    assert ("of 2 x 224 x 224" in found.note) == (None in subject.spec.shape)
    patched = bake(survey(model), Patch((FrozenFilter(Filter("conv", 1), 0.5),))).model
    for part in ("input", "output", "value_info"):
        assert getattr(patched.graph, part) == getattr(model.graph, part)


@pytest.mark.parametrize("side", [22, 57])
def test_an_open_size_that_one_dense_layer_settles_is_found(tmp_path: Path, side: int) -> None:
    flat = 4 * (side - 2) ** 2
    weights = {"fc": np.ones((flat, 3), np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["y"], "conv"),
        helper.make_node("Flatten", ["y"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc"], ["logits"], "gemm"),
    ]
    model = _model([-1, -1, -1, -1], [-1, 3])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(weights["fc"], "fc"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    found = inspect(read_subject(path), Settings())
    assert f"images of 2 x {side} x {side}" in found.note
    assert [s.share for s in found.sites] == [1.0]


def test_open_sizes_are_not_blamed_for_what_else_fails(tmp_path: Path) -> None:
    model = _model([-1, -1, -1, -1], [0, -1])
    model.graph.value_info.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [-1, -1]))
    del model.graph.value_info[0].type.tensor_type.shape.dim[:]
    for size in (-1, -1, 0, -3):
        model.graph.value_info[0].type.tensor_type.shape.dim.add(dim_value=size)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)

    @judging_the_model
    def fail(subject: Subject) -> None:
        raise KeyError(subject.output)

    with pytest.raises(KeyError):
        fail(read_subject(path))


def test_a_model_of_open_sizes_and_two_inputs_is_inspected_and_timed(tmp_path: Path) -> None:
    model = _model([-1, -1, -1, -1], [-1, 3])
    model.graph.input.append(helper.make_tensor_value_info("factor", TensorProto.FLOAT, [1]))
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.append(helper.make_node("Mul", ["plain", "factor"], ["logits"], "times"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    found = inspect(read_subject(path), Settings())
    assert [s.share for s in found.sites] == [1.0]
    assert found.passes.seconds is not None


def test_a_model_that_runs_on_no_size_says_so(tmp_path: Path) -> None:
    model = _model([-1, -1, -1, -1], [-1, 3])
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 2, 5, 7)), "odd"))
    cast = helper.make_node("Cast", ["image"], ["wide"], "cast", to=TensorProto.DOUBLE)
    add = helper.make_node("Add", ["wide", "odd"], ["sum"], "add")
    back = helper.make_node("Cast", ["sum"], ["narrow"], "back", to=TensorProto.FLOAT)
    kept = list(model.graph.node)
    kept[0].input[0] = "narrow"
    nodes = [cast, add, back, *(NodeProto.FromString(n.SerializeToString()) for n in kept)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    found = inspect(read_subject(path), Settings())
    assert "runs on none of the sizes that were tried" in found.note
    assert [s.site.name for s in found.sites] == ["conv"]


def test_sizes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(_model([-1, 2**50, -1, -1], [-1, 3]), path)
    with pytest.raises(ModelError, match="absurd dimensions"):
        read_subject(path)


def _image_model(nodes: list[NodeProto], kernel: tuple[int, ...], **attributes: int) -> ModelProto:
    """Nodes that make `x` of `image`, and a convolution that reads it."""
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "conv", **attributes)
    numbers = {
        "w": np.ones(kernel, np.float32),
        "mean": np.array([0.1, 0.2, 0.3], np.float32),
        "plane": np.ones((1, 1, 8, 8), np.float32),
        "scale": np.array(0.1, np.float32),
        "zero": np.array(3, np.uint8),
        "swap": np.array([2, 1, 0]),
        "first": np.array(0),
        "ones": np.ones(1, np.int64),
        "none": np.zeros(1, np.int64),
        "two": np.full(1, 2),
        "many": np.full(1, 2**40),
        "sides": np.array([2, 3]),
        "steps": np.array([2, 2]),
        "starts": np.array([0, 0]),
        "odd": np.array([1, 1]),
        "ends": np.array([2**40, 2**40]),
        "pads": np.array([0, 0, 1, 1, 0, 1, 1, 1]),
    }
    graph = helper.make_graph(
        [*nodes, conv],
        "image",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None] * 4)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [numpy_helper.from_array(a, n) for n, a in numbers.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def _node(kind: str, inputs: str, outputs: str, **attributes: object) -> NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


_TO_FRONT = _node("Transpose", "last", "x", perm=[0, 3, 1, 2])
ON_THE_WAY: dict[str, tuple[ModelProto, ImageAxes]] = {
    "straight": (_image_model([_node("Identity", "image", "x")], (4, 3, 3, 3)), ImageAxes(4, 1, 3)),
    "grouped": (
        _image_model([_node("Identity", "image", "x")], (6, 1, 3, 3), group=3),
        ImageAxes(4, 1, 3),
    ),
    "channels last, normalised": (
        _image_model(
            [_node("Sub", "image mean", "c"), _node("Div", "c mean", "last"), _TO_FRONT],
            (4, 3, 3, 3),
        ),
        ImageAxes(4, 3, 3),
    ),
    "quantised and there and back again": (
        _image_model(
            [
                _node("QuantizeLinear", "image scale zero", "q"),
                _node("DequantizeLinear", "q scale zero", "d"),
                _node("Transpose", "d", "t", perm=[0, 2, 3, 1]),
                _node("Transpose", "t", "x", perm=[0, 3, 1, 2]),
            ],
            (4, 4, 3, 3),
        ),
        ImageAxes(4, 1, 4),
    ),
    "padded, also by a channel": (
        _image_model([_node("Pad", "image pads", "x")], (4, 4, 3, 3)),
        ImageAxes(4, 1, 3),
    ),
    "colours swapped by Gather": (
        _image_model([_node("Gather", "image swap", "x", axis=1)], (4, 3, 3, 3)),
        ImageAxes(4, 1, 3),
    ),
    "colours swapped by slices, channels last": (
        _image_model(
            [
                _node("Split", "image", "r g b", axis=3),
                _node("Concat", "b g r", "last", axis=3),
                _TO_FRONT,
            ],
            (4, 3, 3, 3),
        ),
        ImageAxes(4, 3, 3),
    ),
    "channels taken one by one": (
        _image_model(
            [
                _node("Gather", "image first", "r", axis=1),
                _node("Mul", "r scale", "s"),
                _node("Unsqueeze", "s ones", "u"),
                _node("Concat", "u u u", "x", axis=1),
            ],
            (4, 3, 3, 3),
        ),
        ImageAxes(4, 1, 3),
    ),
    "pixels gathered in channels": (
        _image_model(
            [
                _node("Slice", "image starts ends sides steps", "a"),
                _node("Slice", "image odd ends sides steps", "b"),
                _node("Concat", "a b", "x", axis=1),
            ],
            (4, 6, 3, 3),
        ),
        ImageAxes(4, 1, 3),
    ),
    "space to depth": (
        _image_model([_node("SpaceToDepth", "image", "x", blocksize=2)], (4, 12, 3, 3)),
        ImageAxes(4, 1, 3),
    ),
    "a plane of constants beside the colours": (
        _image_model([_node("Concat", "image plane", "x", axis=1)], (4, 4, 3, 3)),
        ImageAxes(4, 1, 3),
    ),
}


@pytest.mark.parametrize("way", ON_THE_WAY)
def test_the_first_kernel_tells_channels_and_layout(way: str) -> None:
    model, expected = ON_THE_WAY[way]
    shape = [1, 8, 8, 8]
    shape[expected.channel_axis] = expected.n_channels
    run(model, {"image": np.ones(shape, np.float32)})  # as the runtime sees it too
    for rank in (4, None):
        assert image_axes(GraphIndex(model), "image", rank) == expected


def test_nothing_is_told_where_no_whole_number_of_channels_fits() -> None:
    model = _image_model([_node("SpaceToDepth", "image", "x", blocksize=2)], (4, 6, 3, 3))
    assert image_axes(GraphIndex(model), "image", 4) is None
