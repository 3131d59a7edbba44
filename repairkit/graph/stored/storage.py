"""Where a constant tensor is really stored, and how to write a few of its elements in place.

A weight may reach its layer through `Identity`, `Transpose`, `Reshape`, `Cast` or
`DequantizeLinear`. Writing goes the same way backwards: positions are mapped by running the
operator on a tensor of positions, values by inverting `Cast` and `DequantizeLinear`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError
from repairkit.graph.index import GraphIndex, attribute, int_attribute
from repairkit.graph.number_types import code_limits, holds
from repairkit.graph.stored.external import bits_of
from repairkit.graph.stored.folding import fold
from repairkit.graph.stored.outside import array_of, is_outside
from repairkit.graph.stored.sparse import dense_array

_NOTHING: Mapping[str, Array] = {}
_MOVES = {"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}


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
    values: Array


class Constants:
    """Values and storages of a graph's constant tensors."""

    def __init__(self, index: GraphIndex) -> None:
        self.index = index

    def array(self, name: str, stored: Mapping[str, Array] = _NOTHING) -> Array:
        """The value of a tensor of `index.constant`, computed from the file.

        `stored` gives other contents for some of the stored tensors.
        """
        if name in stored:
            return stored[name]
        if name in self.index.initializers:
            return array_of(self.index.initializers[name])
        if name in self.index.sparse_initializers:
            return dense_array(self.index.sparse_initializers[name])
        node = self.index.nodes[self.index.producers[name]]
        if node.op_type == "Constant" and (tensor := constant_tensor(node)) is not None:
            return array_of(tensor)
        if node.op_type == "Constant" and (held := attribute(node, "sparse_value")) is not None:
            return dense_array(held.sparse_tensor)
        if node.op_type == "DequantizeLinear":
            return self._dequantised(node, stored)
        feeds = {i: self.array(i, stored) for i in node.input if i}
        return self._run(node, feeds)[list(node.output).index(name)]

    def _dequantised(self, node: NodeProto, stored: Mapping[str, Array]) -> Array:
        """As the runtime does it: in 32 bits, then rounded to the type of the result."""
        codes = self.array(node.input[0], stored)
        scale, zero = self._quantisation(node)
        made = int_attribute(node, "output_dtype", 0)
        width = helper.tensor_dtype_to_np_dtype(made) if made else self.array(node.input[1]).dtype
        levels = (codes.reshape(-1).astype(np.float64) - zero).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            return (levels * scale.astype(np.float32)).astype(width).reshape(codes.shape)

    def read_back(self, name: str, write: Write) -> Array:
        """The flat value of `name` once `write` is done."""
        contents = self.array(write.storage.name).copy()
        contents.reshape(-1)[write.positions] = write.values
        return self.array(name, {write.storage.name: contents}).reshape(-1)

    def _run(self, node: NodeProto, feeds: dict[str, Array]) -> list[Array]:
        return fold(node, feeds, self.index.model.opset_import)

    def write(
        self, name: str, positions: NDArray[np.int64], values: NDArray[np.float64]
    ) -> Write | None:
        """What to store so that `name` holds `values` (rounded if need be) at flat `positions`.

        None where the tensor is computed in a way that cannot be inverted.
        """
        shared = len(self.index.readers.get(name, [])) > 1 or name in self.index.outputs
        if name in self.index.initializers:
            tensor = self.index.initializers[name]
            shared = shared or is_outside(tensor)
            storage = Storage("initializer", name, shared)
            return _written(storage, positions, values, tensor.data_type)
        if name in self.index.sparse_initializers:
            return None
        node = self.index.nodes[self.index.producers[name]]
        if node.op_type == "Constant":
            stored = constant_tensor(node)
            if stored is None:
                return None
            shared = shared or is_outside(stored)
            storage = Storage("constant", name, shared)
            return _written(storage, positions, values, stored.data_type)
        if node.domain not in ("", "ai.onnx"):
            return None
        inner = self._through(node, positions, values)
        if inner is None:
            return None
        found = self.write(node.input[0], *inner)
        if found is None or not shared:
            return found
        return Write(
            Storage(found.storage.kind, found.storage.name, True), found.positions, found.values
        )

    def _through(
        self, node: NodeProto, positions: NDArray[np.int64], values: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        if node.op_type in _MOVES:
            source = self.array(node.input[0])
            feeds = {i: self.array(i) for i in node.input[1:] if i}
            feeds[node.input[0]] = np.arange(source.size, dtype=np.int64).reshape(source.shape)
            return self._run(node, feeds)[0].reshape(-1)[positions], values
        if node.op_type == "Cast":
            return positions, values
        if node.op_type == "DequantizeLinear":
            scale, zero = self._quantisation(node)
            low, high, whole = code_limits(self.array(node.input[0]).dtype)
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
        code_limits(codes.dtype)
        axis, block = int_attribute(node, "axis", 1), int_attribute(node, "block_size", 0)

        has_zero = len(node.input) > 2 and node.input[2]
        found = []
        for values in (
            self.array(node.input[1]),
            self.array(node.input[2]) if has_zero else np.zeros(1),
        ):
            spread = _spread(values, codes.shape, axis, block)
            if spread is None:
                raise ModelError(
                    f"{node.output[0]!r} is dequantised by {values.size} scales, which do not "
                    f"fit its shape {codes.shape}"
                )
            found.append(spread)
        return found[0], found[1]


def _spread(
    values: Array, shape: tuple[int, ...], axis: int, block: int
) -> NDArray[np.float64] | None:
    """Scales or zero points, one for every element and flat; None where they do not fit.

    Args:
        values: one, one for each index along `axis`, or one for each `block` of indices.
        shape: of the codes.
        axis: of the codes.
        block: 0 where there are no blocks.
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


def _written(
    storage: Storage, positions: NDArray[np.int64], values: NDArray[np.float64], data_type: int
) -> Write | None:
    """The write, if the stored type can hold the values and this version of onnx can write it."""
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    # Older versions read the rarer types as wider ones, and would write those.
    writes = numpy_helper.from_array(np.zeros(0, dtype)).data_type == data_type
    if not writes or not holds(values, dtype):
        return None
    return Write(storage, positions, values.astype(dtype))


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor of a `Constant` node, or None where it is written in another form."""
    found = attribute(node, "value")
    return None if found is None else found.t


def runs_of(positions: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Sorted flat positions as half-open ranges."""
    ordered = np.unique(positions)
    breaks = np.flatnonzero(np.diff(ordered) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(ordered, breaks)]


def store(tensor: TensorProto, write: Write) -> bytes:
    """Write elements into a stored tensor, in the field it uses already.

    Returns:
        The little-endian bytes that stood at `runs_of(write.positions)`.
    """
    array = numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    old = b"".join(flat[start:stop].tobytes() for start, stop in runs_of(write.positions))
    flat[write.positions] = write.values
    if tensor.HasField("raw_data"):
        tensor.raw_data = _packed(array, tensor)
    else:
        fresh = numpy_helper.from_array(array, tensor.name)
        typed = helper.make_tensor(
            tensor.name, tensor.data_type, tensor.dims, numpy_helper.to_array(fresh).reshape(-1)
        )
        field = helper.tensor_dtype_to_field(tensor.data_type)
        tensor.ClearField(field)
        getattr(tensor, field).extend(getattr(typed, field))
    return old


def _packed(array: Array, tensor: TensorProto) -> bytes:
    """An array as the raw data of a tensor, several numbers to a byte where its type says so."""
    fresh = bytearray(numpy_helper.from_array(array).raw_data)
    spare = 8 * len(fresh) - array.size * bits_of(tensor.data_type)
    if spare > 0:  # bits that no number uses stay as they were
        mask = 0xFF << (8 - spare) & 0xFF
        fresh[-1] = fresh[-1] & ~mask | tensor.raw_data[-1] & mask
    return bytes(fresh)
