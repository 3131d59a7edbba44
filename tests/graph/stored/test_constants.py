"""Weights of every element type and in every constant form are frozen, or left out by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repairkit.core.filters import Filter, FrozenFilter, Patch
from repairkit.graph.baking import bake, infer_patch, representable, revert
from repairkit.graph.coalitions.masking import mask_name, mask_shape
from repairkit.graph.kinds.sites import instrument, survey
from repairkit.graph.stored.tensors import dense_array
from repairkit.jobs.look.inspection import inspect
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests.models import images
from tests.running import run

KINDS = [kind for kind in TensorProto.DataType.keys() if kind != "UNDEFINED"]  # noqa: SIM118
KERNEL = (5, 2, 3, 3)  # 90 numbers: the last byte of packed ones is not full


def _stored(kind: str, *, raw: bool) -> TensorProto:
    rng = np.random.default_rng(0)
    number = TensorProto.DataType.Value(kind)
    few = [0.0, 1.0] if kind.startswith(("UINT", "BOOL")) else [-1.0, 0.0, 1.0]
    values = rng.choice([1.0, 2.0] if kind == "FLOAT8E8M0" else few, np.prod(KERNEL))
    if kind == "STRING":
        return helper.make_tensor("stored", number, KERNEL, [b"%d" % v for v in values])
    tensor = helper.make_tensor("stored", number, KERNEL, values)
    return numpy_helper.from_array(numpy_helper.to_array(tensor), "stored") if raw else tensor


def _network(
    before: list[NodeProto], stored: list[TensorProto], weight: str, *, opset: int = 25
) -> ModelProto:
    nodes = [
        *before,
        helper.make_node("Conv", ["image", weight], ["y"], "conv"),
        helper.make_node("Relu", ["y"], ["act"], "act"),
        helper.make_node("GlobalAveragePool", ["act"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc"], ["logits"], "fc"),
    ]
    head = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    graph = helper.make_graph(
        nodes,
        "typed",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 2, 6, 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [*stored, numpy_helper.from_array(head, "fc")],
    )
    opsets = [helper.make_opsetid("", opset)]
    newest = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    return helper.make_model(graph, opset_imports=opsets, ir_version=newest)


def _ways(kind: str) -> list[ModelProto]:
    scales: dict[tuple[int, ...], dict[str, int]] = {
        (): {},
        (5,): {"axis": 0},
        (5, 1, 3, 3): {"axis": 1, "block_size": 2},
        (5, 2, 3, 2): {"axis": 3, "block_size": 2},
    }
    rng = np.random.default_rng(2)
    cast = helper.make_node("Cast", ["stored"], ["w"], "cast", to=TensorProto.FLOAT)
    found = [_network([cast], [_stored(kind, raw=raw)], "w") for raw in (True, False)]
    for number, (shape, settings) in enumerate(scales.items()):
        scale = numpy_helper.from_array(rng.uniform(0.1, 0.5, shape).astype("f"), "scale")
        dequantise = helper.make_node("DequantizeLinear", ["stored", "scale"], ["w"], **settings)
        stored = _stored(kind, raw=number % 2 == 0)
        found.append(_network([dequantise], [stored, scale], "w"))
    return found


def _runs(model: ModelProto) -> bool:
    try:
        run(model, {"image": images(1)})
    except Exception as error:  # noqa: BLE001 (the runtime's exceptions have no common base)
        return "onnxruntime" not in type(error).__module__
    return True


def _prove(model: ModelProto, site: str = "conv") -> None:
    """Freezing a filter equals masking it, is told from the files alone, and can be undone."""
    found = survey(model, include=() if site == "conv" else ["dense"])
    assert [s.name for s in found.sites] == [site]
    levels = representable(found, {site: np.full(5, 0.3, np.float32)})
    patch = Patch((FrozenFilter(Filter(site, 3), float(levels[site][3])),))
    baked = bake(found, patch)
    mask = np.ones(mask_shape(found.sites[0], 1), bool)
    mask.reshape(-1)[3] = False
    x = images(4)
    masked = run(
        instrument(model, found.sites, levels), {"image": x, mask_name(found.sites[0]): mask}
    )
    np.testing.assert_array_equal(run(baked.model, {"image": x})[0], masked[0])
    assert (
        infer_patch(survey(model, include=["dense"]), survey(baked.model, include=["dense"]))
        == patch
    )
    undone = revert(baked.model, baked.edits)
    assert undone.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_every_type_that_the_runtime_runs_can_be_frozen(kind: str) -> None:
    for model in _ways(kind):
        if _runs(model):
            _prove(model)
            continue
        found = survey(model)  # what the runtime refuses is read too, or left out with a reason
        assert found.sites or [x.reason for x in found.left_out if x.name == "conv"]


@pytest.mark.parametrize("kind", ["INT8", "UINT16", "UINT4", "INT2", "FLOAT8E5M2"])
def test_weights_that_are_quantised_in_the_graph_can_be_frozen(kind: str) -> None:
    number = TensorProto.DataType.Value(kind)
    stored = [
        numpy_helper.from_array(_kernel(), "k"),
        numpy_helper.from_array(np.linspace(0.1, 0.5, 5, dtype=np.float32), "scale"),
        helper.make_tensor("zero", number, [5], [0] * 5),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["k", "scale", "zero"], ["q"], axis=0),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=0),
    ]
    model = _network(nodes, stored, "w")
    assert _runs(model)
    _prove(model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_any_type_is_inspected(kind: str, tmp_path: Path) -> None:
    """Input, weights and output are all of the type, which the runtime may not run."""
    number = TensorProto.DataType.Value(kind)
    model = _network([], [_stored(kind, raw=False)], "stored")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = number
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    found = inspect(read_subject(path), Settings())
    if kind in ("FLOAT", "FLOAT16", "DOUBLE"):
        assert [s.site.name for s in found.sites] == ["conv"]
    else:
        reasons = [x.reason for x in found.left_out if x.name == "conv"]
        assert reasons == [f"its weights are of type {_name(number)}, which cannot hold a constant"]


def _name(number: int) -> str:
    return str(helper.tensor_dtype_to_np_dtype(number).name)


def test_spare_bits_of_packed_weights_come_back() -> None:
    stored = _stored("INT4", raw=True)
    odd = numpy_helper.from_array(numpy_helper.to_array(stored).reshape(-1)[:45], "stored")
    odd.raw_data = odd.raw_data[:-1] + bytes([odd.raw_data[-1] & 0x0F | 0xA0])
    nodes = [
        helper.make_node("Cast", ["stored"], ["line"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["line", "shape"], ["w"], "reshape"),
    ]
    shape = numpy_helper.from_array(np.array([5, 1, 3, 3]), "shape")
    model = _network(nodes, [odd, shape], "w")
    baked = bake(survey(model), Patch((FrozenFilter(Filter("conv", 4), 0.0),)))
    assert baked.model.graph.initializer[0].raw_data[-1] == 0xA0
    assert revert(baked.model, baked.edits).SerializeToString(
        deterministic=True
    ) == model.SerializeToString(deterministic=True)


def _kernel() -> NDArray[np.float32]:
    kernel = np.random.default_rng(3).standard_normal(KERNEL).astype(np.float32)
    kernel[np.abs(kernel) < 0.5] = 0
    return kernel


def _sparse(array: NDArray[np.float32], name: str, *, flat: bool = True) -> onnx.SparseTensorProto:
    places = np.flatnonzero(array)
    where = places if flat else np.argwhere(array)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(array.reshape(-1)[places], name),
        numpy_helper.from_array(where.astype(np.int64), f"{name}_places"),
        array.shape,
    )


def _constant(output: str, **value: object) -> NodeProto:
    return helper.make_node("Constant", [], [output], f"make_{output}", **value)


def _chains() -> dict[str, tuple[list[NodeProto], dict[str, NDArray]]]:
    """Nodes that make a kernel `w`, and what they read."""
    k = _kernel()
    node = helper.make_node
    flat = [float(v) for v in k.reshape(-1)]
    return {
        "numbers in an attribute": (
            [_constant("l", value_floats=flat), node("Reshape", ["l", "shape"], ["w"])],
            {"shape": np.array(KERNEL)},
        ),
        "a shape in an attribute": (
            [_constant("s", value_ints=KERNEL), node("Reshape", ["k", "s"], ["w"])],
            {"k": k.reshape(-1)},
        ),
        "a number in an attribute": (
            [_constant("two", value_float=2.0), node("Mul", ["k", "two"], ["w"])],
            {"k": k},
        ),
        "an index in an attribute": (
            [_constant("one", value_int=1), node("Gather", ["two", "one"], ["w"])],
            {"two": np.stack([k, k + 1])},
        ),
        "joined": ([node("Concat", ["a", "b"], ["w"], axis=0)], {"a": k[:2], "b": k[2:]}),
        "cut": (
            [node("Slice", ["k", "start", "end", "axis"], ["w"])],
            {
                "k": np.concatenate([k, k]),
                "start": np.array([5]),
                "end": np.array([10]),
                "axis": np.array([0]),
            },
        ),
        "of one number": (
            [
                node(
                    "ConstantOfShape",
                    ["shape"],
                    ["fill"],
                    value=numpy_helper.from_array(k[0, 0, 0, :1]),
                ),
                node("Add", ["fill", "k"], ["w"]),
            ],
            {"shape": np.array(KERNEL), "k": k},
        ),
        "through every move": (
            [
                node("Cast", ["k"], ["wide"], to=TensorProto.FLOAT),
                node("Unsqueeze", ["wide", "axes"], ["un"]),
                node("Squeeze", ["un", "axes"], ["sq"]),
                node("Transpose", ["sq"], ["tr"], perm=[3, 2, 0, 1]),
                node("Identity", ["tr"], ["id"]),
                node("Reshape", ["id", "shape"], ["w"]),
            ],
            {
                "k": np.ascontiguousarray(k.transpose(2, 3, 1, 0)).astype(np.float16),
                "axes": np.array([0]),
                "shape": np.array(KERNEL),
            },
        ),
        "chosen by what is known": (
            [node("Shape", ["k"], ["shape"]), node("Expand", ["k", "shape"], ["w"])],
            {"k": k},
        ),
    }


@pytest.mark.parametrize("chain", _chains())
def test_weights_made_by_constant_nodes_can_be_frozen(chain: str) -> None:
    nodes, held = _chains()[chain]
    stored = [numpy_helper.from_array(a, n) for n, a in held.items()]
    _prove(_network(nodes, stored, "w", opset=17))


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_weights_can_be_frozen(flat: bool) -> None:
    kernel = _kernel()
    made = _constant("w", sparse_value=_sparse(kernel, "w", flat=flat))
    as_node = _network([made], [], "w", opset=17)
    as_initializer = _network([], [], "w", opset=17)
    as_initializer.graph.sparse_initializer.append(_sparse(kernel, "w", flat=flat))
    for model in (as_node, as_initializer):
        _prove(model)
        np.testing.assert_array_equal(survey(model).constants.array("w"), kernel)


@pytest.mark.parametrize("how", ["sparse", "INT4", "FLOAT8E5M2"])
def test_dense_weights_of_rare_kinds_can_be_frozen(how: str) -> None:
    rng = np.random.default_rng(4)
    weights = np.rint(rng.normal(0, 2, (72, 5))).astype(np.float32)
    scales = numpy_helper.from_array(rng.uniform(0.1, 0.2, (5, 5)).astype("f"), "scale")
    stored = [scales]
    if how == "sparse":
        before = _constant("w", sparse_value=_sparse(weights, "w"))
    else:
        kind = TensorProto.DataType.Value(how)
        stored.append(helper.make_tensor("codes", kind, weights.shape, weights.reshape(-1)))
        before = helper.make_node(
            "DequantizeLinear", ["codes", "scale"], ["w"], axis=0, block_size=16
        )
    model = _network([before], stored, "w")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(5, np.float32), "bias"))
    tail = model.graph.node[-1]
    tail.input[0] = "act"
    nodes = [
        before,
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "bias"], ["y"], "dense"),
        helper.make_node("Relu", ["y"], ["act"]),
        NodeProto.FromString(tail.SerializeToString()),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _prove(model, "dense")


def test_a_sparse_tensor_outside_of_its_shape_leaves_its_layer_out() -> None:
    sparse = _sparse(_kernel(), "w")
    sparse.dims[0] = 1
    found = survey(_network([_constant("w", sparse_value=sparse)], [], "w"))
    assert "does not fit its shape (1, 2, 3, 3)" in found.left_out[0].reason
    assert not found.sites


def test_a_dense_array_of_a_sparse_tensor_holds_its_numbers_and_zeros() -> None:
    kernel = _kernel()
    for flat in (True, False):
        np.testing.assert_array_equal(dense_array(_sparse(kernel, "w", flat=flat)), kernel)
