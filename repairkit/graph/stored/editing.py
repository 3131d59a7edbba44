"""Change the stored tensors of a model, and keep of each change what undoing it needs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from repairkit.core.arrays import Array
from repairkit.core.patch import TensorEdit
from repairkit.graph.index import GraphIndex
from repairkit.graph.stored.storage import Constants, constant_tensor, runs_of, store


@dataclass
class Editor:
    """Edits a model whose graph is still laid out as `index` says."""

    model: ModelProto
    index: GraphIndex
    constants: Constants
    edits: list[TensorEdit] = field(default_factory=list)

    def write(
        self,
        node: int,
        slot: int,
        positions: Array,
        values: NDArray[np.float64],
        clone: str,
    ) -> None:
        """Put values at flat positions of the tensor that a node reads at `slot`."""
        name = self.index.nodes[node].input[slot]
        value = self.constants.array(name)
        write = self.constants.write(name, positions, values)
        if write is None or write.storage.shared:
            array = value.copy()
            array.reshape(-1)[positions] = values
            self.add(node, slot, array, clone)
            return
        graph = self.model.graph
        if write.storage.kind == "initializer":
            tensor = next(t for t in graph.initializer if t.name == write.storage.name)
        else:
            maker = graph.node[self.index.producers[write.storage.name]]
            held = constant_tensor(maker)
            assert held is not None
            tensor = held
        runs = runs_of(write.positions)
        old = store(tensor, write)
        self.edits.append(
            TensorEdit(
                kind=write.storage.kind, tensor=write.storage.name, runs=tuple(runs), old=old
            )
        )

    def add(self, node: int, slot: int, array: Array, name: str) -> None:
        """A new initializer, read by a node at `slot` instead of what it read before."""
        fresh, number = name, 1
        taken = self.index.names | {edit.tensor for edit in self.edits}
        while fresh in taken:
            number += 1
            fresh = f"{name}_{number}"
        reader = self.model.graph.node[node]
        replaces = reader.input[slot] if len(reader.input) > slot else None
        if len(reader.input) > slot:
            reader.input[slot] = fresh
        else:
            reader.input.append(fresh)
        tensor = numpy_helper.from_array(array, fresh)
        self.model.graph.initializer.append(tensor)
        if self.model.ir_version < 4:  # which demands that an initializer be an input too
            self.model.graph.input.append(
                helper.make_tensor_value_info(fresh, tensor.data_type, array.shape)
            )
        self.edits.append(
            TensorEdit(
                kind="added", tensor=fresh, node=reader.output[0], slot=slot, replaces=replaces
            )
        )


def as_stored(constants: Constants, name: str, wanted: NDArray[np.float64]) -> Array:
    """`wanted`, flat and one for every element, as it reads back once stored behind `name`."""
    write = constants.write(name, np.arange(len(wanted)), wanted)
    value = constants.array(name)
    if write is None or write.storage.shared:
        return wanted.astype(value.dtype)
    return constants.read_back(name, write)
