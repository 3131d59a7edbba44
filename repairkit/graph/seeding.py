"""Give every node that draws random numbers a seed, so that two models can be compared."""

from __future__ import annotations

import zlib

from onnx import ModelProto, helper

from repairkit.graph.index import attribute

_DRAWING = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
    "Dropout",
}
_DROPOUT_DRAWS_SINCE = 12


def seeded(model: ModelProto) -> ModelProto:
    """The model itself, or a copy in which a node's seed follows from the name of its output.

    Nodes that have a seed keep it. Nodes inside sub-graphs and functions stay as they are.
    """
    version = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    drawing = [
        position
        for position, node in enumerate(model.graph.node)
        if node.op_type in _DRAWING
        and node.domain in ("", "ai.onnx")
        and attribute(node, "seed") is None
        and (node.op_type != "Dropout" or version >= _DROPOUT_DRAWS_SINCE)
    ]
    if not drawing:
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for position in drawing:
        node = copy.graph.node[position]
        number = zlib.crc32(node.output[0].encode()) % 2**20
        seed = number if node.op_type == "Dropout" else float(number)
        node.attribute.append(helper.make_attribute("seed", seed))
    return copy
