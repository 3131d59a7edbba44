"""Which node makes and which nodes read each tensor of a graph, and which tensors are constant."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from repairkit.graph.protos import RANDOM, all_nodes, outer_names, subgraphs


@dataclass(frozen=True)
class Reader:
    """A node that reads a tensor, and at which input."""

    node: int
    slot: int


@dataclass(frozen=True)
class GraphIndex:
    """Look-ups over a model's main graph; built once, valid while the graph is not edited."""

    model: ModelProto
    graph: GraphProto = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "graph", self.model.graph)

    @cached_property
    def nodes(self) -> list[NodeProto]:
        return list(self.graph.node)

    @cached_property
    def initializers(self) -> dict[str, TensorProto]:
        return {tensor.name: tensor for tensor in self.graph.initializer}

    @cached_property
    def sparse_initializers(self) -> dict[str, SparseTensorProto]:
        return {sparse.values.name: sparse for sparse in self.graph.sparse_initializer}

    @cached_property
    def producers(self) -> dict[str, int]:
        """Tensor name to the position of the node that makes it."""
        return {o: i for i, node in enumerate(self.nodes) for o in node.output if o}

    @cached_property
    def readers(self) -> dict[str, list[Reader]]:
        """Tensor name to its readers; a reader inside a sub-graph counts as slot -1."""
        readers: dict[str, list[Reader]] = defaultdict(list)
        for position, node in enumerate(self.nodes):
            for slot, name in enumerate(node.input):
                if name:
                    readers[name].append(Reader(position, slot))
            for name in outer_names(node):
                readers[name].append(Reader(position, -1))
        return readers

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(output.name for output in self.graph.output)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs that have no initializer."""
        stored = {*self.initializers, *self.sparse_initializers}
        return tuple(i.name for i in self.graph.input if i.name not in stored)

    @cached_property
    def constant(self) -> set[str]:
        """Tensors whose value depends on the file alone."""
        known = {*self.initializers, *self.sparse_initializers}
        for node in self.nodes:
            if node.op_type in RANDOM or subgraphs(node):
                continue
            if all(name in known for name in node.input if name):
                known.update(o for o in node.output if o)
        return known

    @cached_property
    def fed(self) -> set[str]:
        """Tensors that depend on an input of the model."""
        reached = set(self.inputs)
        for node in self.nodes:
            if any(name in reached for name in (*node.input, *outer_names(node))):
                reached.update(o for o in node.output if o)
        return reached

    def leading_to(self, targets: tuple[str, ...]) -> set[str]:
        """Tensors on which any of `targets` depends."""
        needed = set(targets)
        for node in reversed(self.nodes):
            if any(o in needed for o in node.output):
                needed.update(name for name in (*node.input, *outer_names(node)) if name)
        return needed

    def sole_reader(self, tensor: str) -> Reader | None:
        """The only reader of a tensor that is not an output of the model, else None."""
        readers = self.readers.get(tensor, [])
        alone = len(readers) == 1 and readers[0].slot >= 0 and tensor not in self.outputs
        return readers[0] if alone else None

    @cached_property
    def names(self) -> set[str]:
        """Every tensor and node name in use, sub-graphs included."""
        used = {*self.initializers, *self.sparse_initializers, *self.outputs}
        used.update(i.name for i in self.graph.input)
        for node in all_nodes(self.graph):
            used.update((node.name, *node.input, *node.output))
        return used


class ConstantArrays(Protocol):
    """What the constant tensors of a graph hold; `stored.constants.Constants` reads them."""

    @property
    def index(self) -> GraphIndex: ...

    def array(self, name: str, /) -> NDArray[Any]:
        """The value of a tensor of `index.constant`, computed from the file."""

    def numbers(self, node: NodeProto, slot: int, /) -> NDArray[Any] | None:
        """What a node reads at `slot`; None where that is nothing or is not constant."""

    def as_stored(self, name: str, wanted: NDArray[np.float64], /) -> NDArray[Any]:
        """`wanted`, flat, one number per element, as `name` reads it back once it is stored."""


def layer_names(index: GraphIndex) -> list[str]:
    """The name of every node, or of its first output where that is empty or not unique."""
    counts = Counter(node.name for node in index.nodes)
    named = [bool(node.name) and counts[node.name] == 1 for node in index.nodes]
    while True:
        pairs = list(zip(index.nodes, named, strict=True))
        outputs = {_first_output(node) for node, is_named in pairs if not is_named}
        # A name that is another node's output would be ambiguous too.
        kept = [is_named and node.name not in outputs for node, is_named in pairs]
        if kept == named:
            return [node.name if is_named else _first_output(node) for node, is_named in pairs]
        named = kept


def _first_output(node: NodeProto) -> str:
    """The first output that a node makes; a recurrent layer may leave out earlier ones."""
    return next((str(name) for name in node.output if name), "")


def is_dequantised(index: GraphIndex, name: str) -> bool:
    """Whether a tensor comes from integer codes: the runtime then computes on integers."""
    while name in index.producers:
        node = index.nodes[index.producers[name]]
        if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
            return True
        if name not in index.constant or not node.input:
            return False
        name = node.input[0]
    return False
