"""What a patch means for a runtime: new weights alone, or more than that.

A runtime that has compiled a model can take new weights (TensorRT calls it refitting an engine)
where the nodes, their attributes, and the name, shape and type of each initializer are those of
before. A patch that adds a bias, copies a shared tensor, or changes numbers inside a node needs
more: the model has to be compiled again. What is compiled is stale in any case.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from repairkit.core import filters
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.protos import GraphIndex, attribute
from repairkit.graph.stored.constants import Constants, Write, stored_tensor, why_copied
from repairkit.graph.stored.editing import in_place
from repairkit.graph.stored.tensors import tensor_bytes

CACHE_KEYS = ("COREML_CACHE_KEY",)
"""Metadata by which a runtime finds what it compiled; a patched model keeps them."""

_NUMPY_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}


@dataclass(frozen=True, kw_only=True)
class Need:
    """Why new weights are not enough for one change.

    Attributes:
        kind: `bias` (one is added), `copy` (of a tensor that cannot be written in place),
            `constant` (a number in a `Constant` node) or `attribute` (a list of a node).
        tensor: what is added or changed.
        reason: in words, to be put behind "it".
    """

    kind: str
    tensor: str
    reason: str


Size = tuple[tuple[int, ...], str, int]
"""Shape, element type and bytes of a tensor."""


@dataclass(frozen=True, kw_only=True)
class ChangedTensor:
    """A stored tensor that a patch changes or adds.

    Attributes:
        name: of the initializer, of the output of a `Constant` node, or of a node's attribute.
        kind: as of `TensorEdit`.
        shape: None where it is not known.
        type: of its elements, such as `float32`; None where it is not known.
        bytes: of the whole tensor; None where it is not known.
        changed: how many of its numbers were written; None where all are new.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    type: str | None
    bytes: int | None
    changed: int | None


@dataclass(frozen=True, kw_only=True)
class RuntimeFacts:
    """What a patch means for a runtime.

    Attributes:
        tensors: what it changes or adds, in the order of the edits.
        needs: why new weights are not enough; empty where they are.
        cache_keys: metadata that name what a runtime compiled, and that the patched model keeps.
    """

    tensors: tuple[ChangedTensor, ...]
    needs: tuple[Need, ...]
    cache_keys: tuple[str, ...] = ()

    @property
    def bytes(self) -> int | None:
        """Of all tensors together; None where one is not known."""
        sizes = [one.bytes for one in self.tensors if one.bytes is not None]
        return sum(sizes) if len(sizes) == len(self.tensors) else None

    def to_json(self) -> dict[str, object]:
        """The entry `runtime` of patch files and reports."""
        return {
            "refit": not self.needs,
            "bytes": self.bytes,
            "tensors": [
                {**asdict(one), "shape": None if one.shape is None else list(one.shape)}
                for one in self.tensors
            ],
            "needs": [asdict(need) for need in self.needs],
            "cache_keys": list(self.cache_keys),
        }


def agrees(told: object, facts: RuntimeFacts) -> bool:
    """Whether an entry `runtime` says of a patch what holds; what it says besides is not read."""
    try:
        return _data(told) == _data(facts.to_json())
    except (KeyError, TypeError):
        return False


def _data(told: Any) -> list[object]:
    """What an entry says, but for the words of reasons."""
    rows = [[row[each.name] for each in fields(ChangedTensor)] for row in told["tensors"]]
    needs = [[need["kind"], need["tensor"]] for need in told["needs"]]
    return [told["refit"], told["bytes"], rows, needs, told["cache_keys"]]


# After a patch


def runtime_facts(
    before: GraphIndex, patched: ModelProto, edits: Sequence[filters.TensorEdit]
) -> RuntimeFacts:
    """What the edits that made `patched` of a model mean for a runtime.

    Args:
        before: of the model.
        patched: the model after.
        edits: all of them.

    Raises:
        ModelError: a tensor is of a type that repairkit does not know.
    """
    return facts_of(edits, lambda edit: size_in(patched, edit), before, cache_keys_of(patched))


def cache_keys_of(model: ModelProto) -> tuple[str, ...]:
    """The metadata of a model by which runtimes find what they compiled."""
    return tuple(entry.key for entry in model.metadata_props if entry.key in CACHE_KEYS)


def facts_of(
    edits: Sequence[filters.TensorEdit],
    size_of: Callable[[filters.TensorEdit], Size | None],
    before: GraphIndex | None = None,
    cache_keys: tuple[str, ...] = (),
) -> RuntimeFacts:
    """What edits mean for a runtime.

    Args:
        edits: of one patch.
        size_of: of the tensor that an edit names, as it is after the patch.
        before: of the model before, which tells why a tensor was copied; None where the model is
            not at hand.
        cache_keys: see `RuntimeFacts`.
    """
    by_tensor: dict[tuple[str, str, str], list[filters.TensorEdit]] = {}
    for edit in edits:
        owner = edit.node if edit.kind == "attribute" else ""
        by_tensor.setdefault((edit.kind, edit.tensor, owner), []).append(edit)
    tensors, needs = [], []
    for (kind, name, _), same in by_tensor.items():
        shape, dtype, n_bytes = size_of(same[0]) or (None, None, None)
        tensors.append(
            ChangedTensor(
                name=name,
                kind=kind,
                shape=shape,
                type=dtype,
                bytes=n_bytes,
                changed=None if kind == "added" else _n_written(same),
            )
        )
        need = _need_of_edit(same[0], before)
        needs += [] if need is None else [need]
    return RuntimeFacts(tensors=tuple(tensors), needs=tuple(needs), cache_keys=cache_keys)


def _n_written(edits: Sequence[filters.TensorEdit]) -> int:
    """The numbers of one tensor that some edits wrote, each counted once."""
    total = end = 0
    for start, stop in sorted(run for edit in edits for run in edit.runs):
        total += max(stop - max(start, end), 0)
        end = max(end, stop)
    return total


def size_in(model: ModelProto, edit: filters.TensorEdit) -> Size | None:
    """The size of the tensor or list that an edit names in a model; None where it has none."""
    if edit.kind != "attribute":
        kind = "initializer" if edit.kind == "added" else edit.kind
        tensor = stored_tensor(model, kind, edit.tensor)
        return None if tensor is None else _size_of(tensor)
    maker = next((node for node in model.graph.node if edit.node in node.output), None)
    held = None if maker is None else attribute(maker, edit.tensor)
    if held is None:
        return None
    if held.HasField("t"):
        return _size_of(held.t)
    return (len(held.floats),), "float32", 4 * len(held.floats)


def _size_of(tensor: TensorProto) -> Size:
    n_bytes = tensor_bytes(tensor)
    name = TensorProto.DataType.Name(tensor.data_type)
    return tuple(tensor.dims), _NUMPY_NAMES.get(name, name.lower()), n_bytes


def _need_of_edit(edit: filters.TensorEdit, before: GraphIndex | None) -> Need | None:
    if edit.kind == "initializer":
        return None
    if edit.kind == "added" and edit.replaces:
        known = before is not None and edit.replaces in before.constant
        why = why_copied(before, edit.replaces) if before is not None and known else ""
        return _copied(edit.tensor, edit.node, why or f"{edit.replaces!r} is shared or computed")
    if edit.kind == "added":
        return _added(edit.tensor, edit.node)
    return _inside(edit.kind, edit.tensor)


def _added(tensor: str, output: str) -> Need:
    reason = f"adds a tensor ({tensor!r}: the layer that makes {output!r} has no bias)"
    return Need(kind="bias", tensor=tensor, reason=reason)


def _copied(tensor: str, output: str, why: str) -> Need:
    reason = f"adds a tensor ({tensor!r}, a copy for the node that makes {output!r}: {why})"
    return Need(kind="copy", tensor=tensor, reason=reason)


def _inside(kind: str, tensor: str) -> Need:
    what = "a list of a node" if kind == "attribute" else "a Constant node"
    reason = f"changes {tensor!r}, which stands in a node ({what}) and in no initializer"
    return Need(kind=kind, tensor=tensor, reason=reason)


# Before a patch


def needs_of_sites(survey: Survey) -> dict[str, Need]:
    """The sites whose filters cannot be frozen by new weights alone, and the first reason.

    The filters of a site are frozen in the same tensors, so that one tells of all.

    Args:
        survey: of the model.
    """
    needs = {}
    for name, layer in survey.layers.items():
        if not layer.tensors:  # trees
            needs[name] = _inside("attribute", layer.site.node or name)
            continue
        level = layer.nearest(np.zeros(layer.site.level_shape, np.float32))[0]
        frozen = filters.FrozenFilter(filters.Filter(name, 0), filters.constant_of(level))
        found = needs_of_changes(survey.index, layer.freeze([frozen]))
        if found:
            needs[name] = found[0]
    return needs


def needs_of_changes(index: GraphIndex, changes: Sequence[filters.Change]) -> list[Need]:
    """Why new weights are not enough for some changes; empty where they are."""
    constants, needs = Constants(index), []
    for change in changes:
        output = index.nodes[change.node].output[0]
        if isinstance(change, filters.AddedTensor):
            needs.append(_added(change.name, output))
        elif isinstance(change, filters.ListChange):
            needs.append(_inside("attribute", change.name))
        else:
            write = in_place(constants, change)
            if not isinstance(write, Write):
                needs.append(_copied(change.clone, output, write))
            elif write.storage.kind != "initializer":
                needs.append(_inside("constant", write.storage.name))
    return needs
