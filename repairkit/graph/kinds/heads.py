"""Which layers make a model's output: the last ones, which no other layer follows.

Their channels are the model's answer (classes, boxes), so they are no sites. A layer combines the
channels of its input with learned numbers, or with other channels, by products. It is an operator
of that kind, a function or a body that holds one, or a product written out. A product written out
is recognised by its constants: numbers that differ along an axis are put on a tensor, and a sum
along that axis follows (a distance to prototypes is Sub, Pow, ReduceSum). Operators that keep
channels separate, and those that only compare or scale them (pooling, activations, normalisation,
ArgMax), are no layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto

from repairkit.core.errors import ModelError
from repairkit.graph import protos
from repairkit.graph.kinds.ensembles import ENSEMBLES
from repairkit.graph.stored.constants import Constants

# Names of operators in every domain: runtimes add their own (FusedMatMul, QGemm).
_PRODUCTS = re.compile(
    r"Attention|Attn|CDist|Conv(?!ert)|Einsum|GRU|Gemm|LSTM|Linear(Class|Regress)|MatMul|MoE|RNN|SVM"
)
_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
_SUMS = {
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare"),
}
_WEIGHING = {"Add", "Div", "Max", "Mean", "Min", "Mul", "PRelu", "Pow", "Sub", "Sum", "Where"}
_AFFINE = {"Add", "Div", "Mul", "Sub"}
_SHAPES = {"Shape", "Size"}
_RENUMBERING = {"Squeeze", "Unsqueeze"}
# What is not among these may move numbers from one axis to another.
_KEEPS_AXES = {
    *("Abs", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Concat", "Cos"),
    *("DequantizeLinear", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu", "GlobalAveragePool"),
    *("GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization"),
    *("LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "LpPool", "MaxPool", "Mish", "Neg"),
    *("Pad", "QuantizeLinear", "Reciprocal", "Relu", "Resize", "Round", "Selu", "Sigmoid", "Sign"),
    *("Sin", "Slice", "Softmax", "Softplus", "Softsign", "Split", "Sqrt", "Tanh", "Upsample"),
}


@dataclass(frozen=True)
class _State:
    """What is known of a tensor: the last layers before it, and what its numbers went through.

    `weighed` are axes, counted from the last as -1: along them, constants that were put on the
    tensor since then differ. None where it may be any axis. `fresh`: only the layer's bias and
    scale lie between it and the tensor.
    """

    makers: frozenset[int] = frozenset()
    weighed: frozenset[int] | None = frozenset()
    rank: int | None = None
    fresh: bool = False

    def rearranged(self, rank: int | None) -> _State:
        """The state behind an operator that may have moved numbers to other axes."""
        return replace(self, weighed=None if self.weighed else self.weighed, rank=rank)


def is_product(node: NodeProto) -> bool:
    """Whether a node's operator combines channels; not for calls of functions."""
    if node.op_type == "Einsum":
        return len(node.input) > 1
    return bool(_PRODUCTS.search(node.op_type)) or node.op_type in ENSEMBLES


def head_layers(index: protos.GraphIndex, outputs: tuple[str, ...]) -> set[int]:
    """Positions of the layers that make the outputs and that no other layer follows.

    A layer that makes one output, and is followed by another layer on the way to a second output,
    is not among them.
    """
    needed = index.leading_to(outputs)
    constants = Constants(index)
    inside = _functions_with_layers(index.model)
    states: dict[str, _State] = {name: _State() for name in index.inputs}
    followed: set[int] = set()
    for position, node in enumerate(index.nodes):
        fed = [states[n] for n in (*node.input, *sorted(protos.outer_names(node))) if n in states]
        if not fed:
            continue
        joined = _joined(fed)
        if _is_layer(node, joined, constants, inside):
            # A sum also stands in a normalisation written out, beside the numbers that it divides:
            # a layer whose channels reach the output beside a sum still makes it.
            if any(o in needed for o in node.output) and node.op_type not in _SUMS:
                followed |= joined.makers
            state = _State(
                frozenset({position}), rank=_rank_made(node, joined, constants), fresh=True
            )
        elif node.op_type in _SHAPES:
            state = _State(rank=1)
        else:
            state = _moved(node, joined, constants)
        states.update({o: state for o in node.output if o})
    makers = {maker for o in outputs if o in states for maker in states[o].makers}
    return makers - followed


def _joined(states: list[_State]) -> _State:
    """What is known of several tensors together, as of their sum."""
    ranks = [s.rank for s in states]
    weighed: frozenset[int] | None = frozenset()
    for state in states:
        weighed = None if weighed is None or state.weighed is None else weighed | state.weighed
    return _State(
        frozenset().union(*(s.makers for s in states)),
        weighed,
        None if None in ranks else max(r for r in ranks if r is not None),
        fresh=len(states) == 1 and states[0].fresh,
    )


def _is_layer(
    node: NodeProto, state: _State, constants: Constants, inside: dict[tuple[str, str], bool]
) -> bool:
    call = (node.domain, node.op_type)
    if inside.get(call, is_product(node)):
        return True
    inner = protos.inner_nodes(node)
    if any(inside.get((n.domain, n.op_type), is_product(n)) for n in inner):
        return True
    if inner and _is_written_out(inner):
        held = [t for body in protos.subgraphs(node) for t in body.initializer]
        read = [_shape(name, constants) for name in sorted(protos.outer_names(node))]
        known = any(_is_matrix(shape) for shape in (*read, *(t.dims for t in held)))
        return known or _hold_a_matrix(inner)
    if node.op_type in _SUMS and node.domain in _STANDARD:
        return _sums_what_was_weighed(node, state, constants)
    if node.domain in _STANDARD:
        return False
    # An operator of a runtime or a function that reads a learned matrix.
    shapes = (_shape(name, constants) for name in node.input)
    return any(_is_matrix(shape) for shape in shapes)


def _is_written_out(nodes: list[NodeProto]) -> bool:
    """Whether some nodes could make up a product; their constants are not known."""
    kinds = {node.op_type for node in nodes}
    return bool(kinds & _SUMS and kinds & {"Div", "Mul", "Sub"})


def _is_matrix(shape: Iterable[int] | None) -> bool:
    return shape is not None and sum(size > 1 for size in shape) > 1


def _sums_what_was_weighed(node: NodeProto, state: _State, constants: Constants) -> bool:
    if not state.makers or state.weighed == frozenset():
        return False
    axes = _axes(node, constants)
    if axes is None or state.weighed is None:
        return True
    if state.rank is None:
        return bool(state.weighed.intersection(axes)) or any(a >= 0 for a in axes)
    return bool(state.weighed.intersection(a - state.rank if a >= 0 else a for a in axes))


def _moved(node: NodeProto, state: _State, constants: Constants) -> _State:
    """What is known of the output of an operator that is no layer."""
    kind = node.op_type
    if kind in _WEIGHING:
        return _weighed(node, state, constants)
    state = replace(state, fresh=state.fresh and kind in ("BatchNormalization", "Identity"))
    if kind in _KEEPS_AXES:
        return state
    if kind == "Transpose":
        return _transposed(node, state)
    if kind in _RENUMBERING or kind in _SUMS:
        return _renumbered(node, state, constants)
    return state.rearranged(_rank_of(node, constants))


def _weighed(node: NodeProto, state: _State, constants: Constants) -> _State:
    axes: set[int] = set()
    rank, is_bias = state.rank, state.fresh and node.op_type in _AFFINE
    for name in node.input:
        shape = _shape(name, constants)
        if shape is None:
            continue
        rank = None if rank is None else max(rank, len(shape))
        differing = {i - len(shape) for i, size in enumerate(shape) if size > 1}
        if differing and not _is_one_number(name, constants):
            is_bias = is_bias and len(differing) == 1
            axes |= differing
    if is_bias:  # the bias or the scale of the layer itself, one number per channel
        return replace(state, rank=rank)
    weighed = None if state.weighed is None else state.weighed | axes
    return replace(state, weighed=weighed, rank=rank, fresh=False)


def _transposed(node: NodeProto, state: _State) -> _State:
    order = protos.ints_attribute(node, "perm")
    if order is None:
        return state.rearranged(state.rank)
    rank = len(order)
    if state.weighed is None or sorted(order) != list(range(rank)):
        return replace(state, rank=rank)
    moved = {place - rank for place, axis in enumerate(order) if axis - rank in state.weighed}
    return replace(state, weighed=frozenset(moved), rank=rank)


def _renumbered(node: NodeProto, state: _State, constants: Constants) -> _State:
    """Behind an operator that takes axes away or adds some."""
    axes = _axes(node, constants)
    keeps = node.op_type in _SUMS and protos.int_attribute(node, "keepdims", 1)
    if keeps:
        return state
    if axes is None or state.rank is None:
        return state.rearranged(None)
    adds = node.op_type == "Unsqueeze"
    rank = state.rank + len(axes) if adds else state.rank - len(axes)
    places = {a % max(rank if adds else state.rank, 1) for a in axes}
    if state.weighed is None or rank < 0:
        return replace(state, rank=rank if rank >= 0 else None)
    kept = [a for a in range(rank if adds else state.rank) if a not in places]
    # Old positions and new ones of the axes that stay, in order.
    old, new = (range(state.rank), kept) if adds else (kept, range(rank))
    moved = {n - rank for o, n in zip(old, new, strict=False) if o - state.rank in state.weighed}
    return replace(state, weighed=frozenset(moved), rank=rank)


def _axes(node: NodeProto, constants: Constants) -> list[int] | None:
    """The axes that an operator names; None where it names none, or computes them."""
    try:
        axes = constants.integers(node, "axes", 1)
    except ModelError:
        return None
    return None if axes is None else axes.tolist()


def _rank_of(node: NodeProto, constants: Constants) -> int | None:
    if node.op_type == "Flatten":
        return 2
    if node.op_type == "Reshape" and len(node.input) > 1:
        shape = _shape(node.input[1], constants)
        return None if shape is None or len(shape) != 1 else shape[0]
    return None


def _rank_made(node: NodeProto, state: _State, constants: Constants) -> int | None:
    """The rank of what a layer makes, as far as its kind tells."""
    if "Conv" in node.op_type and len(node.input) > 1:
        shapes = (_shape(name, constants) for name in node.input[1:])
        kernel = next((s for s in shapes if s is not None and len(s) > 2), None)
        return state.rank if kernel is None else len(kernel)
    if node.op_type == "Gemm":
        return 2
    return state.rank if node.op_type == "MatMul" else None


def _shape(name: str, constants: Constants) -> tuple[int, ...] | None:
    """The shape of a constant; None where it is none, or cannot be computed."""
    index = constants.index
    if name in index.initializers:
        return tuple(index.initializers[name].dims)
    if name not in index.constant:
        return None
    try:
        return constants.array(name).shape
    except ModelError:
        return None


def _is_one_number(name: str, constants: Constants) -> bool:
    try:
        values = constants.array(name).reshape(-1)
    except ModelError:
        return False
    return bool(np.all(values == values[:1]))


def _functions_with_layers(model: ModelProto) -> dict[tuple[str, str], bool]:
    """Whether each function of the model holds a layer, or calls a function that does."""
    functions = {
        (f.domain, f.name): [n for node in f.node for n in (node, *protos.inner_nodes(node))]
        for f in model.functions
    }
    holds = {
        key: _is_written_out(nodes) and _hold_a_matrix(nodes) for key, nodes in functions.items()
    }
    while calling := [
        key
        for key, nodes in functions.items()
        if not holds[key] and any(holds.get((n.domain, n.op_type), is_product(n)) for n in nodes)
    ]:
        holds.update(dict.fromkeys(calling, True))
    return holds


def _hold_a_matrix(nodes: list[NodeProto]) -> bool:
    made = (protos.attribute(node, "value") for node in nodes if node.op_type == "Constant")
    return any(_is_matrix(value.t.dims) for value in made if value is not None)
