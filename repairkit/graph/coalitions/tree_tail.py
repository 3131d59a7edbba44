"""What a graph does with the scores of its tree ensembles."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, TensorProto, helper

from repairkit.core.errors import ModelError
from repairkit.core.filters import Site
from repairkit.graph.coalitions.zipmaps import without_zipmaps
from repairkit.graph.index import GraphIndex, outer_names


def tail_of(model: ModelProto, sites: Sequence[Site], output: str) -> ModelProto | None:
    """A model from the scores of all ensembles to an output; None where that is their scores.

    Args:
        model: never modified.
        sites: its tree ensembles.
        output: an output of the model.

    Raises:
        ModelError: the output depends on the input in another way, too.
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
        raise ModelError(f"the output {output!r} depends on {beside[0]!r} beside the trees' scores")
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
