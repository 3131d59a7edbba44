"""Which axis of an input holds the channels of an image, and how many there are.

Many exporters leave every size open. The first convolution still shows both: its kernel reads a
fixed number of channels, and the operators between it and the input (a Transpose, a normalisation,
a Pad, the slices and the Concat of a swap of colours) show from which axis of the input they come.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from onnx import NodeProto

from repairkit.core.errors import ModelError
from repairkit.graph.kinds.layers import slots_of
from repairkit.graph.protos import GraphIndex, int_attribute, ints_attribute
from repairkit.graph.stored.constants import Constants

_LIKELY_RANKS = (4, 5, 3)  # of an input whose shape is missing

# These keep every axis of their first input in its place.
_KEEPING = {
    *("Abs", "AveragePool", "BatchNormalization", "Cast", "CastLike", "Ceil", "Clip", "Crop"),
    *("DequantizeLinear", "Dropout", "DynamicQuantizeLinear", "Elu", "Erf", "Exp", "Floor"),
    *("GridSample", "HardSigmoid", "HardSwish", "Identity", "ImageScaler", "InstanceNormalization"),
    *("LRN", "LeakyRelu", "Log", "LpNormalization", "LpPool", "MaxPool"),
    *("MeanVarianceNormalization", "Neg", "PRelu", "QuantizeLinear", "Reciprocal", "Relu"),
    *("Resize", "Round", "Scaler", "Sigmoid", "Softplus", "Sqrt", "Tanh", "Upsample"),
}
_ARITHMETIC = {"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"}
_CONVOLUTIONS = {"Conv", "ConvInteger", "ConvTranspose", "FusedConv", "QLinearConv"}


@dataclass(frozen=True)
class ImageAxes:
    """An input's rank, and the axis and number of its channels, as the graph shows them."""

    rank: int
    channel_axis: int
    n_channels: int


@dataclass(frozen=True)
class _Axis:
    """An axis of a tensor: its size is `times` that of an axis of the input, plus `plus`.

    `source` is that axis; None where there is no single one. `times` is None where only parts of
    the axis were taken.
    """

    source: int | None
    times: Fraction | None = Fraction(1)
    plus: int = 0


_Axes = tuple[_Axis, ...]
_UNKNOWN = _Axis(None)


def image_axes(index: GraphIndex, name: str, rank: int | None) -> ImageAxes | None:
    """What the first convolution behind an input shows of it; None where there is none.

    Args:
        index: of the model.
        name: of the input.
        rank: as the input declares it; None where its shape is missing.
    """
    constants = Constants(index)
    for candidate in _LIKELY_RANKS if rank is None else (rank,):
        axes = _trace(constants, name, candidate)
        if axes is not None:
            return axes
    return None


def _trace(constants: Constants, name: str, rank: int) -> ImageAxes | None:
    known: dict[str, _Axes] = {name: tuple(_Axis(axis) for axis in range(rank))}
    for node in constants.index.nodes:
        if not any(i in known for i in node.input) or node.domain not in _DOMAINS:
            continue
        try:
            if node.op_type in _CONVOLUTIONS and node.input[0] in known:
                image = _read_kernel(node, known[node.input[0]], constants, rank)
                if image is not None:
                    return image
                continue
            axes = _behind(node, known, constants)
        except (ModelError, IndexError, ZeroDivisionError):
            # A constant that cannot be computed, or axes that do not exist: skip this node.
            continue
        if axes is not None:
            known.update({o: axes for o in node.output if o})
    return None


_DOMAINS = ("", "ai.onnx", "com.microsoft")


def _read_kernel(node: NodeProto, axes: _Axes, constants: Constants, rank: int) -> ImageAxes | None:
    kernel = node.input[slots_of(node).kernel]
    if kernel not in constants.index.constant:
        return None
    shape = constants.array(kernel).shape
    if len(shape) != len(axes) or len(shape) < 3:
        return None
    group = int_attribute(node, "group", 1)
    n_read = shape[0] if node.op_type == "ConvTranspose" else shape[1] * group
    channels = axes[1]
    if channels.source is None:  # then the axis from which no other axis comes
        free = set(range(1, rank)) - {axis.source for axis in axes}
        if len(free) != 1:
            return None
        channels = _Axis(free.pop(), None)
    assert channels.source is not None
    if channels.source == 0:
        return None
    n_channels = Fraction(n_read)
    if channels.times is not None:
        n_channels = (n_read - channels.plus) / channels.times
    if n_channels.denominator != 1 or n_channels < 1:
        return None
    return ImageAxes(rank, channels.source, int(n_channels))


def _behind(node: NodeProto, known: dict[str, _Axes], constants: Constants) -> _Axes | None:
    """The axes of a node's output, where its inputs come from the image."""
    if node.op_type in _ARITHMETIC:
        return _arithmetic(node, known, constants)
    if node.op_type == "Concat":
        return _concat(node, known, constants)
    axes = known.get(node.input[0])
    if axes is None:
        return None
    if node.op_type in _KEEPING:
        return axes
    rule = _RULES.get(node.op_type)
    return None if rule is None else rule(node, axes, constants)


def _arithmetic(node: NodeProto, known: dict[str, _Axes], constants: Constants) -> _Axes | None:
    fed = [known[i] for i in node.input if i in known]
    axes = max(fed, key=len)
    for name in node.input:
        if name in constants.index.constant and name not in known:
            missing = constants.array(name).ndim - len(axes)
            axes = (_UNKNOWN,) * max(missing, 0) + axes
    return axes


def _concat(node: NodeProto, known: dict[str, _Axes], constants: Constants) -> _Axes | None:
    parts = [known.get(i) for i in node.input]
    first = next(p for p in parts if p is not None)
    axis = int_attribute(node, "axis", 1) % len(first)
    joined = _Axis(first[axis].source, Fraction(0))
    for name, part in zip(node.input, parts, strict=True):
        if part is None and name in constants.index.constant:
            joined = replace(joined, plus=joined.plus + constants.array(name).shape[axis])
        elif part is None or len(part) != len(first) or part[axis].source != joined.source:
            return None
        else:
            times, more = joined.times, part[axis].times
            both = None if times is None or more is None else times + more
            joined = _Axis(joined.source, both, joined.plus + part[axis].plus)
    return (*first[:axis], joined, *first[axis + 1 :])


def _transposed(node: NodeProto, axes: _Axes, _constants: Constants) -> _Axes | None:
    perm = ints_attribute(node, "perm")
    order = list(range(len(axes)))[::-1] if perm is None else perm
    return tuple(axes[a] for a in order) if sorted(order) == list(range(len(axes))) else None


def _padded(node: NodeProto, axes: _Axes, constants: Constants) -> _Axes | None:
    pads = constants.integers(node, "pads", 1)
    if pads is None or pads.size != 2 * len(axes):
        return axes  # an image is padded along its sides
    added = pads.reshape(2, -1).sum(axis=0)
    return tuple(replace(a, plus=a.plus + int(n)) for a, n in zip(axes, added, strict=True))


def _sliced(node: NodeProto, axes: _Axes, constants: Constants) -> _Axes | None:
    starts = constants.integers(node, "starts", 1)
    cut = constants.integers(node, "axes", 3)
    if starts is None:
        return None
    which = range(starts.size) if cut is None else cut.tolist()
    return _parts(axes, [a % len(axes) for a in which])


def _split(node: NodeProto, axes: _Axes, _constants: Constants) -> _Axes | None:
    return _parts(axes, [int_attribute(node, "axis", 0) % len(axes)])


def _gathered(node: NodeProto, axes: _Axes, constants: Constants) -> _Axes | None:
    if node.input[1] not in constants.index.constant:
        return None
    axis = int_attribute(node, "axis", 0) % len(axes)
    rank = constants.array(node.input[1]).ndim
    if rank == 1:
        return _parts(axes, [axis])
    return (*axes[:axis], *axes[axis + 1 :]) if rank == 0 else None


def _parts(axes: _Axes, taken: list[int]) -> _Axes:
    """Only a part is left of some axes; the parts of one axis are often joined again."""
    return tuple(replace(a, times=None) if i in taken else a for i, a in enumerate(axes))


def _squeezed(node: NodeProto, axes: _Axes, constants: Constants) -> _Axes | None:
    gone = constants.integers(node, "axes", 1)
    if gone is None:
        return None
    dropped = {a % len(axes) for a in gone.tolist()}
    return tuple(axis for a, axis in enumerate(axes) if a not in dropped)


def _unsqueezed(node: NodeProto, axes: _Axes, constants: Constants) -> _Axes | None:
    added = constants.integers(node, "axes", 1)
    if added is None:
        return None
    rank = len(axes) + added.size
    fresh = {a % rank for a in added.tolist()}
    old = iter(axes)
    return tuple(_UNKNOWN if a in fresh else next(old) for a in range(rank))


def _deepened(node: NodeProto, axes: _Axes, _constants: Constants) -> _Axes | None:
    factor = Fraction(int_attribute(node, "blocksize", 1) ** 2)
    if node.op_type == "DepthToSpace":
        factor = 1 / factor
    channels = axes[1]
    if channels.times is None or channels.plus:
        return None
    return (axes[0], replace(channels, times=channels.times * factor), *axes[2:])


_RULES: dict[str, Callable[[NodeProto, _Axes, Constants], _Axes | None]] = {
    "DepthToSpace": _deepened,
    "Gather": _gathered,
    "Pad": _padded,
    "Slice": _sliced,
    "SpaceToDepth": _deepened,
    "Split": _split,
    "Squeeze": _squeezed,
    "Transpose": _transposed,
    "Unsqueeze": _unsqueezed,
}
