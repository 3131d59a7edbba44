"""What a graph does with the scores of its tree ensembles: `ZipMap`, and other nodes behind them.

`ZipMap` turns scores into dictionaries; they are read here as the tensor that they were.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, TensorProto, helper

from repairkit.core.errors import ModelError
from repairkit.core.filters import Site
from repairkit.graph.index import GraphIndex, outer_names
from repairkit.graph.kinds.ensembles import DOMAIN, with_standard_operators


def without_zipmaps(model: ModelProto) -> ModelProto:
    """The model itself, or a copy in which every `ZipMap` passes its tensor on as it is.

    An output of the same name then has shape (n, n_classes) in place of n dictionaries.
    """
    if not any(_is_zipmap(n) for n in model.graph.node):
        return model
    result = with_standard_operators(model)
    zipped: set[str] = set()
    for node in result.graph.node:
        if _is_zipmap(node):
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]
            zipped.update(node.output)
    for position, value in enumerate(result.graph.output):
        if value.name in zipped:
            plain = helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [None, None])
            result.graph.output[position].CopyFrom(plain)
    return result


def zipped_outputs(index: GraphIndex) -> set[str]:
    """Outputs of the model that are made by a `ZipMap`."""
    return {
        o for node in index.nodes if _is_zipmap(node) for o in node.output if o in index.outputs
    }


def _is_zipmap(node: NodeProto) -> bool:
    return node.op_type == "ZipMap" and node.domain == DOMAIN


def tail_of(model: ModelProto, sites: Sequence[Site], output: str) -> ModelProto | None:
    """A model from the scores of all ensembles to an output; None where the output is the scores.

    Args:
        model: never modified.
        sites: its tree ensembles.
        output: an output of the model.

    Raises:
        ModelError: the output also depends on the input in another way.
    """
    if [site.tensor for site in sites] == [output]:
        return None
    plain = without_zipmaps(model)
    index = GraphIndex(plain)
    scores = [site.tensor for site in sites]
    needed, members = {output}, []
    for position in range(len(index.nodes) - 1, -1, -1):
        node = index.nodes[position]
        if any(o in needed and o not in scores for o in node.output):
            members.append(node)
            needed.update(name for name in (*node.input, *outer_names(node)) if name)
    made = {o for node in members for o in node.output}
    beside = sorted(name for name in needed & index.fed if name not in made and name not in scores)
    if beside:
        raise ModelError(f"the output {output!r} depends on {beside[0]!r}, not only on trees")
    graph = helper.make_graph(
        members[::-1],
        "tail",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in scores],
        [value for value in plain.graph.output if value.name == output],
        [tensor for name, tensor in index.initializers.items() if name in needed],
    )
    tail = helper.make_model(graph, opset_imports=plain.opset_import)
    tail.ir_version = max(plain.ir_version, 4)
    tail.functions.extend(plain.functions)
    return tail
