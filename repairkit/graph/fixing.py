"""Make a model depend on its images alone: fix its other inputs, and seed its random numbers.

Also the size of its images, where its nodes do not depend on that.
"""

import re
import zlib
from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from repairkit.core.suite import Array
from repairkit.graph import protos

_EXPAND_SINCE = 8
_SLICE_READS_INPUTS_SINCE = 10
_RUNNING = re.compile(r"running (\w+) node\. Name:'([^']*)'")
_LOADING = re.compile(r"Node \(([^)]*)\) Op \((\w+)\)")


def with_constants(
    model: ModelProto, constants: Mapping[str, Array], *, image: str, repeated: set[str]
) -> ModelProto:
    """A copy in which some inputs are constants.

    Args:
        model: never modified.
        constants: by the name of the input.
        image: the image input.
        repeated: names of inputs whose first axis is the images: their one row is repeated for
            every image of a run.
    """
    result = protos.copied(model)
    graph = result.graph
    kept = [value for value in graph.input if value.name not in constants]
    if model.ir_version < protos.DEFAULTS_SINCE:  # then initializers must stay constant
        names = {tensor.name for tensor in graph.initializer}
        kept = [value for value in kept if value.name not in names]
    protos.refill(graph.input, kept)
    protos.refill(graph.initializer, (t for t in graph.initializer if t.name not in constants))
    version = protos.opset_of(model, default=1)
    taken = protos.GraphIndex(model).names
    nodes = []
    for name, array in constants.items():
        if name not in repeated or version < _EXPAND_SINCE:
            graph.initializer.append(numpy_helper.from_array(array, name))
            continue
        parts = {part: protos.fresh_name(f"{name}/{part}", taken) for part in _PARTS}
        taken.update(parts.values())
        sizes = np.array(array.shape[1:], np.int64)
        ends = np.arange(2, dtype=np.int64)
        stored = {"row": array, "sizes": sizes, "0": ends[:1], "1": ends[1:]}
        for part, held in stored.items():
            graph.initializer.append(numpy_helper.from_array(held, parts[part]))
        nodes += _repeating(parts, name, image, version)
    protos.refill(graph.node, [*nodes, *graph.node])
    result.ir_version = max(result.ir_version, protos.DEFAULTS_SINCE)
    return result


_PARTS = ("row", "sizes", "0", "1", "shape", "batch", "all")


def _repeating(parts: Mapping[str, str], made: str, image: str, version: int) -> list[NodeProto]:
    """Nodes that make the tensor `made`: one row, repeated for every image of a run."""
    shape, first, last, batch = (parts[part] for part in ("shape", "0", "1", "batch"))
    if version >= _SLICE_READS_INPUTS_SINCE:
        cut = helper.make_node("Slice", [shape, first, last], [batch])
    else:
        cut = helper.make_node("Slice", [shape], [batch], starts=[0], ends=[1])
    return [
        helper.make_node("Shape", [image], [shape]),
        cut,
        helper.make_node("Concat", [batch, parts["sizes"]], [parts["all"]], axis=0),
        helper.make_node("Expand", [parts["row"], parts["all"]], [made]),
    ]


# Seeds


_DRAWING = protos.RANDOM | {"Dropout"}
_DROPOUT_DRAWS_SINCE = 12


def seeded(model: ModelProto) -> ModelProto:
    """The model itself, or a copy in which each node's seed is made from the name of its output.

    Nodes that have a seed keep it. Nodes inside sub-graphs and functions stay as they are.
    """
    version = protos.opset_of(model, default=0)
    drawing = [
        position
        for position, node in enumerate(model.graph.node)
        if node.op_type in _DRAWING
        and node.domain in protos.STANDARD
        and protos.attribute(node, "seed") is None
        and (node.op_type != "Dropout" or version >= _DROPOUT_DRAWS_SINCE)
    ]
    if not drawing:
        return model
    copy = protos.copied(model)
    for position in drawing:
        node = copy.graph.node[position]
        number = zlib.crc32(node.output[0].encode()) % 2**20
        seed = number if node.op_type == "Dropout" else float(number)
        node.attribute.append(helper.make_attribute("seed", seed))
    return copy


def with_image_size(
    model: ModelProto, image: str, axes: tuple[int, int], size: tuple[int, int]
) -> ModelProto:
    """The model with an input of another size; sizes of tensors inside are no longer declared.

    Args:
        model: never modified.
        image: the name of the image input.
        axes: of its height and its width, batch axis included.
        size: (height, width) in pixels. Whether nodes depend on it is for the runtime to say, on an
            image; see `node_in`.
    """
    result = protos.copied(model)
    del result.graph.value_info[:]
    for value in result.graph.input:
        if value.name == image:
            for axis, pixels in zip(axes, size, strict=True):
                value.type.tensor_type.shape.dim[axis].dim_value = pixels
    return result


def node_in(complaint: str) -> str:
    """The node that the runtime names in a complaint, in words; empty if it names none."""
    running, loading = _RUNNING.search(complaint), _LOADING.search(complaint)
    if running:
        operator, name = running.groups()
    elif loading:
        name, operator = loading.groups()
    else:
        return ""
    return f"node {name!r} ({operator})" if name else f"a {operator} node"
