"""Layers that compute on integer codes, and how a level becomes codes.

`QLinearConv` gives codes: a filter is frozen by its kernel at the zero point and a bias that
requantises to the code of the level, so that levels are multiples of the output's scale.
`ConvInteger` gives sums of products: with its kernel at the zero point these are 0, which the cast
and the scale that follow keep, and the bias `Add` behind them holds the level.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from repairkit.core.arrays import Array
from repairkit.graph.index import GraphIndex
from repairkit.graph.stored.storage import Constants

ON_CODES = ("QLinearConv", "ConvInteger")
# Dense layers on codes: never sites, but they may make the model's output.
DENSE_ON_CODES = ("MatMulInteger", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat")
_X_SCALE, _KERNEL_SCALE, _SCALE, _ZERO = 1, 4, 6, 7


@dataclass(frozen=True)
class Slots:
    """At which inputs a layer's node reads its kernel, the kernel's zero point and its bias."""

    kernel: int = 1
    kernel_zero: int | None = None
    bias: int | None = 2


_SLOTS = {"QLinearConv": Slots(3, 5, 8), "ConvInteger": Slots(1, 3, None)}


def slots_of(node: NodeProto) -> Slots:
    """See `Slots`; of a `Conv` where the operator is not on codes."""
    return _SLOTS.get(node.op_type, Slots())


@dataclass(frozen=True)
class Codes:
    """How an output tensor's codes are read: `(code - zero) * scale`, within `low` and `high`.

    `factor` (n_channels,) is what a unit of the bias adds to the code, in the runtime's 32 bits.
    """

    scale: float
    zero: int
    low: int
    high: int
    factor: NDArray[np.float32]

    def held(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """The levels that come out when the nearest bias is stored for each of `levels`."""
        sums = self.bias(levels).astype(np.float32) * self.factor
        codes = np.clip(np.rint(sums) + self.zero, self.low, self.high)
        return np.asarray((codes - self.zero) * self.scale)

    def bias(self, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """The whole numbers to store in the bias."""
        codes = np.clip(np.rint(levels / self.scale), self.low - self.zero, self.high - self.zero)
        limits = np.iinfo(np.int32)
        wanted = np.rint(codes / self.factor.astype(np.float64))
        return np.clip(wanted, limits.min, limits.max)


def unfit(node: NodeProto, index: GraphIndex) -> str | None:
    """Why a layer on codes cannot be frozen, as far as its own node tells."""
    fixed = [name for name in node.input[1:] if name]
    if node.op_type == "ConvInteger":
        fixed = [name for name in (node.input[1], *node.input[3:]) if name]
    if any(name not in index.constant for name in fixed):
        return "its weights, scales or zero points are computed at run time"
    return None


def read_codes(node: NodeProto, constants: Constants, n_channels: int) -> Codes | str:
    """The codes that a `QLinearConv` gives, or why its filters cannot be frozen."""

    def value(slot: int) -> Array:
        return constants.array(node.input[slot])

    scale, zero = value(_SCALE), value(_ZERO)
    if scale.size != 1 or zero.size != 1:
        return "its output has a scale of its own for each channel"
    x_scale = np.float32(value(_X_SCALE).reshape(-1)[0])
    kernel_scale = value(_KERNEL_SCALE).reshape(-1).astype(np.float32)
    y_scale = np.float32(scale.reshape(-1)[0])
    factor = np.broadcast_to(x_scale * kernel_scale / y_scale, (n_channels,))
    if not (np.isfinite(factor).all() and (factor > 0).all()):
        return "its scales are not all above 0"
    limits = np.iinfo(zero.dtype)
    return Codes(float(y_scale), int(zero.reshape(-1)[0]), limits.min, limits.max, factor)


def kernel_rest(node: NodeProto, constants: Constants) -> NDArray[np.float64]:
    """What a kernel holds where it contributes nothing, broadcastable to the kernel's shape."""
    slot = slots_of(node).kernel_zero
    if slot is None or len(node.input) <= slot or not node.input[slot]:
        return np.zeros(())
    zero = constants.array(node.input[slot]).astype(np.float64)
    if zero.size == 1:
        return zero.reshape(())
    rank = constants.array(node.input[slots_of(node).kernel]).ndim
    return zero.reshape(-1, *[1] * (rank - 1))


def kernel_scale(node: NodeProto, constants: Constants) -> NDArray[np.float64]:
    """What one step of a kernel's codes is worth, broadcastable to the kernel's shape; else 1."""
    if node.op_type != "QLinearConv":
        return np.ones(())
    scale = constants.array(node.input[_KERNEL_SCALE]).astype(np.float64)
    if scale.size == 1:
        return scale.reshape(())
    rank = constants.array(node.input[slots_of(node).kernel]).ndim
    return scale.reshape(-1, *[1] * (rank - 1))
