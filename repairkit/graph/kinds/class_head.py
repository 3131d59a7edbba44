"""The layer that computes the class scores: how it is stored, and its scores for given features.

The graph is followed from an output back to the last layer. Only operators that are exact in the
scores may lie between: those that pass numbers on, sums and factors that are stored for each class,
a mean over positions, and at the very end a softmax or a sigmoid. So the scores are

    scores = score_scale * mean over positions(features @ weight.T) + sums,

and class biases or new weights have the same effect in the file as they have here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from repairkit.core import errors, suite
from repairkit.graph import protos
from repairkit.graph.kinds.layers import DENSE_ON_CODES, ON_CODES
from repairkit.graph.stored.constants import Constants
from repairkit.graph.stored.tensors import FROZEN_TYPES
from repairkit.graph.structure import Ending

Floats = NDArray[np.float64]

_PASSING = {
    "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast", "CastLike",
    "Dropout",
}  # fmt: skip
_MEANS = {"GlobalAveragePool", "AveragePool", "ReduceMean"}
_ENDINGS: dict[str, Ending] = {
    "Softmax": "softmax",
    "LogSoftmax": "log-softmax",
    "Sigmoid": "sigmoid",
}
_LAYERS = ("Conv", "Gemm", "MatMul")
_GROUPED = "{} is a convolution of several groups, so its weights cannot be refitted"
_BIAS = 2  # the input of Conv, Gemm and BatchNormalization that holds it


@dataclass(frozen=True)
class Place:
    """Where a bias is stored: the input `slot` of a node, which it may not have yet."""

    node: int
    slot: int


@dataclass(frozen=True, kw_only=True)
class ClassHead:
    """The last layer and what follows it.

    Attributes:
        name: of the layer, as a site's.
        node: its position in the graph.
        kind: its operator.
        kernel: the tensor of its weights.
        weight: (n_classes, n_features), as stored.
        features: the tensor that feeds it.
        own_output: the tensor that the layer makes.
        windows: what a convolution sees; None for a dense layer.
        ending: the function that the model applies to the scores.
        own_bias: (n_classes,), the bias of the layer itself.
        place: where a class bias is best stored; None where there is no place.
        bias: (n_classes,), the numbers stored there; None where there are none.
        weight_scale: (n_classes,), the effect of one unit of a stored weight on the scores.
        bias_scale: (n_classes,), the same for the bias.
        tail_scale: (n_classes,), the factor on the layer's own output behind it.
        tail_shift: (n_classes,), the sum that is added after that.
        fixed_weight: why the weights cannot be changed; empty where they can be.
        dtype: of the weights.
    """

    name: str
    node: int
    kind: str
    kernel: str
    weight: Floats
    features: str
    own_output: str
    windows: Windows | None
    ending: Ending
    own_bias: Floats
    place: Place | None
    bias: Floats | None
    weight_scale: Floats
    bias_scale: Floats
    tail_scale: Floats
    tail_shift: Floats
    fixed_weight: str
    dtype: str

    @property
    def n_classes(self) -> int:
        return len(self.weight)

    @property
    def biases(self) -> Floats:
        """The numbers stored for class biases, (n_classes,); zeros where there are none."""
        return np.zeros(self.n_classes) if self.bias is None else self.bias

    @property
    def fixed_bias(self) -> str:
        """Why the class biases cannot be changed; empty where they can be."""
        if self.place is not None:
            return ""
        return (
            f"the last layer {self.name!r} is a {self.kind} without a bias Add, so it has no place "
            "for class biases; export the model with a bias in its last layer"
        )

    def score_rows(self, made: suite.Array) -> Floats:
        """Class scores (n, n_classes) from the layer's own output for n images."""
        if self.kind == "Conv":
            sums = made.reshape(len(made), self.n_classes, -1).astype(np.float64).mean(axis=2)
        else:
            sums = made.reshape(len(made), -1, self.n_classes).astype(np.float64).mean(axis=1)
        return np.asarray(self.tail_scale * sums + self.tail_shift)

    def feature_rows(self, features: suite.Array) -> suite.Array:
        """Features (n, n_features) of n images, so that the scores are linear in them."""
        if self.windows is not None:
            return self.windows.means(features).reshape(len(features), -1)
        rows = features.reshape(len(features), -1, self.weight.shape[1])
        return rows[:, 0] if rows.shape[1] == 1 else rows.mean(axis=1, dtype=np.float64)

    def scores(self, rows: suite.Array, weight: Floats, bias: Floats | None) -> Floats:
        """Class scores of features under stored weights and a stored bias."""
        product = rows.astype(np.float64) @ (self.weight_scale[:, None] * weight).T
        return np.asarray(product + self.offset(bias))

    def offset(self, bias: Floats | None) -> Floats:
        """The sum added to the product of features and weights, if `bias` is stored."""
        sums = self.tail_shift + self.tail_scale * self.own_bias
        return sums if bias is None else sums + self.bias_scale * (bias - self.biases)

    def answers(self, scores: Floats) -> Floats:
        """The model's output for class scores."""
        if self.ending == "linear":
            return scores
        if self.ending == "sigmoid":
            return 1.0 / (1.0 + np.exp(-np.clip(scores, -700.0, 700.0)))
        shifted = scores - scores.max(axis=1, keepdims=True)
        if self.ending == "softmax":
            raised = np.exp(shifted)
            return np.asarray(raised / raised.sum(axis=1, keepdims=True))
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


@dataclass(frozen=True, kw_only=True)
class _Step:
    """An operator behind the layer that multiplies and adds numbers stored for each class.

    `slot` is the input that holds the added numbers, `stored`, if they can be changed there.
    """

    node: int
    slot: int | None = None
    scale: Floats = field(default_factory=lambda: np.ones(()))
    shift: Floats = field(default_factory=lambda: np.zeros(()))
    stored: Floats | None = None


def head_named(index: protos.GraphIndex, layer: str) -> ClassHead:
    """The head of that name, for any of the outputs.

    Raises:
        ModelError: no output is made by such a layer.
    """
    reasons = []
    for output in index.outputs:
        try:
            head = find_head(index, output)
        except errors.ModelError as error:
            reasons.append(str(error))
            continue
        if head.name == layer:
            return head
        reasons.append(f"output {output!r} is made by {head.name!r}")
    raise errors.ModelError(
        f"{layer!r} is not a last layer that can be changed: {'; '.join(reasons)}"
    )


def find_head(index: protos.GraphIndex, output: str) -> ClassHead:
    """The layer that computes the class scores of an output.

    Raises:
        ModelError: there is no layer whose change would show exactly in the scores.
    """
    constants = Constants(index)
    name, ending, pooled = output, None, False
    steps: list[_Step] = []
    for _ in range(len(index.nodes) + 1):
        if name not in index.producers or name in index.constant:
            raise errors.ModelError(f"output {output!r} is made by no layer of learned weights")
        position = index.producers[name]
        node = index.nodes[position]
        kind = node.op_type
        if node.domain not in protos.STANDARD or protos.subgraphs(node):
            raise _between(node, output)
        if kind in _LAYERS:
            head = _read(constants, position)
            return _behind(head, index, steps, ending or "linear")
        if kind in _ENDINGS or kind == "Log":
            if ending is not None or pooled or steps:
                raise _between(node, output)
            ending = _ENDINGS.get(kind, "log-softmax")
            if kind == "Log":
                position = index.producers.get(node.input[0], position)
                node = index.nodes[position]
                if node.op_type != "Softmax":
                    raise _between(node, output)
        elif kind in _MEANS:
            pooled = True
        elif kind not in _PASSING:
            step, name = _affine(node, position, index, constants, output)
            steps.append(step)
            continue
        name = str(node.input[0])
    raise errors.ModelError(f"output {output!r} is made by no layer of learned weights")


def _between(node: NodeProto, output: str) -> errors.ModelError:
    """The error for an operator that no change of the last layer passes exactly."""
    kind = node.op_type
    if "Quantize" in kind or "QLinear" in kind or kind in (*ON_CODES, *DENSE_ON_CODES):
        return errors.ModelError(
            f"the end of output {output!r} computes on integer codes ({kind}), where biases and "
            "weights cannot be set exactly; use the model before it was quantised"
        )
    return errors.ModelError(
        f"output {output!r} is not the class scores of a last layer: a {kind} stands before it"
    )


def _affine(
    node: NodeProto, position: int, index: protos.GraphIndex, constants: Constants, output: str
) -> tuple[_Step, str]:
    """Sums and factors stored for each class, and the tensor to which they are applied."""
    kind = node.op_type
    if kind == "BatchNormalization":
        if not all(name in index.constant for name in node.input[1:]) or any(node.output[1:]):
            raise _between(node, output)
        gamma, beta, mean, variance = (_flat(constants, name) for name in node.input[1:5])
        scale = gamma / np.sqrt(variance + protos.float_attribute(node, "epsilon", 1e-5))
        shift = beta - mean * scale
        step = _Step(node=position, slot=_BIAS, scale=scale, shift=shift, stored=beta)
        return step, str(node.input[0])
    fixed = [slot for slot, name in enumerate(node.input) if name in index.constant]
    if kind not in ("Add", "Sub", "Mul", "Div") or len(node.input) != 2 or len(fixed) != 1:
        raise _between(node, output)
    slot = fixed[0]
    if protos.is_dequantised(index, node.input[slot]):
        raise _between(index.nodes[index.producers[node.input[slot]]], output)
    numbers, other = _flat(constants, node.input[slot]), str(node.input[1 - slot])
    if kind == "Add":
        return _Step(node=position, slot=slot, shift=numbers, stored=numbers), other
    if kind == "Sub" and slot == 1:
        return _Step(node=position, shift=-numbers), other
    if kind == "Mul":
        return _Step(node=position, scale=numbers), other
    if kind == "Div" and slot == 1 and numbers.all():
        return _Step(node=position, scale=1.0 / numbers), other
    raise _between(node, output)


def _flat(constants: Constants, name: str) -> Floats:
    return constants.array(name).reshape(-1).astype(np.float64)


def _read(constants: Constants, position: int) -> ClassHead:
    """The layer itself, as if nothing followed it."""
    index = constants.index
    node, name = index.nodes[position], protos.layer_names(index)[position]
    kind, layer = node.op_type, f"the last layer {name!r}"
    kernel = _kernel(node, constants, layer)
    weight = _rows_of(node, kernel)
    n_classes = len(weight)
    stored = _own_bias(node, constants, layer, n_classes)
    alpha = protos.float_attribute(node, "alpha", 1.0) if kind == "Gemm" else 1.0
    beta = protos.float_attribute(node, "beta", 1.0) if kind == "Gemm" else 1.0
    one = np.ones(n_classes)
    grouped = kind == "Conv" and protos.int_attribute(node, "group", 1) != 1
    return ClassHead(
        name=name,
        node=position,
        kind=kind,
        kernel=str(node.input[1]),
        weight=weight.astype(np.float64),
        features=str(node.input[0]),
        own_output=str(node.output[0]),
        windows=windows_of(node, kernel.shape[2:]) if kind == "Conv" else None,
        ending="linear",
        own_bias=np.zeros(n_classes) if stored is None else beta * stored * one,
        place=None if kind == "MatMul" or not beta else Place(position, _BIAS),
        bias=None if stored is None else stored * one,
        weight_scale=alpha * one,
        bias_scale=beta * one,
        tail_scale=one,
        tail_shift=np.zeros(n_classes),
        fixed_weight=_GROUPED.format(layer) if grouped else "",
        dtype=kernel.dtype.name,
    )


def _kernel(node: NodeProto, constants: Constants, layer: str) -> suite.Array:
    """The weights of a last layer, if they are floats that can be set."""
    index = constants.index
    if node.input[0] in index.constant or node.input[1] not in index.constant:
        raise errors.ModelError(
            f"the weights of {layer} are not its second input, stored in the file"
        )
    if protos.is_dequantised(index, node.input[1]) or protos.is_dequantised(index, node.input[0]):
        raise errors.ModelError(
            f"{layer} computes on integer codes, where biases and weights cannot be set exactly; "
            "use the model before it was quantised"
        )
    kernel = constants.array(node.input[1])
    if kernel.dtype.name not in FROZEN_TYPES:
        raise errors.ModelError(
            f"the weights of {layer} are of type {kernel.dtype.name}, not of floats"
        )
    if node.op_type != "Conv" and (kernel.ndim != 2 or protos.int_attribute(node, "transA", 0)):
        raise errors.ModelError(
            f"{layer} is no product of a row of features and a matrix of weights"
        )
    return kernel


def _own_bias(node: NodeProto, constants: Constants, layer: str, n_classes: int) -> Floats | None:
    """The bias that the layer itself stores: one number, or one for each class."""
    if node.op_type == "MatMul" or len(node.input) <= _BIAS or not node.input[_BIAS]:
        return None
    if node.input[_BIAS] not in constants.index.constant:
        raise errors.ModelError(f"the bias of {layer} is computed at run time")
    stored = _flat(constants, node.input[_BIAS])
    if stored.size not in (1, n_classes):
        raise errors.ModelError(
            f"the bias of {layer} has {stored.size} values for {n_classes} classes"
        )
    return stored


def _behind(
    head: ClassHead, index: protos.GraphIndex, steps: list[_Step], ending: Ending
) -> ClassHead:
    """The head with what follows its layer; `steps` go from the output upwards."""
    n = head.n_classes
    scale, shift = np.ones(n), np.zeros(n)
    place: Place | None = None
    bias: Floats | None = None
    unit = scale
    for step in steps:  # the last of them stands first
        for numbers in (step.scale, step.shift):
            if numbers.size not in (1, n):
                raise _between(index.nodes[step.node], index.nodes[head.node].output[0])
        stored = step.stored
        if place is None and stored is not None and stored.size == n:
            place, bias, unit = Place(step.node, step.slot or 0), stored, scale
        shift = shift + scale * step.shift
        scale = scale * step.scale
    if place is None:
        place, bias, unit = head.place, head.bias, scale * head.bias_scale
    return replace(
        head,
        ending=ending,
        place=place if unit.all() else None,
        bias=bias,
        bias_scale=unit,
        weight_scale=scale * head.weight_scale,
        tail_scale=scale,
        tail_shift=shift,
        fixed_weight=head.fixed_weight
        or ("" if scale.all() and head.weight_scale.all() else "its weights do not count"),
    )


def _rows_of(node: NodeProto, kernel: suite.Array) -> suite.Array:
    """A kernel as (n_classes, n_features)."""
    if node.op_type == "Conv":
        return kernel.reshape(len(kernel), -1)
    transposed = node.op_type == "Gemm" and protos.int_attribute(node, "transB", 0)
    return kernel if transposed else kernel.T


def kernel_order(node: NodeProto, weight: Floats) -> Floats:
    """Weights (n_classes, n_features) flat, in the order of the layer's kernel."""
    if node.op_type == "Conv" or (
        node.op_type == "Gemm" and protos.int_attribute(node, "transB", 0)
    ):
        return weight.reshape(-1)
    return weight.T.reshape(-1)


# What a convolution sees of each image, averaged over positions


Pads = tuple[tuple[int, int], ...] | Literal["upper", "lower"]


@dataclass(frozen=True)
class Windows:
    """Size, steps and padding of the windows, a number for each spatial axis.

    `pads` are numbers before and behind. `upper` or `lower`: the output is as large as the input,
    and an odd number of padding goes to that end.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: Pads

    def means(self, features: suite.Array) -> NDArray[np.float64]:
        """The mean over positions of what a window sees: (n, channels, *size)."""
        spatial = features.shape[2:]
        steps = list(zip(self.size, self.strides, self.dilations, strict=True))
        pads = self.pads
        if isinstance(pads, str):
            wanted = [
                -(-n // s) * s - s + d * (k - 1) + 1
                for n, (k, s, d) in zip(spatial, steps, strict=True)
            ]
            both = [max(w - n, 0) for w, n in zip(wanted, spatial, strict=True)]
            less = [(p // 2, p - p // 2) for p in both]
            pads = tuple(less if pads == "upper" else [(behind, before) for before, behind in less])
        padded = np.pad(features, [(0, 0), (0, 0), *pads])
        counts = [
            (n - d * (k - 1) - 1) // s + 1
            for n, (k, s, d) in zip(padded.shape[2:], steps, strict=True)
        ]
        means = np.empty((*features.shape[:2], *self.size))
        over = tuple(range(2, features.ndim))
        for place in np.ndindex(*self.size):
            seen = [
                slice(i * d, i * d + (count - 1) * s + 1, s)
                for i, count, (_, s, d) in zip(place, counts, steps, strict=True)
            ]
            every: tuple[Any, ...] = (slice(None), slice(None), *seen)
            means[(slice(None), slice(None), *place)] = padded[every].mean(over, dtype=np.float64)
        return means


def windows_of(node: NodeProto, size: tuple[int, ...]) -> Windows:
    """The windows of a `Conv` whose kernel has that spatial size."""

    def numbers(name: str, otherwise: int, n: int) -> tuple[int, ...]:
        given = protos.ints_attribute(node, name)
        return (otherwise,) * n if given is None else tuple(given)

    ends = numbers("pads", 0, 2 * len(size))
    pads: Pads = tuple(zip(ends[: len(size)], ends[len(size) :], strict=True))
    padding = protos.attribute(node, "auto_pad")
    if padding is not None and padding.s.startswith(b"SAME"):
        pads = "upper" if padding.s == b"SAME_UPPER" else "lower"
    elif padding is not None and padding.s == b"VALID":
        pads = ((0, 0),) * len(size)
    return Windows(size, numbers("strides", 1, len(size)), numbers("dilations", 1, len(size)), pads)
