"""What a change can reach in a graph, and the smallest part of the graph that answers for it.

Tensors that depend on the image are numbered, and a set of them is an integer with a bit for each:
unions and differences of such sets are what planning does all day.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import ModelProto, TensorProto, helper

from repairkit.core.errors import ModelError
from repairkit.graph.coalitions.switches import Switch
from repairkit.graph.index import GraphIndex, int_attribute, outer_names

Tensors = int
"""A set of tensors; bit t is set where tensor t belongs to it."""

# Operators of one fed input whose output channel c hangs on input channel c alone.
_CHANNELWISE = {
    "Relu",
    "LeakyRelu",
    "Clip",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Tanh",
    "Elu",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
}
_MACS_PER_ELEMENT = 16  # what moving a number costs, in multiplications
_WEIGHT_SLOTS = {"Conv": 2, "FusedConv": 2, "ConvTranspose": 2, "Gemm": 2, "MatMul": 2}


@dataclass(frozen=True)
class Slice:
    """Nodes, by position, that make `outputs` from the fed tensors, by number."""

    nodes: tuple[int, ...]
    fed: tuple[int, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """What one image makes of a tensor."""

    dims: tuple[int, ...]
    dtype: str

    @property
    def n_elements(self) -> int:
        return int(np.prod(self.dims, dtype=np.int64))

    @property
    def n_bytes(self) -> int:
        return self.n_elements * np.dtype(self.dtype).itemsize


class Anatomy:
    """Look-ups over an optimised graph, with its switches as inputs.

    Args:
        model: initializers named by the switches count as inputs.
        image: the image input.
        output: the output that is judged.
        switches: of the game's sites.
    """

    def __init__(
        self, model: ModelProto, image: str, output: str, switches: tuple[Switch, ...]
    ) -> None:
        self.model, self.image, self.output = model, image, output
        self.switches = switches
        self.index = GraphIndex(model)
        self.nodes = self.index.nodes
        self.reads = [{*node.input, *outer_names(node)} - {""} for node in self.nodes]
        live = {image: None}
        for node, reads in zip(self.nodes, self.reads, strict=True):
            if any(name in live for name in reads):
                live.update(dict.fromkeys(o for o in node.output if o))
        self.names = list(live)
        self.number = {name: t for t, name in enumerate(self.names)}

    def set_of(self, names: Iterable[str]) -> Tensors:
        """The fed ones among the names."""
        found = 0
        for name in names:
            if name in self.number:
                found |= 1 << self.number[name]
        return found

    def names_of(self, tensors: Tensors) -> list[str]:
        """Names in the order of the graph."""
        return [self.names[t] for t in bits(tensors)]

    def names_of_all(self, numbers: Iterable[int]) -> list[str]:
        """Names of numbered tensors."""
        return [self.names[t] for t in numbers]

    @cached_property
    def everything(self) -> Tensors:
        return (1 << len(self.names)) - 1

    def reached(self, start: Tensors) -> Tensors:
        """Tensors that hang on any of `start`, without `start`."""
        found = start
        for reads, node in zip(self._read_sets, self.nodes, strict=True):
            if reads & found:
                found |= self.set_of(node.output)
        return found & ~start

    @cached_property
    def _read_sets(self) -> list[Tensors]:
        return [self.set_of(reads) for reads in self.reads]

    @cached_property
    def _made_sets(self) -> list[Tensors]:
        return [self.set_of(node.output) for node in self.nodes]

    def slice(self, available: Tensors, outputs: tuple[str, ...]) -> Slice:
        """The nodes that make `outputs`, going back no further than what is available."""
        needed = self.set_of(outputs)
        fed, members = needed & available, []
        needed &= ~available
        for position in range(len(self.nodes) - 1, -1, -1):
            if self._made_sets[position] & needed:
                members.append(position)
                reads = self._read_sets[position]
                fed |= reads & available
                needed |= reads & ~available
        return Slice(tuple(reversed(members)), tuple(bits(fed)), outputs)

    def made_by(self, piece: Slice) -> Tensors:
        """The tensors that a slice makes."""
        found = 0
        for position in piece.nodes:
            found |= self._made_sets[position]
        return found

    def behind(self, tensor: str, block: int) -> tuple[str, int]:
        """The last tensor in which the channels of this one are still apart, and its block."""
        while True:
            reader = self.index.sole_reader(tensor)
            if reader is None:
                return tensor, block
            node = self.nodes[reader.node]
            fed = [name for name in node.input if name in self.number]
            unblocked = node.op_type == "ReorderOutput" and not int_attribute(
                node, "channels_last", 0
            )
            apart = node.op_type in _CHANNELWISE or unblocked
            if not apart or len(fed) != 1 or len(node.output) != 1:
                return tensor, block
            tensor, block = node.output[0], 1 if unblocked else block

    def arithmetic(self, shapes: dict[str, Shape]) -> list[float]:
        """Multiplications per image of every node, moved numbers counted in."""
        return [self._cost(position, shapes) for position in range(len(self.nodes))]

    def _cost(self, position: int, shapes: dict[str, Shape]) -> float:
        node = self.nodes[position]
        made = sum(shapes[o].n_elements for o in node.output if o in shapes)
        cost = float(made * _MACS_PER_ELEMENT)
        if node.op_type in _WEIGHT_SLOTS and len(node.input) > 1:
            weight = self._dims(node.input[1], shapes)
            channels = weight[0] if "Conv" in node.op_type else max(weight[-1:] or [1])
            cost += made * float(np.prod(weight)) / max(channels, 1)
        return cost

    def _dims(self, name: str, shapes: dict[str, Shape]) -> list[int]:
        if name in self.index.initializers:
            return list(self.index.initializers[name].dims)
        return list(shapes[name].dims) if name in shapes else [1]

    @cached_property
    def inputs(self) -> set[str]:
        """Tensors that a slice is fed besides those of the image: switches and large weights."""
        found = {name for s in self.switches for name in (s.kernel, s.bias) if name}
        for node in self.nodes:
            if node.op_type in _WEIGHT_SLOTS and len(node.input) > 1:
                weight = self.index.initializers.get(node.input[1])
                if weight is not None and np.prod(weight.dims) > 4096:
                    found.add(weight.name)
        return found

    def extract(self, piece: Slice, shapes: dict[str, Shape]) -> tuple[ModelProto, tuple[str, ...]]:
        """A model of a slice, and the names of its inputs.

        Args:
            piece: from `slice`.
            shapes: at least of the fed tensors but the image; only the types are used.
        """
        nodes = [self.nodes[position] for position in piece.nodes]
        read = dict.fromkeys(name for p in piece.nodes for name in sorted(self.reads[p]))
        fed = [self.names[t] for t in piece.fed] + [name for name in read if name in self.inputs]
        kept = [
            self.index.initializers[name]
            for name in read
            if name in self.index.initializers and name not in self.inputs
        ]
        constant = self._constant_nodes(read)
        kinds = {name: self._kind(name, shapes) for name in fed}
        graph = helper.make_graph(
            [*(self.nodes[p] for p in constant), *nodes],
            "slice",
            [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
            [helper.make_empty_tensor_value_info(name) for name in piece.outputs],
            [*kept, *self._constants_of(constant, kept)],
        )
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        model.functions.extend(self.model.functions)
        model.ir_version = self.model.ir_version
        return model, tuple(fed)

    def _constant_nodes(self, read: Iterable[str]) -> list[int]:
        """Nodes that make what `read` takes from no image: few, after optimisation."""
        needed, found = set(read), []
        for position in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[position]
            live = any(o in self.number for o in node.output)
            if not live and any(o in needed for o in node.output):
                found.append(position)
                needed |= self.reads[position]
        return found[::-1]

    def _constants_of(self, constant: list[int], kept: list[TensorProto]) -> list[TensorProto]:
        known = {tensor.name for tensor in kept}
        names = {name for position in constant for name in self.reads[position]} - known
        return [self.index.initializers[n] for n in sorted(names) if n in self.index.initializers]

    def _kind(self, name: str, shapes: dict[str, Shape]) -> int:
        if name in shapes:
            return int(helper.np_dtype_to_tensor_dtype(np.dtype(shapes[name].dtype)))
        if name in self.index.initializers:
            return int(self.index.initializers[name].data_type)
        for value in self.model.graph.input:
            if value.name == name:
                return int(value.type.tensor_type.elem_type)
        raise ModelError(f"the type of tensor {name!r} is not known")


def bits(tensors: Tensors) -> list[int]:
    """The members of a set, rising."""
    found = []
    while tensors:
        low = tensors & -tensors
        found.append(low.bit_length() - 1)
        tensors ^= low
    return found
