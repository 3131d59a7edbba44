"""Scores that `ZipMap` turns into dictionaries, read as the tensor that they were."""

from __future__ import annotations

from onnx import ModelProto, TensorProto, helper

from repairkit.graph.coalitions.tree_masks import with_standard_operators
from repairkit.graph.index import GraphIndex
from repairkit.graph.kinds.trees import DOMAIN


def without_zipmaps(model: ModelProto) -> ModelProto:
    """The model itself, or a copy in which every `ZipMap` passes its tensor on as it is.

    An output of the same name then has shape (n, n_classes) in place of n dictionaries.
    """
    if not any(n.op_type == "ZipMap" and n.domain == DOMAIN for n in model.graph.node):
        return model
    result = with_standard_operators(model)
    zipped: set[str] = set()
    for node in result.graph.node:
        if node.op_type == "ZipMap" and node.domain == DOMAIN:
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
            zipped.update(node.output)
    for position, value in enumerate(result.graph.output):
        if value.name in zipped:
            plain = helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [None, None])
            result.graph.output[position].CopyFrom(plain)
    return result


def zipped_outputs(index: GraphIndex) -> set[str]:
    """Outputs of the model that are made by a `ZipMap`."""
    return {
        o
        for node in index.nodes
        if node.op_type == "ZipMap" and node.domain == DOMAIN
        for o in node.output
        if o in index.outputs
    }
