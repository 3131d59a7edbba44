"""Sparse weights: read as dense ones, which is also what ONNX Runtime makes of them."""

from __future__ import annotations

import math

import numpy as np
from onnx import GraphProto, ModelProto, SparseTensorProto, helper, numpy_helper

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError
from repairkit.graph.index import all_nodes, subgraphs


def dense_array(sparse: SparseTensorProto) -> Array:
    """A sparse tensor's numbers with the zeros between them.

    Raises:
        ModelError: a position lies outside of its shape.
    """
    shape = tuple(sparse.dims)
    values = numpy_helper.to_array(sparse.values).reshape(-1)
    places = numpy_helper.to_array(sparse.indices).astype(np.int64)
    try:
        if places.ndim == 2:
            places = np.ravel_multi_index(tuple(places.T), shape)
        array = np.zeros(math.prod(shape), values.dtype)
        if places.size and places.min() < 0:
            raise IndexError("a position is negative")
        array[places] = values
    except (IndexError, ValueError) as error:
        raise ModelError(
            f"the sparse tensor {sparse.values.name!r} does not fit its shape {shape} ({error})"
        ) from error
    return array.reshape(shape)


def with_dense_tensors(model: ModelProto) -> ModelProto:
    """A copy whose sparse tensors are dense, for tools that know no others; itself without any.

    Raises:
        ModelError: a position lies outside of a tensor's shape.
    """
    if not any(_is_sparse(graph) for graph in _graphs(model)):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    for graph in _graphs(result):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(
                numpy_helper.from_array(dense_array(sparse), sparse.values.name)
            )
        del graph.sparse_initializer[:]
        for node in graph.node:
            for position, held in enumerate(node.attribute):
                if node.op_type == "Constant" and held.name == "sparse_value":
                    dense = numpy_helper.from_array(dense_array(held.sparse_tensor))
                    node.attribute[position].CopyFrom(helper.make_attribute("value", dense))
    return result


def _is_sparse(graph: GraphProto) -> bool:
    held = (a.name for n in graph.node if n.op_type == "Constant" for a in n.attribute)
    return bool(graph.sparse_initializer) or "sparse_value" in held


def _graphs(model: ModelProto) -> list[GraphProto]:
    return [model.graph, *(g for node in all_nodes(model.graph) for g in subgraphs(node))]
