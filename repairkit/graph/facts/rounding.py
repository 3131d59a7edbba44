"""Find the nodes at which rounding that differs in the last bit makes a step in the result.

Two ways to compute a layer in 32 bits differ by a ten-millionth. Where the result is then rounded
to codes (`QuantizeLinear`), to whole numbers or to half precision, a few numbers end up on the
other side of a step, and the difference becomes that of a whole step.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto, TensorProto

from repairkit.graph.facts.following import node_name
from repairkit.graph.index import GraphIndex, int_attribute

_STEPS = {"Ceil", "Floor", "QuantizeLinear", "Round", "Sign", "Trunc"}
_PREFIXES = ("Dynamic", "QGemm", "QLinear")
_WEIGHTED = {"Conv", "ConvInteger", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger"}
_SIZES = {"Shape", "Size"}
_EXACT = {TensorProto.FLOAT, TensorProto.DOUBLE}
_COARSE = {
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
}


@dataclass(frozen=True)
class Rounding:
    """The first node that rounds, in words, and whether the output itself has been rounded.

    `at_the_end`: behind the last layer with weights, so that the output shows little of the numbers
    that were rounded.
    """

    node: str
    at_the_end: bool


def find_rounding(index: GraphIndex, outputs: tuple[str, ...]) -> Rounding | None:
    """Where what leads to some tensors is rounded to steps; None where it nowhere is."""
    needed = index.leading_to(outputs)
    half = {t.name for t in index.graph.initializer if t.data_type in _COARSE}
    half |= {
        value.name
        for value in (*index.graph.input, *index.graph.value_info)
        if value.type.tensor_type.elem_type in _COARSE
    }
    data, rounding = set(index.inputs), []
    for node in index.nodes:
        if node.op_type in _SIZES or not any(name in data for name in node.input):
            continue
        data.update(o for o in node.output if o)
        if any(o in needed for o in node.output) and _rounds(node, half):
            rounding.append(node)
    if not rounding:
        return None
    first = rounding[0]
    makes = {o for node in rounding for o in node.output if o}
    at_the_end = _met_before(index, outputs, makes, data)
    return Rounding(f"node {node_name(first)!r} ({first.op_type})", at_the_end)


def _rounds(node: NodeProto, half: set[str]) -> bool:
    if node.op_type in _STEPS or node.op_type.startswith(_PREFIXES):
        return True
    if node.op_type == "Cast" and int_attribute(node, "to", TensorProto.FLOAT) not in _EXACT:
        return True
    return any(name in half for name in (*node.input, *node.output))


def _met_before(
    index: GraphIndex, outputs: tuple[str, ...], makes: set[str], data: set[str]
) -> bool:
    """Whether a rounded tensor lies between an output and the layers with weights before it."""
    waiting, seen = list(outputs), set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in data:
            continue
        seen.add(name)
        if name in makes:
            return True
        if name in index.producers:
            node = index.nodes[index.producers[name]]
            if node.op_type not in _WEIGHTED:
                waiting.extend(node.input)
    return False
