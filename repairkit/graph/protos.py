"""The parts of an ONNX model: attributes, graphs inside, sizes and tensors; copies to edit.

`GraphIndex` tells which node makes and which nodes read each tensor, and which are constant.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, MutableSequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

Part = TypeVar("Part")

STANDARD = ("", "ai.onnx")
"""The two names of the ONNX standard's domain."""

RANDOM = {
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial",
    "Bernoulli",
}  # fmt: skip
"""Operators that draw random numbers in every run."""

DEFAULTS_SINCE = 4
"""The first IR version in which an initializer need not be an input; if it is, it is a default."""


# Nodes


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    """The attribute of that name, if the node has it."""
    return next((a for a in node.attribute if a.name == name), None)


def int_attribute(node: NodeProto, name: str, default: int) -> int:
    """An integer attribute, or the standard's default where it is missing."""
    held = attribute(node, name)
    return default if held is None else int(held.i)


def float_attribute(node: NodeProto, name: str, default: float) -> float:
    """A number attribute, or the standard's default where it is missing."""
    held = attribute(node, name)
    return default if held is None else float(held.f)


def ints_attribute(node: NodeProto, name: str) -> list[int] | None:
    """A list of integers; None where the node does not have the attribute."""
    held = attribute(node, name)
    return None if held is None else list(held.ints)


def node_name(node: NodeProto) -> str:
    """The name of a node, or of what it makes."""
    return node.name or next(o for o in node.output if o)


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """The bodies of an `If`, `Loop`, `Scan` or the like."""
    bodies = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
    return bodies + [g for a in node.attribute if a.type == AttributeProto.GRAPHS for g in a.graphs]


def all_nodes(graph: GraphProto) -> list[NodeProto]:
    """The nodes of a graph and of every graph inside it."""
    nodes: list[NodeProto] = []
    waiting = [graph]
    while waiting:
        current = waiting.pop()
        for node in current.node:
            nodes.append(node)
            waiting.extend(subgraphs(node))
    return nodes


def inner_nodes(node: NodeProto) -> list[NodeProto]:
    """The nodes of the bodies inside a node, at any depth."""
    return [inner for graph in subgraphs(node) for inner in all_nodes(graph)]


def outer_names(node: NodeProto) -> set[str]:
    """Names that the bodies inside a node may take from outside."""
    made = {output.name for graph in subgraphs(node) for output in graph.output}
    return made | {name for inner in inner_nodes(node) for name in inner.input}


# Models


def opset_of(model: ModelProto, *, default: int) -> int:
    """The version of the ONNX standard that a model uses; `default` where it names none."""
    return max((o.version for o in model.opset_import if o.domain in STANDARD), default=default)


def fresh_name(wanted: str, taken: Container[str]) -> str:
    """The wanted name, or one with a number behind it, if it is taken."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def copied(model: ModelProto) -> ModelProto:
    """A copy of a model, to be edited."""
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def refill(values: MutableSequence[Part], fresh: Iterable[Part]) -> None:
    """Put other parts into a repeated field, in place; they may be its own, in another order."""
    kept = list(fresh)
    del values[:]
    values.extend(kept)


# Sizes that a model leaves open


def dims_of(value: ValueInfoProto) -> tuple[int | None, ...] | None:
    """The sizes of a tensor, None for each that is open; None where its shape is missing."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(int(d.dim_value) if d.dim_value > 0 else None for d in kind.shape.dim)


def with_open_sizes(model: ModelProto) -> ModelProto:
    """The model without the sizes below one that it names; itself where none is."""
    # An initializer may be listed as an input too, and may be empty.
    stored = {tensor.name for tensor in model.graph.initializer}

    def named(graph: GraphProto) -> Iterator[ValueInfoProto]:
        values = (*graph.input, *graph.output, *graph.value_info)
        return (value for value in values if value.name not in stored)

    if not any(_says_less_than_one(value) for value in named(model.graph)):
        return model
    result = copied(model)
    for value in named(result.graph):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.ClearField("dim_value")
    return result


def _says_less_than_one(value: ValueInfoProto) -> bool:
    dims = value.type.tensor_type.shape.dim
    return any(d.HasField("dim_value") and d.dim_value < 1 for d in dims)


# Which tensors a model has


def graphs_of(model: ModelProto) -> list[GraphProto]:
    """The main graph, and the graphs inside its nodes and inside those of functions."""
    return [model.graph, *(body for node in _nodes_of(model) for body in subgraphs(node))]


def _nodes_of(model: ModelProto) -> list[NodeProto]:
    return [*all_nodes(model.graph), *(n for function in model.functions for n in function.node)]


def plain_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that is stored anywhere in a model, except sparse ones."""
    for graph in graphs_of(model):
        yield from graph.initializer
    for node in _nodes_of(model):
        for held in node.attribute:
            if held.HasField("t"):
                yield held.t
            yield from held.tensors


def sparse_tensors(model: ModelProto) -> Iterator[onnx.SparseTensorProto]:
    """Every sparse tensor that is stored anywhere in a model."""
    for graph in graphs_of(model):
        yield from graph.sparse_initializer
    for node in _nodes_of(model):
        for held in node.attribute:
            if held.HasField("sparse_tensor"):
                yield held.sparse_tensor
            yield from held.sparse_tensors


def stored_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor that is stored anywhere in a model, and both parts of every sparse one."""
    yield from plain_tensors(model)
    for sparse in sparse_tensors(model):
        yield from (sparse.values, sparse.indices)


# The index of a graph


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
    def sparse_initializers(self) -> dict[str, onnx.SparseTensorProto]:
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
