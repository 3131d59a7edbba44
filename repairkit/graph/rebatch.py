"""Give a graph that is fixed at batch 1 a free batch axis, where that can be tried.

Whether the result keeps each image's output is not known here: the engine proves it on real
images before it uses a re-batched graph.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, numpy_helper

from repairkit.graph.index import GraphIndex, int_attribute
from repairkit.graph.storage import Constants

BATCH = "batch"


def fixed_batch(model: ModelProto, name: str) -> int | None:
    """The fixed size of the first axis of an input, or None where it is free."""
    value = next(i for i in model.graph.input if i.name == name)
    dims = value.type.tensor_type.shape.dim
    return int(dims[0].dim_value) if dims and dims[0].dim_value > 0 else None


def rebatch(model: ModelProto, name: str) -> ModelProto:
    """A copy whose input `name` and outputs have a free first axis.

    Constant shapes that fix the batch (`Reshape` to 1, ...) take it from their input instead.
    """
    result = ModelProto()
    result.CopyFrom(model)
    index = GraphIndex(model)
    constants = Constants(index)
    for position, node in enumerate(index.nodes):
        if node.op_type != "Reshape" or node.input[0] not in index.fed:
            continue
        if len(node.input) < 2 or node.input[1] not in index.constant:
            continue
        shape = constants.array(node.input[1]).copy()
        if shape.size == 0 or shape[0] != 1 or int_attribute(node, "allowzero", 0):
            continue
        shape[0] = 0  # copied from the input's first axis
        fresh = f"{node.output[0]}/batched_shape"
        result.graph.node[position].input[1] = fresh
        result.graph.initializer.append(numpy_helper.from_array(shape.astype(np.int64), fresh))
    for value in (*result.graph.input, *result.graph.output):
        if value.name == name or value.name in index.outputs:
            dims = value.type.tensor_type.shape.dim
            if dims:
                dims[0].dim_param = BATCH
    # From version 4 on, an initializer need not be an input too.
    result.ir_version = max(result.ir_version, 4)
    # Recorded shapes would still claim the old batch.
    del result.graph.value_info[:]
    return result
