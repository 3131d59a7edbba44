"""Compute one node whose inputs are constant, if its result is known to be of sane size.

A file of a few hundred bytes can ask for a constant of terabytes (`ConstantOfShape`, `Expand`,
`Tile`), so the size is inferred before anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError

_MOST_BYTES = 1 << 29
# Inputs up to this size are handed to shape inference by value: shapes, repeats, axes.
_MOST_SHAPE_ELEMENTS = 64


def fold(
    node: NodeProto,
    feeds: Mapping[str, Array],
    opsets: Iterable[onnx.OperatorSetIdProto],
) -> list[Array]:
    """The outputs of a node.

    Args:
        node: one whose inputs are all given; it has no body inside.
        feeds: its inputs by name.
        opsets: of the model.

    Raises:
        ModelError: it cannot be computed, or its result is larger than any weight.
    """
    names = [o for o in node.output if o]
    infos = [helper.make_empty_tensor_value_info(n) for n in (*feeds, *names)]
    graph = helper.make_graph([node], "constant", infos[: len(feeds)], infos[len(feeds) :])
    model = helper.make_model(graph, opset_imports=list(opsets))
    try:
        _check_sizes(model, node, feeds)
        with np.errstate(all="ignore"):
            return [np.asarray(o) for o in ReferenceEvaluator(model).run(None, dict(feeds))]
    except Exception as error:  # the evaluator raises whatever a broken node makes it
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the constant {names[0] if names else ''!r}, made by {node.op_type}, cannot be "
            f"computed ({line}); fold constants when exporting the model"
        ) from error


def _check_sizes(model: ModelProto, node: NodeProto, feeds: Mapping[str, Array]) -> None:
    if node.op_type in _NEVER_GROWS and node.domain in ("", "ai.onnx"):
        return
    shaped = ModelProto()
    shaped.CopyFrom(model)
    del shaped.graph.input[:]
    for name, array in feeds.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        shaped.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        if array.size <= _MOST_SHAPE_ELEMENTS:
            shaped.graph.initializer.append(numpy_helper.from_array(array, name))
    inferred = shape_inference.infer_shapes(shaped, strict_mode=True, data_prop=True)
    values = {v.name: v for v in (*inferred.graph.output, *inferred.graph.value_info)}
    for name in (o for o in node.output if o):
        n_bytes = _bytes(values[name])
        if n_bytes is None:
            raise ValueError("its size is not known beforehand")
        if n_bytes > _MOST_BYTES:
            raise ValueError(f"it would take {n_bytes >> 20} MiB")


_NEVER_GROWS = {
    "Cast",
    "Flatten",
    "Identity",
    "Reshape",
    "Shape",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}


def _bytes(value: onnx.ValueInfoProto) -> int | None:
    kind = value.type.tensor_type
    if not kind.HasField("shape") or kind.elem_type == TensorProto.UNDEFINED:
        return None
    if not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    sizes = [dim.dim_value for dim in kind.shape.dim]
    width = max(1, helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize)
    return math.prod(sizes) * width
