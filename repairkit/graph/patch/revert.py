"""Undo the edits of baking from what they kept, and the metadata that tells of patches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from repairkit.core.errors import VerificationError
from repairkit.core.patch import TensorEdit
from repairkit.graph.index import GraphIndex
from repairkit.graph.patch.tree_bake import restore_attribute
from repairkit.graph.stored.outside import array_of, wherever_it_lies
from repairkit.graph.stored.storage import Constants, Storage, Write, constant_tensor, store

METADATA_KEY = "repairkit.patches"


def revert(model: ModelProto, edits: Sequence[TensorEdit]) -> ModelProto:
    """The model as it was before `edits` were made, in the order given.

    Args:
        model: never modified.
        edits: from `bake`.

    Raises:
        VerificationError: the model does not hold what the edits name.
    """
    result = ModelProto()
    result.CopyFrom(model)
    for edit in reversed(edits):
        if edit.kind == "added":
            _remove(result, edit)
        elif edit.kind == "attribute":
            restore_attribute(list(result.graph.node), edit)
        else:
            _restore(result, edit)
    return result


def _remove(model: ModelProto, edit: TensorEdit) -> None:
    graph = model.graph
    node = next((n for n in graph.node if n.output and n.output[0] == edit.node), None)
    if node is None or not 0 <= edit.slot < len(node.input) or node.input[edit.slot] != edit.tensor:
        raise VerificationError(f"the model has no added tensor {edit.tensor!r} to take back")
    if edit.replaces is not None:
        node.input[edit.slot] = edit.replaces
    else:
        del node.input[edit.slot]
    for values in (graph.initializer, graph.input):
        for position in reversed(range(len(values))):
            if values[position].name == edit.tensor:
                del values[position]


def _restore(model: ModelProto, edit: TensorEdit) -> None:
    tensor = _stored(model, edit)
    array = array_of(tensor)
    # Counted before anything is allocated: the runs may come from a stranger.
    ends = [0, *(end for run in edit.runs for end in run)]
    n_elements = sum(stop - start for start, stop in edit.runs)
    fits = ends == sorted(ends) and 0 < n_elements <= array.size and ends[-1] <= array.size
    if not fits or len(edit.old) != n_elements * array.dtype.itemsize:
        raise VerificationError(f"the old bytes kept for {edit.tensor!r} do not fit the tensor")
    positions = np.concatenate([np.arange(a, b) for a, b in edit.runs]).astype(np.int64)
    values = np.frombuffer(edit.old, array.dtype)
    store(tensor, Write(Storage(edit.kind, edit.tensor, shared=False), positions, values))


def _stored(model: ModelProto, edit: TensorEdit) -> TensorProto:
    if edit.kind == "initializer":
        found = [t for t in model.graph.initializer if t.name == edit.tensor]
    else:
        nodes = [n for n in model.graph.node if edit.tensor in n.output]
        found = [t for n in nodes if (t := constant_tensor(n)) is not None]
    if not found:
        raise VerificationError(f"the model has no stored tensor {edit.tensor!r}")
    return found[0]


def changes_nothing(edit: TensorEdit, model: ModelProto, patched: ModelProto) -> bool:
    """Whether an edit left every number as it was.

    Args:
        edit: one that baking `patched` made.
        model: the model before.
        patched: the model after.
    """
    if edit.kind != "added":
        new = array_of(_stored(patched, edit)).reshape(-1)
        return b"".join(new[start:stop].tobytes() for start, stop in edit.runs) == edit.old
    before, after = GraphIndex(model), GraphIndex(patched)
    array = Constants(after).array(edit.tensor)
    if not edit.replaces:
        return not array.tobytes().strip(b"\0")
    return Constants(before).array(edit.replaces).tobytes() == array.tobytes()


def read_claims(model: ModelProto) -> list[dict[str, Any]]:
    """What a model's metadata says of the patches made to it, oldest first.

    Raises:
        VerificationError: the entry is not what repairkit writes.
    """
    texts = [p.value for p in model.metadata_props if p.key == METADATA_KEY]
    if not texts:
        return []
    try:
        claims = json.loads(texts[0])
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"the model's {METADATA_KEY} metadata is broken") from error
    if not isinstance(claims, list) or not all(isinstance(c, dict) for c in claims):
        raise VerificationError(f"the model's {METADATA_KEY} metadata is broken")
    return claims


def write_claims(model: ModelProto, claims: Sequence[dict[str, Any]]) -> None:
    """Replace what the metadata says of patches, in place; nothing is left for no claim."""
    kept = [p for p in model.metadata_props if p.key == METADATA_KEY]
    if not claims:
        for entry in kept:
            model.metadata_props.remove(entry)
        return
    entry = kept[0] if kept else model.metadata_props.add(key=METADATA_KEY)
    entry.value = json.dumps(list(claims), separators=(",", ":"), sort_keys=True)


def same_model(one: ModelProto, other: ModelProto) -> bool:
    """Whether two models are equal to the byte in their canonical form."""
    a, b = (wherever_it_lies(m).SerializeToString(deterministic=True) for m in (one, other))
    return a == b


def first_difference(one: ModelProto, other: ModelProto) -> str:
    """Where two models differ, in words; empty where they do not."""
    for name, a, b in (
        ("opset", one.opset_import, other.opset_import),
        ("metadata", one.metadata_props, other.metadata_props),
        ("inputs", one.graph.input, other.graph.input),
        ("outputs", one.graph.output, other.graph.output),
        ("functions", one.functions, other.functions),
    ):
        if list(a) != list(b):
            return f"the {name} differ"
    ours, theirs = GraphIndex(one), GraphIndex(other)
    for name in sorted(set(ours.initializers) | set(theirs.initializers)):
        if ours.initializers.get(name) != theirs.initializers.get(name):
            return f"the tensor {name!r} differs"
    if len(ours.nodes) != len(theirs.nodes):
        return "the number of nodes differs"
    for ours_node, their_node in zip(ours.nodes, theirs.nodes, strict=True):
        if ours_node != their_node:
            return f"the node {ours_node.name or ours_node.output[0]!r} differs"
    return "" if same_model(one, other) else "the models differ outside the graph's nodes"
