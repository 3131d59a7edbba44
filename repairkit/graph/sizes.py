"""Sizes of all tensors of a model for a batch of a few images.

Shape inference alone does not follow sizes that the graph computes: an exporter may write the
number of positions as a division of one size by another. Here each node is asked in order, and what
is computed from known sizes is computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from repairkit.core.errors import ModelError
from repairkit.graph.protos import STANDARD, dims_of, subgraphs
from repairkit.graph.stored.tensors import fold

Sizes = Mapping[str, tuple[int | None, ...]]
_MOST_NUMBERS = 256  # of a tensor that may hold sizes


def sizes_of(model: ModelProto, n_images: int) -> Sizes:
    """The sizes of tensors, as far as they follow from those of the inputs; None for an open one.

    Args:
        model: never modified.
        n_images: how many images are in a batch, where the model takes any number.
    """
    return _Following(model, n_images).sizes()


class _Following:
    """Types and small values of tensors, found node by node."""

    def __init__(self, model: ModelProto, n_images: int) -> None:
        graph = model.graph
        self._model = model
        self._opsets = {o.domain: o.version for o in model.opset_import}
        self._types: dict[str, TypeProto] = {}
        self._values: dict[str, NDArray[np.generic]] = {}
        for tensor in graph.initializer:
            kind = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            self._types[tensor.name] = kind
            if math.prod(tensor.dims) <= _MOST_NUMBERS and not tensor.external_data:
                self._values[tensor.name] = numpy_helper.to_array(tensor)
        for value in graph.input:
            if value.name not in self._types:
                self._types[value.name] = _with_images(value.type, n_images)

    def sizes(self) -> Sizes:
        for node in self._model.graph.node:
            self._follow(node)
        infos = (helper.make_value_info(name, kind) for name, kind in self._types.items())
        return {info.name: dims for info in infos if (dims := dims_of(info)) is not None}

    def _follow(self, node: NodeProto) -> None:
        known = all(name in self._types for name in node.input if name)
        if not known or node.domain not in STANDARD or subgraphs(node):
            return
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset, "")
            outputs = onnx.shape_inference.infer_node_outputs(
                schema,
                node,
                {name: self._types[name] for name in node.input if name},
                {name: self._tensor(name) for name in node.input if name in self._values},
                opset_imports=list(self._model.opset_import),
                ir_version=self._model.ir_version,
            )
        except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError):
            return  # what follows is not known either
        self._types.update(outputs)
        self._compute(node)

    @property
    def _opset(self) -> int:
        return next((self._opsets[d] for d in STANDARD if d in self._opsets), 1)

    def _tensor(self, name: str) -> TensorProto:
        return numpy_helper.from_array(self._values[name], name)

    def _compute(self, node: NodeProto) -> None:
        """The values of a node's outputs, where its inputs are known."""
        if node.op_type == "Shape":
            info = helper.make_value_info(node.input[0], self._types[node.input[0]])
            dims = dims_of(info)
            if dims is None or None in dims:
                return
            bounds = {a.name: a.i for a in node.attribute}
            sizes = np.array(dims, np.int64)[bounds.get("start", 0) : bounds.get("end")]
            self._values[node.output[0]] = sizes
            return
        if not all(name in self._values for name in node.input if name):
            return
        feeds = {name: self._values[name] for name in node.input if name}
        try:
            answers = fold(node, feeds, self._model.opset_import)
        except ModelError:
            return  # too large for sizes, or an operator that nobody needs for them
        for name, answer in zip((o for o in node.output if o), answers, strict=True):
            if answer.size <= _MOST_NUMBERS:
                self._values[name] = answer
            kind = self._types[name].tensor_type.elem_type
            self._types[name] = helper.make_tensor_type_proto(kind, answer.shape)


def _with_images(kind: TypeProto, n_images: int) -> TypeProto:
    """The type of an input, with a number of images where the first size is open."""
    result = TypeProto()
    result.CopyFrom(kind)
    dims = result.tensor_type.shape.dim
    if dims and dims[0].dim_value < 1:
        dims[0].dim_value = n_images
    return result
