"""Free the batch axis of a graph that was exported for one batch size, where that can be tried.

Whether each image keeps its output is not known here: the engine proves it on real images before it
uses such a graph.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from repairkit.graph import protos
from repairkit.graph.stored.constants import Constants

BATCH = "batch"
_AXES_AS_INPUT = 13  # the opset since which Squeeze reads its axes from an input


def fixed_batch(model: ModelProto, name: str) -> int | None:
    """The fixed size of an input's first axis; None where it is free."""
    value = next(i for i in model.graph.input if i.name == name)
    dims = value.type.tensor_type.shape.dim
    return int(dims[0].dim_value) if dims and dims[0].dim_value > 0 else None


def rebatch(
    model: ModelProto, name: str, step: int = 1, *, further: tuple[str, ...] = ()
) -> ModelProto:
    """A copy whose input `name`, inputs `further` and outputs have a free first axis.

    Constants that fix the batch at `step` take it from their input instead: the shapes of
    `Reshape`, the sizes of `Resize`, the axis of `Flatten`, the axes of `Squeeze`, and constants
    that are joined to images (`Concat`).
    """
    result = protos.copied(model)
    index = protos.GraphIndex(model)
    work = _Work(result, index, Constants(index), step)
    for position, node in enumerate(index.nodes):
        free = _FREE.get(node.op_type)
        if free is not None and node.input and any(i in index.fed for i in node.input):
            free(work, position, node)
    if work.before:
        pairs = enumerate(result.graph.node)
        protos.refill(
            result.graph.node, (n for p, node in pairs for n in (*work.before.get(p, []), node))
        )
    for value in (*result.graph.input, *result.graph.output):
        if value.name in (name, *further) or value.name in index.outputs:
            dims = value.type.tensor_type.shape.dim
            if dims:
                dims[0].dim_param = BATCH
            if value.name in index.outputs and work.rank_changed:
                value.type.tensor_type.ClearField("shape")
    result.ir_version = max(result.ir_version, protos.DEFAULTS_SINCE)
    # Recorded shapes would still claim the old batch.
    del result.graph.value_info[:]
    return result


@dataclass
class _Work:
    """A copy that is being changed, and the nodes to insert before some of its nodes.

    `rank_changed`: a tensor kept a batch axis that the original loses.
    """

    result: ModelProto
    index: protos.GraphIndex
    constants: Constants
    step: int
    before: dict[int, list[NodeProto]] = field(default_factory=dict)
    rank_changed: bool = False

    @property
    def opset(self) -> int:
        return next(o.version for o in self.index.model.opset_import if o.domain in protos.STANDARD)

    def constant(self, node: NodeProto, slot: int) -> NDArray[np.int64] | None:
        """The whole numbers that a node reads at `slot`; None where they are not constant."""
        numbers = self.constants.numbers(node, slot)
        return None if numbers is None else numbers.astype(np.int64)

    def store(self, array: NDArray[np.int64], name: str) -> str:
        self.result.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def batch_of(self, position: int, tensor: str, name: str) -> str:
        """A one-element tensor that holds the first axis of `tensor`, made before a node."""
        zero, one = (self.store(np.array([n], np.int64), f"{name}/{n}") for n in (0, 1))
        shape, batch = f"{name}/shape", f"{name}/batch"
        self.before.setdefault(position, []).extend(
            [
                helper.make_node("Shape", [tensor], [shape]),
                helper.make_node("Slice", [shape, zero, one], [batch])
                if self.opset >= 10
                else helper.make_node("Slice", [shape], [batch], starts=[0], ends=[1]),
            ]
        )
        return batch


def _free_reshape(work: _Work, position: int, node: NodeProto) -> None:
    shape = work.constant(node, 1)
    if (
        node.input[0] not in work.index.fed
        or shape is None
        or protos.int_attribute(node, "allowzero", 0)
    ):
        return
    if shape.size == 0 or shape[0] <= 0:
        return
    shape = shape.copy()
    if -1 not in shape:
        shape[0] = -1  # also where the batch was merged with another axis
    elif shape[0] == work.step:
        shape[0] = 0  # copied from the input's first axis
    else:
        return
    fresh = work.store(shape, f"{node.output[0]}/batched_shape")
    work.result.graph.node[position].input[1] = fresh


def _free_resize(work: _Work, position: int, node: NodeProto) -> None:
    sizes = work.constant(node, 3)
    if sizes is None or node.input[0] not in work.index.fed or sizes.size < 2:
        return
    name = f"{node.output[0]}/batched_sizes"
    rest = work.store(sizes[1:], f"{name}/rest")
    batch = work.batch_of(position, node.input[0], name)
    work.before[position].append(helper.make_node("Concat", [batch, rest], [name], axis=0))
    work.result.graph.node[position].input[3] = name


def _free_flatten(work: _Work, position: int, node: NodeProto) -> None:
    axis = protos.attribute(node, "axis")
    if axis is not None and axis.i == 0:
        flatten = work.result.graph.node[position]
        next(a for a in flatten.attribute if a.name == "axis").i = 1


def _free_squeeze(work: _Work, position: int, node: NodeProto) -> None:
    """Keep the batch axis; without axes, the recorded shape shows which are removed."""
    given = protos.attribute(node, "axes")
    axes = work.constant(node, 1) if given is None else np.array(given.ints, np.int64)
    if axes is None:
        recorded = {v.name: v for v in work.index.graph.value_info}.get(node.input[0])
        if len(node.input) > 1 or recorded is None:
            return
        dims = recorded.type.tensor_type.shape.dim
        axes = np.array([a for a, d in enumerate(dims) if d.dim_value == 1], np.int64)
    kept = axes[axes != 0]
    if kept.size == axes.size and given is not None:
        return
    work.rank_changed = True
    squeeze = work.result.graph.node[position]
    del squeeze.attribute[:]
    del squeeze.input[1:]
    if not kept.size:
        squeeze.op_type = "Identity"
    elif work.opset >= _AXES_AS_INPUT:
        squeeze.input.append(work.store(kept, f"{node.output[0]}/batched_axes"))
    else:
        squeeze.attribute.append(helper.make_attribute("axes", kept.tolist()))


def _free_concat(work: _Work, position: int, node: NodeProto) -> None:
    """Repeat constants along the batch, such as the class token of a transformer."""
    if protos.int_attribute(node, "axis", 0) == 0:
        return
    fed = next(i for i in node.input if i in work.index.fed)
    for slot, name in enumerate(node.input):
        if name in work.index.fed or name not in work.index.constant:
            continue
        shape = work.constants.array(name).shape
        if not shape or shape[0] != 1 or work.step != 1:
            continue
        repeated = f"{node.output[0]}/batched_{slot}"
        ones = work.store(np.ones(len(shape) - 1, np.int64), f"{repeated}/ones")
        batch = work.batch_of(position, fed, repeated)
        work.before[position] += [
            helper.make_node("Concat", [batch, ones], [f"{repeated}/repeats"], axis=0),
            helper.make_node("Tile", [name, f"{repeated}/repeats"], [repeated]),
        ]
        work.result.graph.node[position].input[slot] = repeated


_FREE: dict[str, Callable[[_Work, int, NodeProto], None]] = {
    "Reshape": _free_reshape,
    "Resize": _free_resize,
    "Flatten": _free_flatten,
    "Squeeze": _free_squeeze,
    "Concat": _free_concat,
}
