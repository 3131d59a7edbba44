"""What a change can reach in a graph, and the smallest part of the graph that computes it anew.

Tensors that depend on the image are numbered, and a set of them is an integer with a bit for each:
planning is mostly unions and differences of such sets.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from repairkit.core.errors import ModelError
from repairkit.graph.protos import GraphIndex, copied, int_attribute, outer_names, refill

Tensors = int
"""A set of tensors; bit t is set where tensor t belongs to it."""

# Operators of one fed input whose output channel c depends on input channel c alone.
_CHANNELWISE = {
    "Relu", "LeakyRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "MaxPool",
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
}  # fmt: skip
_MACS_PER_ELEMENT = 16  # the cost of moving a number, in multiplications
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


@dataclass(frozen=True, kw_only=True)
class Switch:
    """Where the filters of a site are turned off.

    `tensor` is the first to hold what the filters yield; its channels lie in blocks of `block`. In
    weight space, `kernel` and `bias` are runtime inputs: channel c is lane
    [c // block, :, c % block] of the kernel, and element c of the bias. Otherwise `kernel` is ""
    and `bias` is the mask input, of shape `mask`.

    In a matrix product each channel has several `rows` of the kernel and elements of the bias, one
    after another, and `shaped` is the first tensor whose second axis is that of the channels.
    """

    site: str
    tensor: str
    kernel: str
    bias: str
    block: int
    mask: tuple[int, ...] = ()
    rows: int = 1
    shaped: str = ""


@dataclass(frozen=True)
class Switched:
    """An optimised model whose switches are inputs, and what they hold as trained."""

    model: ModelProto
    switches: tuple[Switch, ...]
    trained: dict[str, NDArray[np.float32]]


class Anatomy:
    """Look-ups over an optimised graph, with its switches as inputs.

    Args:
        model: initializers named by the switches count as inputs.
        image: the image input.
        output: the output that is judged.
        switches: the names of the inputs by which filters are turned off.
    """

    def __init__(
        self, model: ModelProto, image: str, output: str, switches: Collection[str]
    ) -> None:
        self.model, self.image, self.output = model, image, output
        self.switches = frozenset(switches)
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
        tensors = 0
        for name in names:
            if name in self.number:
                tensors |= 1 << self.number[name]
        return tensors

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
        """Tensors that depend on any of `start`, without `start`."""
        reached = start
        for reads, node in zip(self._read_sets, self.nodes, strict=True):
            if reads & reached:
                reached |= self.set_of(node.output)
        return reached & ~start

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
        made = 0
        for position in piece.nodes:
            made |= self._made_sets[position]
        return made

    def behind(self, tensor: str, block: int) -> tuple[str, int]:
        """The last tensor in which the channels of this one are still separate, and its block."""
        while True:
            reader = self.index.sole_reader(tensor)
            if reader is None:
                return tensor, block
            node = self.nodes[reader.node]
            fed = [name for name in node.input if name in self.number]
            unblocked = node.op_type == "ReorderOutput" and not int_attribute(
                node, "channels_last", 0
            )
            separate = node.op_type in _CHANNELWISE or unblocked
            if not separate or len(fed) != 1 or len(node.output) != 1:
                return tensor, block
            tensor, block = node.output[0], 1 if unblocked else block

    def arithmetic(self, shapes: dict[str, Shape]) -> list[float]:
        """Multiplications per image of every node, with an allowance for moving numbers."""
        return [self._cost(position, shapes) for position in range(len(self.nodes))]

    def _cost(self, position: int, shapes: dict[str, Shape]) -> float:
        node = self.nodes[position]
        made = sum(shapes[o].n_elements for o in node.output if o in shapes)
        cost = float(made * _MACS_PER_ELEMENT)
        if node.op_type in _WEIGHT_SLOTS and len(node.input) > 1:
            weight = self._dims(node.input[1], shapes)
            # A product's weights that are a switch are transposed.
            first = "Conv" in node.op_type or node.input[1] in self.switches
            channels = weight[0] if first else max(weight[-1:] or [1])
            cost += made * float(np.prod(weight)) / max(channels, 1)
        return cost

    def _dims(self, name: str, shapes: dict[str, Shape]) -> list[int]:
        if name in self.index.initializers:
            return list(self.index.initializers[name].dims)
        return list(shapes[name].dims) if name in shapes else [1]

    @cached_property
    def inputs(self) -> set[str]:
        """Tensors that a slice is fed besides those of the image: switches and large weights."""
        names = set(self.switches)
        for node in self.nodes:
            if node.op_type in _WEIGHT_SLOTS and len(node.input) > 1:
                weight = self.index.initializers.get(node.input[1])
                if weight is not None and np.prod(weight.dims) > 4096:
                    names.add(weight.name)
        return names


def bits(tensors: Tensors) -> list[int]:
    """The members of a set, in ascending order."""
    members = []
    while tensors:
        low = tensors & -tensors
        members.append(low.bit_length() - 1)
        tensors ^= low
    return members


# Slices as models of their own


COUNT = "stack/count"


def extract(
    anatomy: Anatomy, piece: Slice, shapes: Mapping[str, Shape]
) -> tuple[ModelProto, tuple[str, ...]]:
    """A model of a slice, and the names of its inputs.

    `shapes` holds at least the fed tensors except the image; only their types are used.
    """
    stored = anatomy.index.initializers
    nodes = [anatomy.nodes[position] for position in piece.nodes]
    read = dict.fromkeys(name for p in piece.nodes for name in sorted(anatomy.reads[p]))
    inputs = anatomy.inputs
    fed = [anatomy.names[t] for t in piece.fed] + [name for name in read if name in inputs]
    kept = [stored[name] for name in read if name in stored and name not in inputs]
    constant = _constant_nodes(anatomy, read)
    beside = {name for p in constant for name in anatomy.reads[p]} - {t.name for t in kept}
    kept += [stored[name] for name in sorted(beside) if name in stored]
    kinds = {name: _element_type(anatomy, name, shapes) for name in fed}
    graph = helper.make_graph(
        [*(anatomy.nodes[p] for p in constant), *nodes],
        "slice",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [helper.make_empty_tensor_value_info(name) for name in piece.outputs],
        kept,
    )
    model = helper.make_model(graph, opset_imports=anatomy.model.opset_import)
    model.functions.extend(anatomy.model.functions)
    model.ir_version = anatomy.model.ir_version
    return model, tuple(fed)


def _constant_nodes(anatomy: Anatomy, read: Iterable[str]) -> list[int]:
    """The nodes that compute constants among `read`: few, after optimisation."""
    needed, positions = set(read), []
    for position in range(len(anatomy.nodes) - 1, -1, -1):
        node = anatomy.nodes[position]
        live = any(o in anatomy.number for o in node.output)
        if not live and any(o in needed for o in node.output):
            positions.append(position)
            needed |= anatomy.reads[position]
    return positions[::-1]


def _element_type(anatomy: Anatomy, name: str, shapes: Mapping[str, Shape]) -> int:
    if name in shapes:
        return int(helper.np_dtype_to_tensor_dtype(np.dtype(shapes[name].dtype)))
    if name in anatomy.index.initializers:
        return int(anatomy.index.initializers[name].data_type)
    for value in anatomy.model.graph.input:
        if value.name == name:
            return int(value.type.tensor_type.elem_type)
    raise ModelError(f"the type of tensor {name!r} is not known")


def stack_inputs(
    model: ModelProto, names: tuple[str, ...], shapes: Mapping[str, Shape]
) -> ModelProto:
    """A copy that repeats some inputs along their first axis, as often as the input `COUNT` says.

    Args:
        model: of a slice.
        names: inputs that hold one batch of images.
        shapes: of one image.

    Raises:
        ModelError: the first axis of an input is not that of the images.
    """
    result = copied(model)
    tiles = []
    for name in names:
        dims = shapes[name].dims
        if not dims or dims[0] != 1:
            raise ModelError(f"the first axis of {name!r} is not that of the images")
        ones, repeats, base = (f"{name}/stack_{part}" for part in ("ones", "repeats", "base"))
        once = numpy_helper.from_array(np.ones(len(dims) - 1, np.int64), ones)
        result.graph.initializer.append(once)
        tiles.append(helper.make_node("Concat", [COUNT, ones], [repeats], axis=0))
        tiles.append(helper.make_node("Tile", [base, repeats], [name]))
        next(i for i in result.graph.input if i.name == name).name = base
    refill(result.graph.node, [*tiles, *model.graph.node])
    count = helper.make_tensor_value_info(
        COUNT, helper.np_dtype_to_tensor_dtype(np.dtype("i8")), [1]
    )
    result.graph.input.append(count)
    return result


def base_name(name: str) -> str:
    """The name of the input whose repetition is `name`."""
    return f"{name}/stack_base"
