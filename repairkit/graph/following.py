"""Follow the axis of a batch's images through a graph: a rule for each operator that moves it.

A node that works over all images of a batch is a mixer. Behind most mixers the axis is lost.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from onnx import NodeProto

from repairkit.graph import protos

Shapes = dict[str, list[int | str | None]]
"""Sizes by tensor: numbers, names, or None where nothing is known."""

_TO_THE_END = 2**31 - 1


@dataclass(frozen=True)
class Mixer:
    """A node, its operator, and in words what it does over all images of a batch."""

    node: str
    kind: str
    why: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.kind}) {self.why}"


@dataclass
class Trace:
    """The path of the images through a graph: `axes` holds their axis, by tensor.

    `batch` is the name of the number of images in `shapes`.
    """

    constants: protos.ConstantArrays
    shapes: Shapes
    batch: str
    axes: dict[str, int]
    mixers: list[Mixer] = field(default_factory=list)

    @property
    def opset(self) -> int:
        opsets = self.constants.index.model.opset_import
        versions = (o.version for o in opsets if not o.domain.strip())
        return max(versions, default=1)

    def rank(self, tensor: str) -> int | None:
        shape = self.shapes.get(tensor)
        return None if shape is None else len(shape)

    def numbers(self, node: NodeProto, slot: int) -> list[int] | None:
        """The whole numbers that a node reads at `slot`; None where they are not constant."""
        array = self.constants.numbers(node, slot)
        return None if array is None else [int(n) for n in array.reshape(-1)]

    def axis_given(self, node: NodeProto, default: int) -> int | None:
        """The attribute `axis`, counted from the front; None where the rank is not known."""
        return self.from_front(protos.int_attribute(node, "axis", default), node.input[0])

    def axes_given(self, node: NodeProto) -> list[int] | None:
        """The attribute `axes`, or the second input in newer opsets; None where there is none."""
        given = protos.ints_attribute(node, "axes")
        return self.numbers(node, 1) if given is None else given

    def from_front(self, axis: int, tensor: str) -> int | None:
        rank = self.rank(tensor)
        return axis if axis >= 0 else None if rank is None else axis + rank

    def step(self, node: NodeProto) -> None:
        """Follow the images through a node."""
        if not any(name in self.axes for name in node.input):
            return
        axis = _axis_behind(self, node)
        if isinstance(axis, str):
            self.mixes(node, axis)
            axis = None
        for name in node.output:
            seen = [i for i, size in enumerate(self.shapes.get(name, [])) if size == self.batch]
            if axis is not None and name:
                self.axes.setdefault(name, axis)
            elif len(seen) == 1:
                self.axes.setdefault(name, seen[0])

    def mixes(self, node: NodeProto, why: str) -> None:
        """List a node among the mixers."""
        self.mixers.append(Mixer(protos.node_name(node), node.op_type, why))


_Axis = int | str | None
"""The axis of the images in a node's output; or what mixes them; or None where it is not known."""

_Rule = Callable[[Trace, NodeProto, int], _Axis]
"""For operators that read images as their first input; it is given their axis there."""


def _axis_behind(trace: Trace, node: NodeProto) -> _Axis:
    if node.op_type in _JOINING:
        return _JOINING[node.op_type](trace, node)
    axis, rule = trace.axes.get(node.input[0]), _RULES.get(node.op_type)
    return None if axis is None or rule is None else rule(trace, node, axis)


# Operators that may read images at any of their inputs


_CROSSED = "joins every image with every other"
_SUMMED = "sums over the images of a batch"


def _elementwise(trace: Trace, node: NodeProto) -> _Axis:
    """Images keep their axis, counted from the back where ranks differ."""
    ranks = [trace.rank(name) for name in node.input if name]
    axes = set()
    known = [rank for rank in ranks if rank is not None]
    for name in node.input:
        if name not in trace.axes:
            continue
        rank = trace.rank(name)
        if rank is None or len(known) < len(ranks):
            axes.add(trace.axes[name] if len(set(known)) <= 1 else None)
        else:
            axes.add(trace.axes[name] + max(known) - rank)
    if len(axes) > 1 and None not in axes:
        return _CROSSED
    return axes.pop() if len(axes) == 1 else None


def _matrix_product(trace: Trace, node: NodeProto) -> _Axis:
    b_slot = 3 if node.op_type == "QLinearMatMul" else 1
    left, right = node.input[0], node.input[b_slot]
    factors = (_factor(trace, left, contracted=1), _factor(trace, right, contracted=2))
    if node.op_type == "DynamicQuantizeMatMul" and left in trace.axes:
        trace.mixes(node, _SCALED)
    if _SUMMED in factors:
        return _SUMMED
    places = {place for place in factors if isinstance(place, int)}
    if len(places) > 1:
        return _CROSSED
    rank = max((r for r in (trace.rank(left), trace.rank(right)) if r is not None), default=None)
    return places.pop() + rank if places and rank is not None else None


def _factor(trace: Trace, tensor: str, *, contracted: int) -> _Axis:
    """The axis of a factor's images, from the back, unless the product sums over it."""
    batch_axis, rank = trace.axes.get(tensor), trace.rank(tensor)
    if batch_axis is None or rank is None:
        return None
    return _SUMMED if batch_axis == rank - min(contracted, rank) else batch_axis - rank


def _gemm(trace: Trace, node: NodeProto) -> _Axis:
    turned = protos.int_attribute(node, "transA", 0), protos.int_attribute(node, "transB", 0)
    first, second = (trace.axes.get(node.input[slot]) for slot in (0, 1))
    rows = None if first is None else first ^ turned[0]
    columns = None if second is None else second ^ turned[1]
    if rows == 1 or columns == 0:
        return _SUMMED
    if rows is not None and columns is not None:
        return _CROSSED
    return rows if columns is None else columns


def _einsum(trace: Trace, node: NodeProto) -> _Axis:
    equation = protos.attribute(node, "equation")
    text = "" if equation is None else equation.s.decode().replace(" ", "")
    if "->" not in text or "." in text:
        return None
    terms, _, made = text.partition("->")
    letters = {
        term[trace.axes[name]]
        for name, term in zip(node.input, terms.split(","), strict=True)
        if name in trace.axes and trace.axes[name] < len(term)
    }
    if len(letters) > 1:
        return _CROSSED
    letter = letters.pop() if letters else ""
    if letter and letter not in made:
        return _SUMMED
    return made.index(letter) if letter else None


def _concat(trace: Trace, node: NodeProto) -> _Axis:
    axis = trace.axis_given(node, 1)
    batch_axes = {trace.axes[name] for name in node.input if name in trace.axes}
    if axis in batch_axes and len(node.input) > 1:
        return "joins other rows to the images of a batch"
    return batch_axes.pop() if len(batch_axes) == 1 else None


# Operators that read images as their first input


_NORMALISED = "normalises over the images of a batch"
_PICKED = "picks images of a batch by their place"
_SCALED = "takes its scale from all images of a batch"


def _over(what: str, default: int = 0) -> _Rule:
    """A rule for operators that work along one axis, and keep it."""

    def rule(trace: Trace, node: NodeProto, batch_axis: int) -> _Axis:
        along_images = trace.axis_given(node, default) == batch_axis
        return f"{what} over the images of a batch" if along_images else batch_axis

    return rule


def _kept(_trace: Trace, _node: NodeProto, batch_axis: int) -> int:
    return batch_axis


def _whole(why: str) -> _Rule:
    """A rule for operators that read all of their first input, and keep its axes."""

    def rule(trace: Trace, node: NodeProto, batch_axis: int) -> _Axis:
        trace.mixes(node, why)
        return batch_axis

    return rule


def _softmax(trace: Trace, node: NodeProto, batch_axis: int) -> _Axis:
    late = trace.opset >= 13
    axis = trace.axis_given(node, -1 if late else 1)
    if axis is None:
        return batch_axis
    # Before opset 13 all axes from the given one on are one.
    mixes = axis == batch_axis if late else axis <= batch_axis
    return "takes its shares over the images of a batch" if mixes else batch_axis


def _reduce(trace: Trace, node: NodeProto, batch_axis: int) -> _Axis:
    axes = trace.axes_given(node)
    if axes is None and len(node.input) > 1 and node.input[1]:
        return None
    if not axes and protos.int_attribute(node, "noop_with_empty_axes", 0):
        return batch_axis
    counted = [trace.from_front(axis, node.input[0]) for axis in axes or []]
    if not axes or batch_axis in counted:
        return "reduces over the images of a batch"
    return _without(batch_axis, counted, kept=bool(protos.int_attribute(node, "keepdims", 1)))


def _without(batch_axis: int, gone: list[int | None], *, kept: bool) -> int | None:
    """The axis after others are gone, or are kept with size 1."""
    if kept:
        return batch_axis
    if None in gone:
        return None
    return batch_axis - sum(axis < batch_axis for axis in gone if axis is not None)


def _extreme(trace: Trace, node: NodeProto, batch_axis: int) -> _Axis:
    axis = trace.axis_given(node, 0)
    if axis == batch_axis:
        return "takes the largest or least over the images of a batch"
    return _without(batch_axis, [axis], kept=bool(protos.int_attribute(node, "keepdims", 1)))


def _cumulated(trace: Trace, node: NodeProto, batch_axis: int) -> _Axis:
    axis = trace.numbers(node, 1)
    if axis and trace.from_front(axis[0], node.input[0]) == batch_axis:
        return "adds up over the images of a batch"
    return batch_axis


def _dynamic_quantisation(trace: Trace, node: NodeProto, batch_axis: int) -> None:
    """Only the codes hold images: scale and zero point are single numbers."""
    trace.mixes(node, _SCALED)
    trace.axes[node.output[0]] = batch_axis


def _batch_norm(trace: Trace, node: NodeProto, batch_axis: int) -> int:
    measured = sum(bool(name) for name in node.output) > 1  # before opset 14 that is training
    if protos.int_attribute(node, "training_mode", 0) or (trace.opset < 14 and measured):
        trace.mixes(node, f"is in training mode and {_NORMALISED}")
    return batch_axis


def _layer_norm(trace: Trace, node: NodeProto, batch_axis: int) -> _Axis:
    axis = trace.axis_given(node, -1)
    return _NORMALISED if axis is not None and axis <= batch_axis else batch_axis


def _mean_variance(trace: Trace, node: NodeProto, batch_axis: int) -> int:
    given = protos.ints_attribute(node, "axes")
    axes = [0, 2, 3] if given is None else given
    if batch_axis in [trace.from_front(axis, node.input[0]) for axis in axes]:
        trace.mixes(node, _NORMALISED)
    return batch_axis


def _by_channel(_trace: Trace, _node: NodeProto, batch_axis: int) -> _Axis:
    """Convolution, pooling and the like: images lie along axis 0, one by one."""
    return "takes the images of a batch for channels or positions" if batch_axis else 0


def _instances(trace: Trace, node: NodeProto, batch_axis: int) -> int:
    if batch_axis > 1:
        trace.mixes(node, _NORMALISED)
    return batch_axis


def _recurrent(trace: Trace, node: NodeProto, batch_axis: int) -> _Axis:
    batch_first = protos.int_attribute(node, "layout", 0) == 1
    if batch_axis != (0 if batch_first else 1):
        return "takes the images of a batch for steps in time"
    if node.op_type.startswith("Dynamic"):
        trace.mixes(node, _SCALED)
    for slot, name in enumerate(node.output):
        if name:
            trace.axes[name] = 0 if batch_first else 2 if slot == 0 else 1
    return None


def _slice(trace: Trace, node: NodeProto, batch_axis: int) -> _Axis:
    parts = [protos.ints_attribute(node, name) for name in ("starts", "ends", "axes")]
    steps = None
    if parts[0] is None:
        parts = [trace.numbers(node, slot) for slot in (1, 2, 3)]
        steps = trace.numbers(node, 4)
    starts, ends, axes = parts
    if starts is None or ends is None:
        return None
    for place, axis in enumerate(range(len(starts)) if axes is None else axes):
        if trace.from_front(axis, node.input[0]) != batch_axis:
            continue
        step = 1 if steps is None else steps[place]
        if (starts[place], step) != (0, 1) or ends[place] < _TO_THE_END:
            return _PICKED
    return batch_axis


def _gather(trace: Trace, node: NodeProto, batch_axis: int) -> _Axis:
    axis = trace.axis_given(node, 0)
    if axis is None or axis > batch_axis:
        return batch_axis if axis is not None else None
    if axis == batch_axis:
        return _PICKED
    rank = trace.rank(node.input[1])
    return None if rank is None else batch_axis - 1 + rank


def _unstack(trace: Trace, node: NodeProto, batch_axis: int) -> _Axis:
    picks = trace.axis_given(node, 0) == batch_axis and len(node.output) > 1
    return _PICKED if picks else batch_axis


def _transpose(trace: Trace, node: NodeProto, batch_axis: int) -> int | None:
    order, rank = protos.ints_attribute(node, "perm"), trace.rank(node.input[0])
    if order is not None:
        return order.index(batch_axis)
    return None if rank is None else rank - 1 - batch_axis


def _flatten(trace: Trace, node: NodeProto, batch_axis: int) -> int | None:
    axis = trace.axis_given(node, 1)
    return 0 if batch_axis == 0 and axis is not None and axis > 0 else None


def _reshape(trace: Trace, node: NodeProto, batch_axis: int) -> int | None:
    """Images stay first where the first size is copied, or the only one that is free."""
    shape = trace.numbers(node, 1)
    if batch_axis != 0 or not shape or protos.int_attribute(node, "allowzero", 0):
        return None
    return 0 if shape[0] in (0, -1) else None


def _squeeze(trace: Trace, node: NodeProto, batch_axis: int) -> int | None:
    axes = trace.axes_given(node)
    if axes is None:
        return None
    counted = [trace.from_front(axis, node.input[0]) for axis in axes]
    return None if batch_axis in counted else _without(batch_axis, counted, kept=False)


def _unsqueeze(trace: Trace, node: NodeProto, batch_axis: int) -> int | None:
    axes, rank = trace.axes_given(node), trace.rank(node.input[0])
    if axes is None or (rank is None and min(axes) < 0):
        return None
    for axis in sorted(axis if axis >= 0 else axis + (rank or 0) + len(axes) for axis in axes):
        batch_axis += axis <= batch_axis
    return batch_axis


# The operators of each rule


_JOINED: dict[Callable[[Trace, NodeProto], _Axis], str] = {
    _concat: "Concat",
    _einsum: "Einsum",
    _gemm: "Gemm",
    _matrix_product: (
        "MatMul MatMulInteger DynamicQuantizeMatMul MatMulIntegerToFloat QLinearMatMul FusedMatMul"
    ),
    # These work on one number, or on numbers at the same place.
    _elementwise: (
        "Abs Acos Acosh Add And Asin Asinh Atan Atanh BiasGelu BitShift BitwiseAnd BitwiseNot "
        "BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Cos Cosh DequantizeLinear Div Dropout "
        "Elu Equal Erf Exp FastGelu Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish "
        "Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or "
        "PRelu Pow QLinearAdd QLinearMul QuantizeLinear QuickGelu Reciprocal Relu Round Selu "
        "Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh "
        "ThresholdedRelu Where Xor"
    ),
}
_FIRST: dict[_Rule, str] = {
    _batch_norm: "BatchNormalization",
    _by_channel: (
        "Conv ConvTranspose ConvInteger QLinearConv FusedConv MaxPool LpPool AveragePool "
        "GlobalAveragePool GlobalMaxPool GlobalLpPool DepthToSpace SpaceToDepth LRN "
        "QLinearGlobalAveragePool QLinearAveragePool"
    ),
    _cumulated: "CumSum",
    _dynamic_quantisation: "DynamicQuantizeLinear",
    _extreme: "ArgMax ArgMin",
    _flatten: "Flatten",
    _gather: "Gather",
    _instances: "GroupNormalization InstanceNormalization",
    _kept: "Pad",
    _layer_norm: "LayerNormalization",
    _mean_variance: "MeanVarianceNormalization",
    _over("normalises", -1): "LpNormalization",
    _over("sorts", -1): "TopK",
    _recurrent: "LSTM GRU RNN DynamicQuantizeLSTM",
    _reduce: (
        "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum "
        "ReduceLogSumExp ReduceSumSquare"
    ),
    _reshape: "Reshape",
    _slice: "Slice",
    _softmax: "Hardmax LogSoftmax Softmax",
    _squeeze: "Squeeze",
    _transpose: "Transpose",
    _unsqueeze: "Unsqueeze",
    _unstack: "Split",
    _whole("keeps parts by their contents, over all images of a batch"): "Compress",
    _whole("lists what it keeps over all images of a batch"): "NonMaxSuppression",
    _whole("lists what it finds over all images of a batch"): "NonZero Unique",
}
_JOINING = {kind: rule for rule, kinds in _JOINED.items() for kind in kinds.split()}
_RULES = {kind: rule for rule, kinds in _FIRST.items() for kind in kinds.split()}
