"""The anatomy of one layer: which tensors hold its kernel, and where a constant can be put.

A layer is a `Conv`, `ConvTranspose`, `Gemm` or `MatMul`, with the bias `Add` and the
`BatchNormalization` that follow it alone; or a `QLinearConv`; or a `ConvInteger` with the cast, the
scale and the bias `Add` behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from repairkit.graph.index import GraphIndex, attribute, int_attribute
from repairkit.graph.kinds.codes import ON_CODES, Codes, read_codes, slots_of, unfit
from repairkit.graph.number_types import FROZEN_TYPES
from repairkit.graph.stored.storage import Constants

CONVOLUTIONS = ("Conv", "ConvTranspose", *ON_CODES)
DENSE = ("Gemm", "MatMul")
# Activations under which freezing the input at the wanted level gives just that level, because
# they leave the numbers between these bounds as they are.
IDENTITY_BOUNDS = {"Relu": (0.0, np.inf), "Clip": (-np.inf, np.inf), "LeakyRelu": (0.0, np.inf)}


@dataclass(frozen=True)
class Layer:
    """Positions of the nodes of one layer in the graph, and the names that bake must edit."""

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
    codes: Codes | None = None

    def tensor(self, index: GraphIndex) -> str:
        """Where the filters are read."""
        tail = (self.activation, self.norm, self.add, self.node)
        last = next(position for position in tail if position is not None)
        return str(index.nodes[last].output[0])


def addend_slot(node: NodeProto, index: GraphIndex) -> int | None:
    """Which input of an `Add` is constant."""
    constant = [slot for slot, name in enumerate(node.input) if name in index.constant]
    return constant[0] if node.op_type == "Add" and len(constant) == 1 else None


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


def read_layer(
    position: int, index: GraphIndex, constants: Constants, ranks: Mapping[str, int]
) -> Layer | str:
    """The layer at a node, or the reason why its filters cannot be frozen.

    `ranks` tells the rank of dense layers' outputs, as far as it is known.
    """
    node = index.nodes[position]
    slot = slots_of(node).kernel
    if node.op_type == "MatMul" and node.input[0] in index.constant:
        return "the weight is the first factor of the product"
    if node.input[slot] not in index.constant:
        return "its weights are computed at run time"
    kernel = constants.array(node.input[slot])
    shape, dtype = kernel.shape, kernel.dtype.name
    if node.op_type not in ON_CODES and dtype not in FROZEN_TYPES:
        return f"its weights are of type {dtype}, which cannot hold a constant"
    layer: Layer | str
    if node.op_type in CONVOLUTIONS:
        groups = int_attribute(node, "group", 1) if node.op_type == "ConvTranspose" else 1
        n_channels = shape[1] * groups if node.op_type == "ConvTranspose" else shape[0]
        layer = Layer(position, node.op_type, node.input[slot], n_channels, len(shape), 1, dtype)
    else:
        layer = _dense(position, node, shape, dtype, ranks.get(node.output[0]))
    if isinstance(layer, str):
        return layer
    if layer.kind in ON_CODES:
        return unfit(node, index) or _on_codes(layer, index, constants)
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in index.constant:
            return "its bias is computed at run time"
        bias = constants.array(node.input[2])
        if layer.kind == "Gemm" and not _is_per_channel(bias.shape, layer):
            return "its bias is not one number per unit"
    layer = _with_tail(layer, index, constants)
    if layer.kind == "MatMul" and layer.add is None:
        return "a MatMul without a bias Add has no place for a constant"
    return layer


def _dense(
    position: int, node: NodeProto, shape: tuple[int, ...], dtype: str, rank: int | None
) -> Layer | str:
    if len(shape) != 2:
        return f"its weight has {len(shape)} axes; 2 were expected"
    if node.op_type == "MatMul":
        if rank is None:
            return "the rank of its output is not known"
        return Layer(position, "MatMul", node.input[1], shape[1], rank, rank - 1, dtype)
    beta = attribute(node, "beta")
    if beta is not None and beta.f != 1.0:
        return f"its bias is scaled (beta = {beta.f:g})"
    n_channels = shape[0] if int_attribute(node, "transB", 0) else shape[1]
    return Layer(position, "Gemm", node.input[1], n_channels, 2, 1, dtype)


def _on_codes(layer: Layer, index: GraphIndex, constants: Constants) -> Layer | str:
    """A layer on codes, with what stands between a `ConvInteger` and its bias `Add`."""
    node = index.nodes[layer.node]
    if layer.kind == "QLinearConv":
        codes = read_codes(node, constants, layer.n_channels)
        if isinstance(codes, str):
            return codes
        return replace(layer, codes=codes, dtype=constants.array(node.input[7]).dtype.name)
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


def _with_tail(layer: Layer, index: GraphIndex, constants: Constants) -> Layer:
    """The layer together with the bias `Add` and the normalisation that follow it alone."""
    reader = index.sole_reader(layer.tensor(index))
    if reader is not None and index.nodes[reader.node].op_type == "Add":
        add = index.nodes[reader.node]
        slot = addend_slot(add, index)
        if slot is not None and _is_per_channel(constants.array(add.input[slot]).shape, layer):
            layer = replace(layer, add=reader.node)
            reader = index.sole_reader(layer.tensor(index))
    if reader is not None and _is_plain_norm(index.nodes[reader.node], index):
        layer = replace(layer, norm=reader.node)
    return layer


def _is_per_channel(shape: tuple[int, ...], layer: Layer) -> bool:
    """Whether a bias of this shape gives every channel its own number."""
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


def with_activation(layer: Layer, index: GraphIndex) -> Layer:
    """The layer with the activation that follows it alone, where a level can be put behind it."""
    reader = index.sole_reader(layer.tensor(index))
    if reader is None or layer.codes is not None:
        return layer
    node = index.nodes[reader.node]
    known = all(name in index.constant for name in node.input[1:] if name)
    if node.op_type in IDENTITY_BOUNDS and known:
        return replace(layer, activation=reader.node)
    return layer


def activation_bounds(node: NodeProto, constants: Constants) -> tuple[float, float]:
    """The range in which an activation leaves numbers as they are."""
    low, high = IDENTITY_BOUNDS[node.op_type]
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
