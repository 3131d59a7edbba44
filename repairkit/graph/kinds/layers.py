"""The nodes and tensors of one layer whose filters are channels, and how its output holds numbers.

A layer is a `Conv`, `ConvTranspose`, `Gemm` or `MatMul`, with the bias `Add` and the
`BatchNormalization` that follow it alone. Or it computes on integer codes:

- `QLinearConv` gives codes: a filter is frozen by a kernel at the zero point and a bias that
  requantises to the code of the level, so that levels are multiples of the output's scale.
- `ConvInteger` gives sums of products. With a kernel at the zero point these are 0, the cast and
  the scale that follow keep them 0, and the bias `Add` behind those holds the level.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import DTypeLike, NDArray
from onnx import NodeProto

from repairkit.core.suite import Array
from repairkit.graph.protos import (
    ConstantArrays,
    GraphIndex,
    attribute,
    float_attribute,
    int_attribute,
)
from repairkit.graph.stored.tensors import FROZEN_TYPES

ON_FLOATS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ON_CODES = ("QLinearConv", "ConvInteger")
DENSE = ("Gemm", "MatMul")
# Dense layers on codes: never sites, but they may make the model's output.
DENSE_ON_CODES = ("MatMulInteger", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat")
# Behind these activations a filter yields the level at which the activation's input is frozen, if
# the level lies between these bounds: there they leave numbers as they are.
_IDENTITY_BOUNDS = {"Relu": (0.0, np.inf), "Clip": (-np.inf, np.inf), "LeakyRelu": (0.0, np.inf)}
# What an activation is made of: nodes that bend, and nodes between them.
_BENDING = frozenset(
    {
        "Celu", "Clip", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish",
        "PRelu", "Pow", "QuickGelu", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish",
        "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
_ARITHMETIC = frozenset({"Add", "Cast", "Div", "Dropout", "Identity", "Mul", "Sub"})
_X_SCALE, _KERNEL_SCALE, _SCALE, _ZERO = 1, 4, 6, 7  # inputs of QLinearConv


# Inputs of a layer's node


@dataclass(frozen=True)
class Slots:
    """At which inputs a layer's node reads its kernel, the kernel's zero point and its bias."""

    kernel: int = 1
    kernel_zero: int | None = None
    bias: int | None = 2


_SLOTS = {"QLinearConv": Slots(3, 5, 8), "ConvInteger": Slots(1, 3, None)}


def slots_of(node: NodeProto) -> Slots:
    """See `Slots`; those of a `Conv` where the operator does not work on codes."""
    return _SLOTS.get(node.op_type, Slots())


def kernel_mask(node: NodeProto, shape: tuple[int, ...], channel: int) -> NDArray[np.bool_]:
    """True at the kernel's elements that feed one output channel."""
    mask = np.zeros(shape, bool)
    if node.op_type in ("Conv", *ON_CODES):
        mask[channel] = True
    elif node.op_type == "ConvTranspose":
        groups = int_attribute(node, "group", 1)
        rows = shape[0] // groups
        group, within = divmod(channel, shape[1])
        mask[group * rows : (group + 1) * rows, within] = True
    elif int_attribute(node, "transB", 0):
        mask[channel] = True
    else:
        mask[..., channel] = True
    return mask


def rows_of(node: NodeProto, kernel: Array, channel: int) -> Array:
    """The weights that feed one output channel, (n_inputs, n_places)."""
    weights = kernel[kernel_mask(node, kernel.shape, channel)]
    n_inputs = kernel.shape[0] if node.op_type == "ConvTranspose" else kernel.shape[1]
    if node.op_type in DENSE:
        n_inputs = weights.size
    elif node.op_type == "ConvTranspose":
        n_inputs //= int_attribute(node, "group", 1)
    return weights.reshape(n_inputs, -1)


def kernel_rest(node: NodeProto, constants: ConstantArrays) -> NDArray[np.float64]:
    """What a kernel holds where it contributes nothing, broadcastable to the kernel's shape."""
    slot = slots_of(node).kernel_zero
    if slot is None or len(node.input) <= slot or not node.input[slot]:
        return np.zeros(())
    return _per_kernel(node, constants, slot)


def kernel_scale(node: NodeProto, constants: ConstantArrays) -> NDArray[np.float64]:
    """What one step of a kernel's codes is worth, broadcastable to the kernel's shape; else 1."""
    if node.op_type != "QLinearConv":
        return np.ones(())
    return _per_kernel(node, constants, _KERNEL_SCALE)


def _per_kernel(node: NodeProto, constants: ConstantArrays, slot: int) -> NDArray[np.float64]:
    """One number, or one per output channel of a kernel, broadcastable to the kernel's shape."""
    values = constants.array(node.input[slot]).astype(np.float64)
    if values.size == 1:
        return values.reshape(())
    rank = constants.array(node.input[slots_of(node).kernel]).ndim
    return values.reshape(-1, *[1] * (rank - 1))


def addend_slot(node: NodeProto, index: GraphIndex) -> int | None:
    """Which input of an `Add` is constant."""
    constant = [slot for slot, name in enumerate(node.input) if name in index.constant]
    return constant[0] if node.op_type == "Add" and len(constant) == 1 else None


# How an output holds numbers


@dataclass(frozen=True)
class Floats:
    """The output holds floats: the bias is the level.

    `scalable`: numbers can be scaled exactly, as partly frozen filters and activations do.
    `bias_type`: the element type of a bias; None for that of the kernel.
    """

    scale: None = None
    zero: int = 0
    scalable: bool = True
    bias_type: None = None

    def bias(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the bias must hold for these levels, one per channel."""
        return levels

    def level(self, bias: NDArray[np.float32]) -> NDArray[np.float32]:
        """The level that a bias gives."""
        return bias

    def held(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """The levels that come out when the nearest bias is stored for each."""
        return levels

    def nearest(
        self, levels: NDArray[np.float64], read_back: Callable[[NDArray[np.float64]], Array], /
    ) -> Array:
        """The levels that come out, where `read_back` tells what the stored bias reads as."""
        return read_back(levels)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The output holds codes: they mean `(code - zero) * scale`, within `low` and `high`.

    `factor` (n_channels,) is what a unit of the bias adds to the code, in the runtime's 32 bits.
    """

    scale: float
    zero: int
    low: int
    high: int
    factor: NDArray[np.float32]
    scalable: bool = False
    bias_type: DTypeLike = np.int32

    def bias(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Whole numbers: the bias counts products of input and kernel steps."""
        codes = np.clip(np.rint(levels / self.scale), self.low - self.zero, self.high - self.zero)
        limits = np.iinfo(np.int32)
        wanted = np.rint(codes / self.factor.astype(np.float64))
        return np.clip(wanted, limits.min, limits.max)

    def level(self, bias: NDArray[np.float32]) -> NDArray[np.float32]:
        return bias * self.factor * np.float32(self.scale)

    def held(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = self.bias(levels).astype(np.float32) * self.factor
        codes = np.clip(np.rint(sums) + self.zero, self.low, self.high)
        return np.asarray((codes - self.zero) * self.scale)

    def nearest(
        self, levels: NDArray[np.float64], _read_back: Callable[[NDArray[np.float64]], Array], /
    ) -> Array:
        return self.held(levels).astype(np.float32)


# The layer itself


@dataclass(frozen=True, kw_only=True)
class LayerNodes:
    """Positions of the nodes of one layer in the graph, and what baking must know of them."""

    node: int
    kind: str
    kernel: str
    n_channels: int
    rank: int
    channel_axis: int
    dtype: str
    add: int | None = None
    norm: int | None = None
    activation: int | None = None
    numbers: Floats | Codes = Floats()

    def tensor(self, index: GraphIndex) -> str:
        """Where the filters are read."""
        tail = (self.activation, self.norm, self.add, self.node)
        last = next(position for position in tail if position is not None)
        return str(index.nodes[last].output[0])


def read_layer(
    position: int, constants: ConstantArrays, ranks: Mapping[str, int], *, behind_activation: bool
) -> LayerNodes | str:
    """The layer at a node, or the reason why its filters cannot be frozen.

    Args:
        position: of a node of one of `ON_FLOATS` or `ON_CODES`.
        constants: of the graph.
        ranks: the rank of dense layers' outputs, as far as it is known.
        behind_activation: whether the activation that follows belongs to the layer.
    """
    index = constants.index
    node = index.nodes[position]
    slot = slots_of(node).kernel
    if node.op_type == "MatMul" and node.input[0] in index.constant:
        return "the weight is the first factor of the product"
    if node.input[slot] not in index.constant:
        return "its weights are computed at run time"
    kernel = constants.array(node.input[slot])
    if node.op_type in ON_FLOATS and kernel.dtype.name not in FROZEN_TYPES:
        return f"its weights are of type {kernel.dtype.name}, which cannot hold a constant"
    layer = _outline(position, node, kernel, ranks)
    if not isinstance(layer, str):
        layer = _TAILS.get(node.op_type, _on_floats)(layer, constants)
    if isinstance(layer, str):
        return layer
    fault = _contradiction(layer, constants)
    if fault is None and behind_activation:
        return _with_activation(layer, index)
    return fault or layer


def _outline(
    position: int, node: NodeProto, kernel: Array, ranks: Mapping[str, int]
) -> LayerNodes | str:
    """The layer's own node."""
    if node.op_type in DENSE:
        if kernel.ndim != 2:
            return f"its weight has {kernel.ndim} axes; 2 were expected"
        rank = ranks.get(node.output[0]) if node.op_type == "MatMul" else 2
        if rank is None:
            return "the rank of its output is not known"
        beta = float_attribute(node, "beta", 1.0)
        if node.op_type == "Gemm" and beta != 1.0:
            return f"its bias is scaled (beta = {beta:g})"
        transposed = node.op_type == "Gemm" and int_attribute(node, "transB", 0)
        n_channels, axis = kernel.shape[0 if transposed else 1], rank - 1
    else:
        n_channels, rank, axis = kernel.shape[0], kernel.ndim, 1
        if node.op_type == "ConvTranspose":
            n_channels = kernel.shape[1] * int_attribute(node, "group", 1)
    return LayerNodes(
        node=position,
        kind=node.op_type,
        kernel=node.input[slots_of(node).kernel],
        n_channels=n_channels,
        rank=rank,
        channel_axis=axis,
        dtype=kernel.dtype.name,
    )


def _on_floats(layer: LayerNodes, constants: ConstantArrays) -> LayerNodes | str:
    """The layer together with the bias `Add` and the normalisation that follow it alone."""
    index = constants.index
    node = index.nodes[layer.node]
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in index.constant:
            return "its bias is computed at run time"
        bias = constants.array(node.input[2])
        if layer.kind == "Gemm" and not _is_per_channel(bias.shape, layer):
            return "its bias is not one number per unit"
    reader = index.sole_reader(layer.tensor(index))
    if reader is not None and index.nodes[reader.node].op_type == "Add":
        add = index.nodes[reader.node]
        slot = addend_slot(add, index)
        if slot is not None and _is_per_channel(constants.array(add.input[slot]).shape, layer):
            layer = replace(layer, add=reader.node)
            reader = index.sole_reader(layer.tensor(index))
    if reader is not None and _is_plain_norm(index.nodes[reader.node], index):
        layer = replace(layer, norm=reader.node)
    if layer.kind == "MatMul" and layer.add is None:
        return "a MatMul without a bias Add has no place for a constant"
    return layer


def _requantised(layer: LayerNodes, constants: ConstantArrays) -> LayerNodes | str:
    """A `QLinearConv`, which gives codes."""
    index = constants.index
    node = index.nodes[layer.node]
    if any(name not in index.constant for name in node.input[1:] if name):
        return "its weights, scales or zero points are computed at run time"
    scale, zero = (constants.array(node.input[slot]) for slot in (_SCALE, _ZERO))
    if scale.size != 1 or zero.size != 1:
        return "its output has a scale of its own for each channel"
    x_scale = np.float32(constants.array(node.input[_X_SCALE]).reshape(-1)[0])
    kernel_steps = constants.array(node.input[_KERNEL_SCALE]).reshape(-1).astype(np.float32)
    y_scale = np.float32(scale.reshape(-1)[0])
    factor = np.broadcast_to(x_scale * kernel_steps / y_scale, (layer.n_channels,))
    if not (np.isfinite(factor).all() and (factor > 0).all()):
        return "its scales are not all above 0"
    limits = np.iinfo(zero.dtype)
    codes = Codes(
        scale=float(y_scale),
        zero=int(zero.reshape(-1)[0]),
        low=limits.min,
        high=limits.max,
        factor=factor,
    )
    return replace(layer, numbers=codes, dtype=zero.dtype.name)


def _integer_sums(layer: LayerNodes, constants: ConstantArrays) -> LayerNodes | str:
    """A `ConvInteger`, with what stands between it and its bias `Add`."""
    index = constants.index
    node = index.nodes[layer.node]
    fixed = (node.input[1], *node.input[3:])
    if any(name not in index.constant for name in fixed if name):
        return "its weights, scales or zero points are computed at run time"
    tensor, position = str(node.output[0]), layer.node
    for kind in ("Cast", "Mul", "Add"):
        reader = index.sole_reader(tensor)
        if reader is None or index.nodes[reader.node].op_type != kind:
            return "no bias Add follows its cast and scale, so there is no place for a constant"
        position = reader.node
        tensor = str(index.nodes[position].output[0])
    slot = addend_slot(index.nodes[position], index)
    if slot is None:
        return "no bias Add follows its cast and scale, so there is no place for a constant"
    bias = constants.array(index.nodes[position].input[slot])
    if not _is_per_channel(bias.shape, layer):
        return "its bias is not one number per filter"
    return replace(layer, add=position, dtype=bias.dtype.name)


_TAILS: dict[str, Callable[[LayerNodes, ConstantArrays], LayerNodes | str]] = {
    "ConvInteger": _integer_sums,
    "QLinearConv": _requantised,
}


def _is_per_channel(shape: tuple[int, ...], layer: LayerNodes) -> bool:
    """Whether a bias of this shape has one number for every channel."""
    if len(shape) > layer.rank:
        return False
    padded = (1,) * (layer.rank - len(shape)) + tuple(shape)
    wanted = [1] * layer.rank
    wanted[layer.channel_axis] = layer.n_channels
    return padded == tuple(wanted)


def _is_plain_norm(node: NodeProto, index: GraphIndex) -> bool:
    return (
        node.op_type == "BatchNormalization"
        and not any(node.output[1:])
        and int_attribute(node, "training_mode", 0) == 0
        and int_attribute(node, "spatial", 1) == 1
        and all(name in index.constant for name in node.input[1:])
    )


def _contradiction(layer: LayerNodes, constants: ConstantArrays) -> str | None:
    """What contradicts itself in the shapes of a layer; None where nothing does."""
    if not -layer.rank <= layer.channel_axis < layer.rank:
        return f"its output has {layer.rank} dimensions, too few for channels"
    node = constants.index.nodes[layer.node]
    slot = slots_of(node).bias
    if node.op_type in DENSE or slot is None:
        return None
    bias = constants.numbers(node, slot)
    if bias is None or bias.size == layer.n_channels:
        return None
    return f"its bias has {bias.size} values for {layer.n_channels} filters"


def _with_activation(layer: LayerNodes, index: GraphIndex) -> LayerNodes:
    """The layer with the activation that follows it alone, where a level can be put behind it."""
    reader = index.sole_reader(layer.tensor(index))
    if reader is None or not layer.numbers.scalable:
        return layer
    node = index.nodes[reader.node]
    known = all(name in index.constant for name in node.input[1:] if name)
    if node.op_type in _IDENTITY_BOUNDS and known:
        return replace(layer, activation=reader.node)
    return layer


def is_hidden(position: int, index: GraphIndex) -> bool:
    """Whether a dense layer is a hidden one: an activation and another dense layer follow it.

    The activation may be made of several nodes, as GELU is (x / 2 (1 + erf(x / sqrt(2)))).
    """
    seen, bent = {str(index.nodes[position].output[0])}, False
    for node in index.nodes[position + 1 :]:
        if not any(name in seen for name in node.input):
            continue
        if node.op_type in DENSE:
            return bent and node.input[0] in seen and node.input[1] in index.constant
        if node.op_type in _BENDING:
            bent = True
        elif node.op_type not in _ARITHMETIC:
            return False
        if any(name in index.fed and name not in seen for name in node.input):
            return False
        seen.update(node.output)
    return False


def activation_bounds(node: NodeProto, constants: ConstantArrays) -> tuple[float, float]:
    """The range in which an activation leaves numbers as they are."""
    low, high = _IDENTITY_BOUNDS[node.op_type]
    if node.op_type != "Clip":
        return low, high
    for slot, name in ((1, "min"), (2, "max")):
        bound: float | None = None
        if (old_form := attribute(node, name)) is not None:
            bound = float(old_form.f)
        elif len(node.input) > slot and node.input[slot]:
            bound = float(constants.array(node.input[slot]))
        if bound is not None:
            low, high = (bound, high) if slot == 1 else (low, bound)
    return low, high
