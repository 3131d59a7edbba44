"""Follow the axis of a batch's images through a graph: a rule for each operator that moves it.

A rule returns the axis in the node's output, or None where it is lost, and lists the nodes that
work over all images.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from onnx import NodeProto

from repairkit.graph import index

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


def _words(text: str) -> list[str]:
    return text.split()


@dataclass
class Trace:
    """The path of the images through a graph: `axes` holds their axis, by tensor.

    `batch` is the name of the number of images in `shapes`.
    """

    constants: index.ConstantArrays
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
        return self.from_front(index.int_attribute(node, "axis", default), node.input[0])

    def axes_given(self, node: NodeProto) -> list[int] | None:
        """The attribute `axes`, or the second input in newer opsets; None where there is none."""
        given = index.ints_attribute(node, "axes")
        return self.numbers(node, 1) if given is None else given

    def from_front(self, axis: int, tensor: str) -> int | None:
        rank = self.rank(tensor)
        return axis if axis >= 0 else None if rank is None else axis + rank

    def step(self, node: NodeProto) -> None:
        """Follow the images through a node."""
        tracked = [name for name in node.input if name in self.axes]
        if not tracked:
            return
        rule = _RULES.get(node.op_type)
        axis: int | None = None
        if rule is not None:
            axis = rule(self, node)
        elif node.op_type in _ONE_BY_ONE:
            axis = _elementwise(self, node)
        for name in node.output:
            seen = [i for i, size in enumerate(self.shapes.get(name, [])) if size == self.batch]
            if axis is not None and name:
                self.axes.setdefault(name, axis)
            elif len(seen) == 1:
                self.axes.setdefault(name, seen[0])

    def mixes(self, node: NodeProto, why: str) -> None:
        self.mixers.append(Mixer(index.node_name(node), node.op_type, why))


_ONE_BY_ONE = frozenset(
    _words(
        "Abs Acos Acosh Add And Asin Asinh Atan Atanh BiasGelu BitShift BitwiseAnd "
        "BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Cos Cosh "
        "DequantizeLinear Div Dropout Elu Equal Erf Exp FastGelu Floor Gelu Greater "
        "GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less "
        "LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow QLinearAdd "
        "QLinearMul QuantizeLinear QuickGelu Reciprocal Relu Round Selu Shrink "
        "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh "
        "ThresholdedRelu Where Xor"
    )
)
"""Operators of one number, or of numbers at the same place."""


def _elementwise(trace: Trace, node: NodeProto) -> int | None:
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
        trace.mixes(node, "joins every image with every other")
        return None
    return axes.pop() if len(axes) == 1 else None


def _over(what: str, default: int | None = None) -> Callable[[Trace, NodeProto], int | None]:
    """A rule for operators that work along one axis, and keep it."""

    def rule(trace: Trace, node: NodeProto) -> int | None:
        batch_axis = trace.axes.get(node.input[0])
        if batch_axis is None:
            return None
        axis = trace.axis_given(node, default or 0)
        if axis == batch_axis:
            trace.mixes(node, f"{what} over the images of a batch")
            return None
        return batch_axis

    return rule


def _softmax(trace: Trace, node: NodeProto) -> int | None:
    batch_axis = trace.axes.get(node.input[0])
    late = trace.opset >= 13
    axis = trace.axis_given(node, -1 if late else 1)
    # Before opset 13 all axes from the given one on are one.
    if batch_axis is None or axis is None:
        return batch_axis
    if axis == batch_axis if late else axis <= batch_axis:
        trace.mixes(node, "takes its shares over the images of a batch")
        return None
    return batch_axis


def _reduce(trace: Trace, node: NodeProto) -> int | None:
    batch_axis = trace.axes.get(node.input[0])
    if batch_axis is None:
        return None
    axes = trace.axes_given(node)
    if axes is None and len(node.input) > 1 and node.input[1]:
        return None
    if not axes and index.int_attribute(node, "noop_with_empty_axes", 0):
        return batch_axis
    counted = [trace.from_front(axis, node.input[0]) for axis in axes or []]
    if not axes or batch_axis in counted:
        trace.mixes(node, "reduces over the images of a batch")
        return None
    return _without(batch_axis, counted, kept=bool(index.int_attribute(node, "keepdims", 1)))


def _without(batch_axis: int, gone: list[int | None], *, kept: bool) -> int | None:
    if kept:
        return batch_axis
    if None in gone:
        return None
    return batch_axis - sum(axis < batch_axis for axis in gone if axis is not None)


def _extreme(trace: Trace, node: NodeProto) -> int | None:
    batch_axis = _over("takes the largest or least")(trace, node)
    axis = trace.axis_given(node, 0)
    kept = bool(index.int_attribute(node, "keepdims", 1))
    return None if batch_axis is None else _without(batch_axis, [axis], kept=kept)


def _cumulated(trace: Trace, node: NodeProto) -> int | None:
    batch_axis, axis = trace.axes.get(node.input[0]), trace.numbers(node, 1)
    if batch_axis is not None and axis and trace.from_front(axis[0], node.input[0]) == batch_axis:
        trace.mixes(node, "adds up over the images of a batch")
        return None
    return batch_axis


def _whole(why: str) -> Callable[[Trace, NodeProto], int | None]:
    """A rule for operators that read all of their first input, and keep its axes."""

    def rule(trace: Trace, node: NodeProto) -> int | None:
        if node.input[0] not in trace.axes:
            return None
        trace.mixes(node, why)
        return trace.axes[node.input[0]]

    return rule


def _dynamic_quantisation(trace: Trace, node: NodeProto) -> int | None:
    batch_axis = _whole("takes its scale from all images of a batch")(trace, node)
    # Scale and zero point are single numbers.
    if batch_axis is not None:
        trace.axes[node.output[0]] = batch_axis
    return None


def _batch_norm(trace: Trace, node: NodeProto) -> int | None:
    batch_axis = trace.axes.get(node.input[0])
    measured = sum(bool(name) for name in node.output) > 1  # before opset 14 that is training
    training = index.int_attribute(node, "training_mode", 0) or (trace.opset < 14 and measured)
    if batch_axis is not None and training:
        trace.mixes(node, "is in training mode and normalises over the images of a batch")
    return batch_axis


def _layer_norm(trace: Trace, node: NodeProto) -> int | None:
    batch_axis, axis = trace.axes.get(node.input[0]), trace.axis_given(node, -1)
    if batch_axis is not None and axis is not None and axis <= batch_axis:
        trace.mixes(node, "normalises over the images of a batch")
        return None
    return batch_axis


def _mean_variance(trace: Trace, node: NodeProto) -> int | None:
    batch_axis, given = trace.axes.get(node.input[0]), index.ints_attribute(node, "axes")
    axes = [0, 2, 3] if given is None else given
    if batch_axis in [trace.from_front(axis, node.input[0]) for axis in axes]:
        trace.mixes(node, "normalises over the images of a batch")
    return batch_axis


def _by_channel(trace: Trace, node: NodeProto) -> int | None:
    """Convolution, pooling and the like: images lie along axis 0, one by one."""
    batch_axis = trace.axes.get(node.input[0])
    if batch_axis is not None and batch_axis != 0:
        trace.mixes(node, "takes the images of a batch for channels or positions")
        return None
    return batch_axis


def _instances(trace: Trace, node: NodeProto) -> int | None:
    batch_axis = trace.axes.get(node.input[0])
    if batch_axis is not None and batch_axis > 1:
        trace.mixes(node, "normalises over the images of a batch")
    return batch_axis


def _recurrent(trace: Trace, node: NodeProto) -> int | None:
    batch_axis, batch_first = (
        trace.axes.get(node.input[0]),
        index.int_attribute(node, "layout", 0) == 1,
    )
    if batch_axis is None:
        return None
    if batch_axis != (0 if batch_first else 1):
        trace.mixes(node, "takes the images of a batch for steps in time")
        return None
    if node.op_type.startswith("Dynamic"):
        trace.mixes(node, "takes its scale from all images of a batch")
    for slot, name in enumerate(node.output):
        if name:
            trace.axes[name] = 0 if batch_first else 2 if slot == 0 else 1
    return None


def _matrix_product(trace: Trace, node: NodeProto) -> int | None:
    b_slot = 3 if node.op_type == "QLinearMatMul" else 1
    left, right = node.input[0], node.input[b_slot]
    batch_axis = _factor(trace, left, contracted=1)
    other = _factor(trace, right, contracted=2)
    if node.op_type == "DynamicQuantizeMatMul" and left in trace.axes:
        trace.mixes(node, "takes its scale from all images of a batch")
    if "contracted" in (batch_axis, other):
        trace.mixes(node, "sums over the images of a batch")
        return None
    places = {place for place in (batch_axis, other) if isinstance(place, int)}
    if len(places) > 1:
        trace.mixes(node, "joins every image with every other")
        return None
    rank = max((r for r in (trace.rank(left), trace.rank(right)) if r is not None), default=None)
    return places.pop() + rank if places and rank is not None else None


def _factor(trace: Trace, tensor: str, *, contracted: int) -> int | str | None:
    """The axis of a factor's images, from the back; `contracted` where it is summed over."""
    batch_axis, rank = trace.axes.get(tensor), trace.rank(tensor)
    if batch_axis is None or rank is None:
        return None
    if batch_axis == rank - min(contracted, rank):
        return "contracted"
    return batch_axis - rank


def _gemm(trace: Trace, node: NodeProto) -> int | None:
    turned = index.int_attribute(node, "transA", 0), index.int_attribute(node, "transB", 0)
    first, second = (trace.axes.get(node.input[slot]) for slot in (0, 1))
    rows = None if first is None else first ^ turned[0]
    columns = None if second is None else second ^ turned[1]
    if rows == 1 or columns == 0:
        trace.mixes(node, "sums over the images of a batch")
        return None
    if rows is not None and columns is not None:
        trace.mixes(node, "joins every image with every other")
        return None
    return rows if columns is None else columns


def _einsum(trace: Trace, node: NodeProto) -> int | None:
    equation = index.attribute(node, "equation")
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
        trace.mixes(node, "joins every image with every other")
        return None
    letter = letters.pop() if letters else ""
    if letter and letter not in made:
        trace.mixes(node, "sums over the images of a batch")
        return None
    return made.index(letter) if letter else None


def _concat(trace: Trace, node: NodeProto) -> int | None:
    axis = trace.axis_given(node, 1)
    batch_axes = {trace.axes[name] for name in node.input if name in trace.axes}
    if axis in batch_axes and len(node.input) > 1:
        trace.mixes(node, "joins other rows to the images of a batch")
        return None
    return batch_axes.pop() if len(batch_axes) == 1 else None


def _slice(trace: Trace, node: NodeProto) -> int | None:
    batch_axis = trace.axes.get(node.input[0])
    if batch_axis is None:
        return None
    parts = [index.attribute(node, name) for name in ("starts", "ends", "axes")]
    if parts[0] is not None:
        lists = [None if part is None else list(part.ints) for part in parts]
        steps = None
    else:
        lists = [trace.numbers(node, slot) for slot in (1, 2, 3)]
        steps = trace.numbers(node, 4)
    starts, ends, axes = lists
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    for place, axis in enumerate(axes):
        if trace.from_front(axis, node.input[0]) != batch_axis:
            continue
        step = 1 if steps is None else steps[place]
        if (starts[place], step) != (0, 1) or ends[place] < _TO_THE_END:
            trace.mixes(node, "picks images of a batch by their place")
            return None
    return batch_axis


def _gather(trace: Trace, node: NodeProto) -> int | None:
    batch_axis, axis = trace.axes.get(node.input[0]), trace.axis_given(node, 0)
    if batch_axis is None:
        return None  # images look something up
    if axis is None or axis > batch_axis:
        return batch_axis if axis is not None else None
    if axis == batch_axis:
        trace.mixes(node, "picks images of a batch by their place")
        return None
    rank = trace.rank(node.input[1])
    return None if rank is None else batch_axis - 1 + rank


def _unstack(trace: Trace, node: NodeProto) -> int | None:
    batch_axis, axis = trace.axes.get(node.input[0]), trace.axis_given(node, 0)
    if batch_axis is not None and axis == batch_axis and len(node.output) > 1:
        trace.mixes(node, "picks images of a batch by their place")
        return None
    return batch_axis


def _transpose(trace: Trace, node: NodeProto) -> int | None:
    batch_axis, order = trace.axes.get(node.input[0]), index.ints_attribute(node, "perm")
    if batch_axis is None:
        return None
    if order is not None:
        return order.index(batch_axis)
    rank = trace.rank(node.input[0])
    return None if rank is None else rank - 1 - batch_axis


def _flatten(trace: Trace, node: NodeProto) -> int | None:
    batch_axis, axis = trace.axes.get(node.input[0]), trace.axis_given(node, 1)
    return 0 if batch_axis == 0 and axis is not None and axis > 0 else None


def _reshape(trace: Trace, node: NodeProto) -> int | None:
    """Images stay first where the first size is copied, or the only one that is free."""
    batch_axis, shape = trace.axes.get(node.input[0]), trace.numbers(node, 1)
    if batch_axis != 0 or not shape or index.int_attribute(node, "allowzero", 0):
        return None
    return 0 if shape[0] in (0, -1) else None


def _squeeze(trace: Trace, node: NodeProto) -> int | None:
    batch_axis, axes = trace.axes.get(node.input[0]), trace.axes_given(node)
    if batch_axis is None or axes is None:
        return None
    counted = [trace.from_front(axis, node.input[0]) for axis in axes]
    return None if batch_axis in counted else _without(batch_axis, counted, kept=False)


def _unsqueeze(trace: Trace, node: NodeProto) -> int | None:
    batch_axis, axes = trace.axes.get(node.input[0]), trace.axes_given(node)
    rank = trace.rank(node.input[0])
    if batch_axis is None or axes is None or (rank is None and min(axes) < 0):
        return None
    for axis in sorted(axis if axis >= 0 else axis + (rank or 0) + len(axes) for axis in axes):
        batch_axis += axis <= batch_axis
    return batch_axis


_RULES: dict[str, Callable[[Trace, NodeProto], int | None]] = {
    "BatchNormalization": _batch_norm,
    "Compress": _whole("keeps parts by their contents, over all images of a batch"),
    "Concat": _concat,
    "CumSum": _cumulated,
    "DynamicQuantizeLinear": _dynamic_quantisation,
    "Einsum": _einsum,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GroupNormalization": _instances,
    "Hardmax": _softmax,
    "InstanceNormalization": _instances,
    "LayerNormalization": _layer_norm,
    "LogSoftmax": _softmax,
    "LpNormalization": _over("normalises", -1),
    "LRN": _by_channel,
    "MeanVarianceNormalization": _mean_variance,
    "NonMaxSuppression": _whole("lists what it keeps over all images of a batch"),
    "NonZero": _whole("lists what it finds over all images of a batch"),
    "Pad": lambda trace, node: trace.axes.get(node.input[0]),
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _unstack,
    "Squeeze": _squeeze,
    "TopK": _over("sorts", -1),
    "Transpose": _transpose,
    "Unique": _whole("lists what it finds over all images of a batch"),
    "Unsqueeze": _unsqueeze,
    **dict.fromkeys(_words("ArgMax ArgMin"), _extreme),
    **dict.fromkeys(_words("LSTM GRU RNN DynamicQuantizeLSTM"), _recurrent),
    **dict.fromkeys(
        _words(
            "MatMul MatMulInteger DynamicQuantizeMatMul MatMulIntegerToFloat "
            "QLinearMatMul FusedMatMul"
        ),
        _matrix_product,
    ),
    **dict.fromkeys(
        _words(
            "Conv ConvTranspose ConvInteger QLinearConv FusedConv MaxPool LpPool "
            "AveragePool GlobalAveragePool GlobalMaxPool GlobalLpPool DepthToSpace "
            "SpaceToDepth QLinearGlobalAveragePool QLinearAveragePool"
        ),
        _by_channel,
    ),
    **dict.fromkeys(
        _words(
            "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 "
            "ReduceLogSum ReduceLogSumExp ReduceSumSquare"
        ),
        _reduce,
    ),
}
