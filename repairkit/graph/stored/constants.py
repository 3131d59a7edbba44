"""Constant tensors of a graph: what they hold, and how some elements are written in place.

A weight may reach its layer through `Identity`, `Transpose`, `Reshape`, `Cast` or
`DequantizeLinear`. A write goes the same way backwards: positions are mapped by running the
operator on a tensor of positions, values by inverting `Cast` and `DequantizeLinear`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repairkit.core import errors, suite
from repairkit.graph import protos
from repairkit.graph.stored import tensors

_NOTHING: Mapping[str, suite.Array] = {}
_MOVES = {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
_WRITTEN_THROUGH = {*_MOVES, "Cast", "DequantizeLinear"}


@dataclass(frozen=True)
class Storage:
    """A stored tensor. `shared`: something else reads it, or a step on the way to the layer."""

    kind: str  # "initializer" or "constant" (a Constant node)
    name: str
    shared: bool


@dataclass(frozen=True)
class Write:
    """Elements to write into a storage: flat positions and the stored values there."""

    storage: Storage
    positions: NDArray[np.int64]
    values: suite.Array


class Constants:
    """Values and storages of a graph's constant tensors."""

    def __init__(self, index: protos.GraphIndex) -> None:
        self.index = index

    def array(self, name: str, stored: Mapping[str, suite.Array] = _NOTHING) -> suite.Array:
        """The value of a tensor of `index.constant`, computed from the file.

        `stored` gives other contents for some of the stored tensors.
        """
        if name in stored:
            return stored[name]
        if name in self.index.initializers:
            return tensors.array_of(self.index.initializers[name])
        if name in self.index.sparse_initializers:
            return tensors.dense_array(self.index.sparse_initializers[name])
        node = self.index.nodes[self.index.producers[name]]
        if node.op_type == "Constant" and (tensor := tensors.constant_tensor(node)) is not None:
            return tensors.array_of(tensor)
        if (
            node.op_type == "Constant"
            and (held := protos.attribute(node, "sparse_value")) is not None
        ):
            return tensors.dense_array(held.sparse_tensor)
        if node.op_type == "DequantizeLinear":
            return self._dequantised(node, stored)
        feeds = {i: self.array(i, stored) for i in node.input if i}
        made = tensors.fold(node, feeds, self.index.model.opset_import)
        return made[list(node.output).index(name)]

    def numbers(self, node: NodeProto, slot: int) -> suite.Array | None:
        """What a node reads at `slot`; None where that is nothing or is not constant."""
        if len(node.input) <= slot or node.input[slot] not in self.index.constant:
            return None
        return self.array(node.input[slot])

    def integers(self, node: NodeProto, name: str, slot: int) -> NDArray[np.int64] | None:
        """Whole numbers, flat, of the attribute `name`, or of the input `slot` in newer opsets.

        None where there are none, or they are not constant.
        """
        given = protos.ints_attribute(node, name)
        if given is not None:
            return np.array(given, np.int64)
        numbers = self.numbers(node, slot)
        if numbers is None or numbers.dtype.kind not in "iu":
            return None
        return numbers.reshape(-1).astype(np.int64)

    def _dequantised(self, node: NodeProto, stored: Mapping[str, suite.Array]) -> suite.Array:
        """Real numbers as the runtime makes them: in 32 bits, then rounded to the result's type."""
        codes = self.array(node.input[0], stored)
        scale, zero = self._quantisation(node)
        made = protos.int_attribute(node, "output_dtype", 0)
        width = helper.tensor_dtype_to_np_dtype(made) if made else self.array(node.input[1]).dtype
        levels = (codes.reshape(-1).astype(np.float64) - zero).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            return (levels * scale.astype(np.float32)).astype(width).reshape(codes.shape)

    def read_back(self, name: str, write: Write) -> suite.Array:
        """The flat value of `name` once `write` is done."""
        contents = self.array(write.storage.name).copy()
        contents.reshape(-1)[write.positions] = write.values
        return self.array(name, {write.storage.name: contents}).reshape(-1)

    def as_stored(self, name: str, wanted: NDArray[np.float64]) -> suite.Array:
        """`wanted`, flat, one number per element, as `name` reads it back once it is stored."""
        write = self.write(name, np.arange(len(wanted)), wanted)
        if write is None or write.storage.shared:
            return wanted.astype(self.array(name).dtype)
        return self.read_back(name, write)

    def write(
        self, name: str, positions: NDArray[np.int64], values: NDArray[np.float64]
    ) -> Write | None:
        """What to store so that `name` holds `values` (rounded if need be) at flat `positions`.

        None where the tensor is computed in a way that cannot be inverted.
        """
        shared = len(self.index.readers.get(name, [])) > 1 or name in self.index.outputs
        if name in self.index.initializers:
            tensor = self.index.initializers[name]
            storage = Storage("initializer", name, shared or tensors.is_outside(tensor))
            return _write(storage, positions, values, tensor.data_type)
        if name in self.index.sparse_initializers:
            return None
        node = self.index.nodes[self.index.producers[name]]
        if node.op_type == "Constant":
            stored = tensors.constant_tensor(node)
            if stored is None:
                return None
            storage = Storage("constant", name, shared or tensors.is_outside(stored))
            return _write(storage, positions, values, stored.data_type)
        if node.domain not in protos.STANDARD:
            return None
        inner = self._through(node, positions, values)
        write = None if inner is None else self.write(node.input[0], *inner)
        if write is None or not shared:
            return write
        return replace(write, storage=replace(write.storage, shared=True))

    def _through(
        self, node: NodeProto, positions: NDArray[np.int64], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """Positions and values in a node's first input; None where it cannot be inverted."""
        if node.op_type in _MOVES:
            source = self.array(node.input[0])
            feeds = {i: self.array(i) for i in node.input[1:] if i}
            feeds[node.input[0]] = np.arange(source.size, dtype=np.int64).reshape(source.shape)
            made = tensors.fold(node, feeds, self.index.model.opset_import)
            return made[0].reshape(-1)[positions], values
        if node.op_type == "Cast":
            return positions, values
        if node.op_type == "DequantizeLinear":
            scale, zero = self._quantisation(node)
            low, high, whole = tensors.code_limits(self.array(node.input[0]).dtype)
            codes = values / scale[positions]
            codes = (np.rint(codes) if whole else codes) + zero[positions]
            return positions, np.clip(codes, low, high)
        return None

    def _quantisation(self, node: NodeProto) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and zero point of every element, flat.

        Raises:
            ModelError: they do not fit the codes.
        """
        codes = self.array(node.input[0])
        tensors.code_limits(codes.dtype)
        axis, block = (
            protos.int_attribute(node, "axis", 1),
            protos.int_attribute(node, "block_size", 0),
        )
        has_zero = len(node.input) > 2 and node.input[2]
        zeros = self.array(node.input[2]) if has_zero else np.zeros(1)
        spread = []
        for values in (self.array(node.input[1]), zeros):
            each = _spread(values, codes.shape, axis, block)
            if each is None:
                raise errors.ModelError(
                    f"{node.output[0]!r} is dequantised by {values.size} scales, which do not "
                    f"fit its shape {codes.shape}"
                )
            spread.append(each)
        return spread[0], spread[1]


def _spread(
    values: suite.Array, shape: tuple[int, ...], axis: int, block: int
) -> NDArray[np.float64] | None:
    """Scales or zero points, one for every element of codes and flat; None where they do not fit.

    `values` holds one, one for each index along `axis`, or one for each `block` of indices. A block
    of 0 is none.
    """
    numbers = values.astype(np.float64)
    if numbers.size == 1:
        return np.broadcast_to(numbers.reshape(()), shape).reshape(-1)
    if not -len(shape) <= axis < len(shape) or block < 0:
        return None
    axis %= len(shape)
    n_groups = -(-shape[axis] // block) if block else shape[axis]
    if block:
        if numbers.shape != (*shape[:axis], n_groups, *shape[axis + 1 :]):
            return None
        numbers = np.take(numbers, np.arange(shape[axis]) // block, axis)
    elif numbers.size == n_groups:
        numbers = numbers.reshape([n_groups if a == axis else 1 for a in range(len(shape))])
    else:
        return None
    return np.broadcast_to(numbers, shape).reshape(-1)


def why_copied(index: protos.GraphIndex, name: str) -> str:
    """Why a node has to read a copy of a tensor where `Constants.write` cannot change it alone."""
    steps = [name]
    while steps[-1] in index.producers and index.nodes[index.producers[steps[-1]]].input:
        steps.append(index.nodes[index.producers[steps[-1]]].input[0])
    for step in steps:
        if len(index.readers.get(step, [])) > 1:
            return f"{step!r} is read elsewhere, too"
        if step in index.outputs:
            return f"{step!r} is an output of the model"
    makers = [index.nodes[index.producers[step]] for step in steps if step in index.producers]
    for maker in makers:
        standard = maker.domain in protos.STANDARD and maker.op_type in _WRITTEN_THROUGH
        if maker.op_type != "Constant" and not standard:
            return f"{maker.output[0]!r} is computed by {maker.op_type}"
    held = index.initializers.get(steps[-1])
    if held is None and makers:
        held = tensors.constant_tensor(makers[-1])
    if held is None:
        return f"{steps[-1]!r} is sparse"
    if tensors.is_outside(held):
        return f"{steps[-1]!r} lies in a file of its own"
    return f"the type of {steps[-1]!r} cannot hold the new numbers"


def _write(
    storage: Storage, positions: NDArray[np.int64], values: NDArray[np.float64], data_type: int
) -> Write | None:
    """The write, if the stored type can hold the values and this version of onnx can write it."""
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    # Older versions read the rarer types as wider ones, and would write those.
    writes = numpy_helper.from_array(np.zeros(0, dtype)).data_type == data_type
    if not writes or not tensors.holds(values, dtype):
        return None
    return Write(storage, positions, values.astype(dtype))


def stored_tensor(model: ModelProto, kind: str, name: str) -> TensorProto | None:
    """The stored tensor of a `Storage` in any model; None where the model has none of that name."""
    if kind == "initializer":
        return next((t for t in model.graph.initializer if t.name == name), None)
    makers = (node for node in model.graph.node if name in node.output)
    return next((t for node in makers if (t := tensors.constant_tensor(node)) is not None), None)


# Sparse tensors


def with_dense_tensors(model: ModelProto) -> ModelProto:
    """A copy whose sparse tensors are dense, for tools that know no others; itself without any.

    ONNX Runtime also makes them dense.

    Raises:
        ModelError: a position lies outside a tensor's shape.
    """
    if next(protos.sparse_tensors(model), None) is None:
        return model
    result = protos.copied(model)
    for graph in protos.graphs_of(result):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(
                numpy_helper.from_array(tensors.dense_array(sparse), sparse.values.name)
            )
        del graph.sparse_initializer[:]
        for node in graph.node:
            for position, held in enumerate(node.attribute):
                if node.op_type == "Constant" and held.name == "sparse_value":
                    dense = numpy_helper.from_array(tensors.dense_array(held.sparse_tensor))
                    node.attribute[position].CopyFrom(helper.make_attribute("value", dense))
    return result
