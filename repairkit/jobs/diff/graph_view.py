"""A graph as it is compared: what it holds, and a digest of what each of its values computes.

The *digest* of a value stands for its whole computation: operators, attributes, numbers of tensors
and places of inputs, but no name. Two values of one digest compute the same. The *outline* of a
node is the same without the numbers: only types and shapes of tensors count.

How a file writes a thing does not matter where it computes the same: `Constant` nodes are stored
tensors, `Identity` hands its value on, and an attribute that states the default is left out.
"""

from __future__ import annotations

import hashlib
import math
from collections import ChainMap, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from repairkit.core.suite import Array
from repairkit.graph import protos
from repairkit.graph.stored import tensors

CHUNK = 1 << 20
"""Elements of a tensor that are looked at in one step."""
INITIALIZER, SPARSE, CONSTANT = "initializer", "sparse initializer", "Constant node"
_LONG = 16  # a longer list of numbers is a table of weights
_EVEN = {"strides": 1, "dilations": 1, "pads": 0}
_WINDOWS = {
    "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "MaxPool", "AveragePool", "LpPool",
}  # fmt: skip
_KERNEL_SLOT = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
_NUMBERS = ("value_float", "value_floats", "value_int", "value_ints")
_TEXTS = ("value_string", "value_strings")


def mark(*parts: object) -> str:
    """A digest of texts, numbers, and tuples of them."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


# Stored tensors


@dataclass(frozen=True, eq=False, kw_only=True)
class Stored:
    """A tensor that a file holds; `kind` says where."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Array]

    @cached_property
    def digest(self) -> str:
        """Of type, shape and every element."""
        return mark(self.dtype, self.shape, digest_of_array(self.read()))

    @property
    def outline(self) -> str:
        return mark(self.dtype, self.shape)


def digest_of_array(array: Array) -> str:
    """Of the bytes of an array, read piece by piece."""
    hasher, flat = hashlib.blake2b(digest_size=16), array.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        piece = flat[start : start + CHUNK]
        hasher.update(repr(piece.tolist()).encode() if piece.dtype == object else piece.tobytes())
    return hasher.hexdigest()


def type_name(data_type: int) -> str:
    """The name of an element type, such as float32."""
    if data_type == TensorProto.STRING:
        return "string"
    try:
        return str(helper.tensor_dtype_to_np_dtype(data_type).name)
    except (KeyError, TypeError):
        return f"type {data_type}"


def _of_tensor(name: str, kind: str, tensor: TensorProto) -> Stored:
    dtype, shape = type_name(tensor.data_type), tuple(map(int, tensor.dims))
    return Stored(
        name=name, kind=kind, dtype=dtype, shape=shape, read=lambda: tensors.array_of(tensor)
    )


def _of_sparse(name: str, kind: str, sparse: onnx.SparseTensorProto) -> Stored:
    dtype, shape = type_name(sparse.values.data_type), tuple(map(int, sparse.dims))
    return Stored(
        name=name, kind=kind, dtype=dtype, shape=shape, read=lambda: tensors.dense_array(sparse)
    )


def _of_constant(node: NodeProto) -> Stored | None:
    """The tensor of a `Constant` node; None for another node, or in a form that is not known."""
    if node.op_type != "Constant" or node.domain not in protos.STANDARD or len(node.output) != 1:
        return None
    held, name = next(iter(node.attribute), None), str(node.output[0])
    if held is None or held.ref_attr_name:
        return None
    if held.name == "value":
        return _of_tensor(name, CONSTANT, held.t)
    if held.name == "sparse_value":
        return _of_sparse(name, CONSTANT, held.sparse_tensor)
    if held.name in _NUMBERS:
        dtype = "float32" if "float" in held.name else "int64"
        array = np.array(helper.get_attribute_value(held), dtype)
    elif held.name in _TEXTS:
        dtype, array = "string", np.array(helper.get_attribute_value(held), object)
    else:
        return None
    return Stored(name=name, kind=CONSTANT, dtype=dtype, shape=array.shape, read=lambda: array)


# The view of a graph


@dataclass(frozen=True, eq=False, kw_only=True)
class GraphView:
    """A graph, a body or a function.

    Attributes:
        nodes: without `Constant` nodes, in the file's order.
        positions: of these nodes in the file.
        inputs: what is fed.
        outputs: what it gives.
        stored: what it holds, by name.
        opsets: the version of each domain.
    """

    nodes: Sequence[NodeProto]
    positions: Sequence[int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    stored: Mapping[str, Stored]
    opsets: Mapping[str, int]

    @cached_property
    def names(self) -> list[str]:
        """The name of every node, or of what it makes first."""
        return [n.name or next((str(o) for o in n.output if o), "") for n in self.nodes]

    @cached_property
    def _handed_on(self) -> dict[str, str]:
        return {
            str(n.output[0]): str(n.input[0])
            for n in self.nodes
            if n.op_type == "Identity" and n.domain in protos.STANDARD and n.input and n.output
        }

    def source(self, name: str) -> str:
        """The value that a name stands for, behind all `Identity` nodes."""
        known = self._handed_on
        for _ in range(len(known)):
            if name not in known:
                break
            name = known[name]
        return name

    @cached_property
    def sources(self) -> list[list[str]]:
        """What every node reads, slot by slot; trailing empty slots are left out."""
        rows = [[self.source(str(i)) if i else "" for i in node.input] for node in self.nodes]
        for row in rows:
            while row and not row[-1]:
                row.pop()
        return rows

    @cached_property
    def producers(self) -> dict[str, tuple[int, int]]:
        """A value to the node that makes it, and at which output."""
        return {
            str(o): (i, k) for i, n in enumerate(self.nodes) for k, o in enumerate(n.output) if o
        }

    @cached_property
    def readers(self) -> dict[str, list[tuple[int, int]]]:
        """A value to the nodes that read it and the slots; bodies read at slot -1."""
        readers: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for position, node in enumerate(self.nodes):
            for slot, name in enumerate(self.sources[position]):
                if name:
                    readers[name].append((position, slot))
            for name in sorted(protos.outer_names(node)):
                readers[self.source(name)].append((position, -1))
        return readers

    def attributes(self, position: int) -> dict[str, AttributeProto]:
        """The attributes of a node that do not just state the default."""
        node = self.nodes[position]
        stated = _defaults(node.op_type, self.opsets.get(domain_of(node), 0), domain_of(node))
        return {
            str(a.name): a
            for a in node.attribute
            if stated.get(a.name) != a.SerializeToString(deterministic=True)
            and not self._is_implied(position, a)
        }

    def _is_implied(self, position: int, held: AttributeProto) -> bool:
        node, values = self.nodes[position], set(held.ints)
        if node.op_type not in _WINDOWS or node.domain not in protos.STANDARD:
            return False
        if held.name in _EVEN:
            return values <= {_EVEN[held.name]}
        slot, row = _KERNEL_SLOT.get(node.op_type, -1), self.sources[position]
        kernel = self.stored.get(row[slot]) if 0 <= slot < len(row) else None
        return (
            held.name == "kernel_shape"
            and kernel is not None
            and tuple(held.ints) == kernel.shape[2:]
        )


def domain_of(node: NodeProto) -> str:
    """The domain of a node's operator; the standard's is the empty text."""
    return "" if node.domain in protos.STANDARD else str(node.domain)


@cache
def _defaults(operator: str, version: int, domain: str) -> dict[str, bytes]:
    """The default of each attribute of an operator, as a file would write it."""
    try:
        schema = onnx.defs.get_schema(operator, version or 1, domain)
    except onnx.defs.SchemaError:
        return {}
    every = ((name, held.default_value) for name, held in schema.attributes.items())
    return {name: v.SerializeToString(deterministic=True) for name, v in every if v.name}


def view_of_graph(graph: GraphProto, opsets: Mapping[str, int]) -> GraphView:
    """The view of a model's graph, or of a body."""
    stored = {t.name: _of_tensor(t.name, INITIALIZER, t) for t in graph.initializer}
    for sparse in graph.sparse_initializer:
        stored[sparse.values.name] = _of_sparse(sparse.values.name, SPARSE, sparse)
    inputs = tuple(i.name for i in graph.input if i.name not in stored)
    return _view(graph.node, inputs, tuple(o.name for o in graph.output), stored, opsets)


def view_of_function(function: onnx.FunctionProto) -> GraphView:
    """The view of a function of a model."""
    opsets = opsets_of(function.opset_import)
    return _view(function.node, tuple(function.input), tuple(function.output), {}, opsets)


def _view(
    nodes: Sequence[NodeProto],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    stored: dict[str, Stored],
    opsets: Mapping[str, int],
) -> GraphView:
    kept = []
    for position, node in enumerate(nodes):
        constant = _of_constant(node)
        if constant is None:
            kept.append(position)
        else:
            stored[constant.name] = constant
    return GraphView(
        nodes=[nodes[position] for position in kept],
        positions=kept,
        inputs=inputs,
        outputs=outputs,
        stored=stored,
        opsets=opsets,
    )


def opsets_of(imports: Sequence[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """The version of each domain; the standard's domain is the empty one."""
    named = (
        ("" if o.domain in protos.STANDARD else str(o.domain), int(o.version)) for o in imports
    )
    return dict(named)


# Digests


@dataclass(frozen=True, eq=False, kw_only=True)
class Digests:
    """Digests of a view: of values, and by the positions of its nodes.

    Attributes:
        values: of every value, by name.
        nodes: of the whole computation up to a node.
        forward: the outline of the computation up to a node.
        backward: the outline of what is done with what a node makes.
        alone: the outline of a node without what it reads from others.
        contents: of a node's operator, attributes and stored tensors; "" where it has few numbers.
    """

    values: Mapping[str, str]
    nodes: Sequence[str]
    forward: Sequence[str]
    backward: Sequence[str]
    alone: Sequence[str]
    contents: Sequence[str]


_FEW = 8  # elements: fewer do not tell layers apart


@dataclass(frozen=True, eq=False, kw_only=True)
class Surroundings:
    """What a body sees: digests and outlines of the values around it, and how deep it lies."""

    values: Mapping[str, str] = field(default_factory=dict)
    outlines: Mapping[str, str] = field(default_factory=dict)
    depth: int = 0


NOTHING_AROUND = Surroundings()


@dataclass(frozen=True, eq=False)
class Digester:
    """Digests of the graphs of one model."""

    model: ModelProto
    _entered: set[tuple[str, str, str]] = field(default_factory=set)  # functions that are open
    _known: dict[tuple[str, str, str], str] = field(default_factory=dict)

    @cached_property
    def functions(self) -> dict[tuple[str, str, str], onnx.FunctionProto]:
        """By domain, name and overload."""
        return {(f.domain, f.name, getattr(f, "overload", "")): f for f in self.model.functions}

    def digests(
        self, view: GraphView, fed: Sequence[object], around: Surroundings = NOTHING_AROUND
    ) -> Digests:
        """The digests of a view of this model.

        Args:
            view: of a graph, a body or a function.
            fed: what stands for each of its inputs.
            around: what a body sees.
        """
        inputs = dict(zip(view.inputs, (mark("input", f) for f in fed), strict=True))
        held = view.stored.items()
        values = ChainMap({**inputs, **{n: s.digest for n, s in held}}, dict(around.values))
        outlines = ChainMap({**inputs, **{n: s.outline for n, s in held}}, dict(around.outlines))
        inside = Surroundings(values=values, outlines=outlines, depth=around.depth + 1)
        nodes, forward, alone, contents = [], [], [], []
        for position, node in enumerate(view.nodes):
            whole, outline, rich = self._keys(view, position, inside)
            row = view.sources[position]
            nodes.append(mark(whole, [values.get(name, f"? {name}") for name in row]))
            forward.append(mark(outline, [outlines.get(name, f"? {name}") for name in row]))
            stored = [view.stored.get(name) for name in row]
            alone.append(mark(outline, [s and s.outline for s in stored]))
            n_numbers = sum(math.prod(s.shape) for s in stored if s is not None)
            rich = rich or n_numbers >= _FEW
            contents.append(mark(whole, [s and s.digest for s in stored]) if rich else "")
            for slot, name in enumerate(map(str, node.output)):
                source = view.source(name)
                if source != name:  # it hands its input on
                    values[name], outlines[name] = (m.get(source, "?") for m in (values, outlines))
                elif name:
                    values[name] = mark(nodes[-1], slot)
                    outlines[name] = mark(forward[-1], slot)
        return Digests(
            values=values,
            nodes=nodes,
            forward=forward,
            backward=_backward(view, alone),
            alone=alone,
            contents=contents,
        )

    def of_graph(self, view: GraphView, digests: Digests) -> str:
        """What a view computes, in the order of its outputs."""
        return mark([digests.values.get(view.source(name), "?") for name in view.outputs])

    def body(
        self, graph: GraphProto, opsets: Mapping[str, int], around: Surroundings
    ) -> tuple[GraphView, Digests]:
        """The view of a body, and its digests."""
        view = view_of_graph(graph, opsets)
        fed = [(around.depth, place) for place in range(len(view.inputs))]
        return view, self.digests(view, fed, around)

    def function(self, key: tuple[str, str, str]) -> tuple[GraphView, Digests]:
        """The view of a function, and its digests."""
        view = view_of_function(self.functions[key])
        return view, self.digests(view, range(len(view.inputs)))

    def _keys(self, view: GraphView, position: int, inside: Surroundings) -> tuple[str, str, bool]:
        """Digest and outline of operator and attributes, and whether these hold many numbers."""
        operator = self._operator(view.nodes[position])
        attributes = sorted(view.attributes(position).items())
        tokens = [(name, *self._tokens(view, held, inside)) for name, held in attributes]
        whole, outline = (mark(operator, [(t[0], t[place]) for t in tokens]) for place in (1, 2))
        return whole, outline, any(len(held.floats) >= _FEW for _, held in attributes)

    def _operator(self, node: NodeProto) -> tuple[str, ...]:
        """The operator; of a function of the model, what it computes."""
        key = (str(node.domain), str(node.op_type), str(getattr(node, "overload", "")))
        if key not in self.functions or key in self._entered:
            return domain_of(node), str(node.op_type)
        if key not in self._known:
            self._entered.add(key)
            self._known[key] = self.of_graph(*self.function(key))
            self._entered.discard(key)
        return (*key, self._known[key])

    def _tokens(
        self, view: GraphView, held: AttributeProto, inside: Surroundings
    ) -> tuple[object, object]:
        """What stands for an attribute in a digest, and in an outline."""
        if held.ref_attr_name:
            return held.ref_attr_name, held.ref_attr_name
        if held.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            bodies = [held.g] if held.type == AttributeProto.GRAPH else held.graphs
            made = [self.body(graph, view.opsets, inside) for graph in bodies]
            return [self.of_graph(*each) for each in made], [sorted(d.alone) for _, d in made]
        if held.type in (AttributeProto.TENSOR, AttributeProto.TENSORS):
            kept = [held.t] if held.type == AttributeProto.TENSOR else held.tensors
            both = [_of_tensor("", "", tensor) for tensor in kept]
            return [t.digest for t in both], [t.outline for t in both]
        value = held.SerializeToString(deterministic=True)
        sizes = len(held.floats), len(held.ints), len(held.strings)
        return value, (held.type, sizes) if max(sizes) > _LONG else value


def _backward(view: GraphView, alone: Sequence[str]) -> list[str]:
    given: dict[str, list[str]] = defaultdict(list)
    for place, name in enumerate(view.outputs):
        given[view.source(name)].append(mark("output", place))
    marks = [""] * len(view.nodes)
    for position in reversed(range(len(view.nodes))):
        node = view.nodes[position]
        uses = [sorted(given.get(str(name), ())) for name in node.output]
        marks[position] = mark(alone[position], uses)
        if view.source(str(node.output[0])) != node.output[0]:
            continue  # its readers read what it hands on
        for slot, name in enumerate(view.sources[position]):
            if name:
                given[name].append(mark(marks[position], slot))
        for name in sorted(protos.outer_names(node)):
            given[view.source(name)].append(mark(marks[position], "body"))
    return marks
