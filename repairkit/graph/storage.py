"""Where a constant tensor is really stored, and how to write a few of its elements in place.

A weight may reach its layer through `Identity`, `Transpose`, `Reshape`, `Cast` or
`DequantizeLinear`. Writing goes the same way backwards: positions are mapped by running the
operator on a tensor of positions, values by inverting `Cast` and `DequantizeLinear`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from repairkit.core.errors import ModelError
from repairkit.graph.folding import fold
from repairkit.graph.index import GraphIndex, attribute, int_attribute
from repairkit.graph.outside import array_of, is_outside

_NOTHING: Mapping[str, NDArray[Any]] = {}
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
    values: NDArray[Any]


class Constants:
    """Values and storages of a graph's constant tensors."""

    def __init__(self, index: GraphIndex) -> None:
        self.index = index

    def array(self, name: str, stored: Mapping[str, NDArray[Any]] = _NOTHING) -> NDArray[Any]:
        """The value of a tensor of `index.constant`, computed from the file.

        `stored` gives other contents for some of the stored tensors.
        """
        if name in stored:
            return stored[name]
        if name in self.index.initializers:
            return array_of(self.index.initializers[name])
        node = self.index.nodes[self.index.producers[name]]
        if node.op_type == "Constant" and (tensor := constant_tensor(node)) is not None:
            return array_of(tensor)
        if node.op_type == "DequantizeLinear":
            codes = self.array(node.input[0], stored)
            scale, zero, _, _ = self._quantisation(node)
            levels = (codes.reshape(-1).astype(np.float64) - zero).astype(np.float32)
            with np.errstate(over="ignore", invalid="ignore"):  # as the runtime does
                return (levels * scale.astype(np.float32)).reshape(codes.shape)
        feeds = {i: self.array(i, stored) for i in node.input if i}
        return self._run(node, feeds)[list(node.output).index(name)]

    def read_back(self, name: str, write: Write) -> NDArray[Any]:
        """The flat value of `name` once `write` is done."""
        contents = self.array(write.storage.name).copy()
        contents.reshape(-1)[write.positions] = write.values
        return self.array(name, {write.storage.name: contents}).reshape(-1)

    def _run(self, node: NodeProto, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
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
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            return Write(Storage("initializer", name, shared), positions, values.astype(dtype))
        node = self.index.nodes[self.index.producers[name]]
        if node.op_type == "Constant":
            stored = constant_tensor(node)
            if stored is None:
                return None
            shared = shared or is_outside(stored)
            dtype = helper.tensor_dtype_to_np_dtype(stored.data_type)
            return Write(Storage("constant", name, shared), positions, values.astype(dtype))
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
        if node.op_type == "DequantizeLinear" and int_attribute(node, "block_size", 0) == 0:
            scale, zero, low, high = self._quantisation(node)
            quantised = np.rint(values / scale[positions]) + zero[positions]
            return positions, np.clip(quantised, low, high)
        return None

    def _quantisation(
        self, node: NodeProto
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
        """Scale and zero point of every element (flat), and the least and greatest code."""
        codes = self.array(node.input[0])
        axis = int_attribute(node, "axis", 1)

        def spread(values: NDArray[Any]) -> NDArray[np.float64]:
            values = np.asarray(values, np.float64)
            if values.size > 1:
                if not -codes.ndim <= axis < codes.ndim or values.size != codes.shape[axis]:
                    raise ModelError(
                        f"{node.output[0]!r} is dequantised by {values.size} scales, which do not "
                        f"fit its shape {codes.shape}"
                    )
                shape = [1] * codes.ndim
                shape[axis] = values.size
                values = values.reshape(shape)
            return np.broadcast_to(values, codes.shape).reshape(-1)

        has_zero = len(node.input) > 2 and node.input[2]
        zero = self.array(node.input[2]) if has_zero else np.zeros(1)
        limits = np.iinfo(codes.dtype)
        return spread(self.array(node.input[1])), spread(zero), limits.min, limits.max


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
        tensor.raw_data = array.tobytes()
    else:
        fresh = numpy_helper.from_array(array, tensor.name)
        typed = helper.make_tensor(
            tensor.name, tensor.data_type, tensor.dims, numpy_helper.to_array(fresh).reshape(-1)
        )
        field = helper.tensor_dtype_to_field(tensor.data_type)
        tensor.ClearField(field)
        getattr(tensor, field).extend(getattr(typed, field))
    return old
