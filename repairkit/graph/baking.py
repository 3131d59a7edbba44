"""Freeze filters inside the model's own tensors, each at the wanted constant; infer and undo it.

How a filter is frozen is known by the layer of its site (see `kinds`). The argument's names, node
order, metadata and every untouched byte survive. A tensor that something else also reads, or that
is computed, is cloned before it is edited.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core import errors, filters
from repairkit.graph.kinds.class_head import ClassHead, find_head, head_named, kernel_order
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.protos import ConstantArrays, GraphIndex, copied
from repairkit.graph.stored.constants import Constants
from repairkit.graph.stored.editing import Editor, changes_nothing, undo


@dataclass(frozen=True)
class Baked:
    """A patched model, and every change that was made to its tensors, in order."""

    model: ModelProto
    edits: tuple[filters.TensorEdit, ...]


def bake(survey: Survey, patch: filters.Patch) -> Baked:
    """A model in which the filters of `patch` hold their constants.

    Args:
        survey: of the model, which is never modified; it found the patch's sites.
        patch: its constants must be ones that the model can hold (see `representable`).

    Raises:
        SettingsError: the patch names a filter that the model does not have.
        ModelError: a constant cannot be stored where the model keeps its numbers.
    """
    roster = filters.Roster(survey.sites)
    by_site: dict[str, list[filters.FrozenFilter]] = {}
    for frozen in patch.frozen:
        roster.column(frozen.filter)
        by_site.setdefault(frozen.filter.site, []).append(frozen)
    editor = Editor(survey.index)
    for site, members in by_site.items():
        layer = survey.layers[site]
        reason = layer.why_not_partly() if any(f.gain for f in members) else ""
        if reason:
            raise errors.ModelError(f"filters of {site!r} cannot be frozen partly: {reason}")
        editor.apply(layer.freeze(members))
    if patch.head is not None:
        head = head_named(survey.index, patch.head.layer)
        editor.apply(head_changes(survey.constants, head, patch.head))
    return Baked(editor.model, tuple(editor.edits))


def representable(survey: Survey, means: filters.FilterMeans) -> filters.FilterMeans:
    """The levels nearest to `means` at which baking can freeze each filter exactly.

    Freezing at these levels makes masked and baked models equal.

    Raises:
        ModelError: a mean is not finite.
    """
    return {site: survey.layers[site].nearest(level) for site, level in means.items()}


def is_idle(survey: Survey, frozen: filters.FrozenFilter) -> bool:
    """Whether freezing a filter would change no number: it yields its constant already."""
    held = survey.layers[frozen.filter.site].holds(frozen.filter.channel, frozen.constant)
    if held is not None:
        return held
    alone = bake(survey, filters.Patch((frozen,)))
    return all(changes_nothing(edit, survey.model, alone.model) for edit in alone.edits)


# What was frozen


def infer_patch(before: Survey, after: Survey) -> filters.Patch:
    """The filters that hold a constant after and did not, or held another one, before.

    New numbers of the last layer are seen too. A filter that was frozen partly holds no constant
    and is not seen, nor is anything else that differs: bake the result into the original model and
    compare.

    Args:
        before: of the original model.
        after: of the patched model. Both should have found dense layers too, for all outputs.
    """
    known = {site.name: site for site in before.sites}
    added = {t.name: place for place, t in enumerate(after.model.graph.initializer)}
    patches: list[tuple[int, list[filters.FrozenFilter]]] = []
    for name, layer in after.layers.items():
        if known.get(name) != layer.site:
            continue
        old = before.layers[name]
        frozen = layer.frozen_since(old)
        if frozen:
            # Baking appends the tensors that it adds, site by site in the order of the patch.
            fresh = layer.tensors - old.tensors
            patches.append((min((added.get(name, 0) for name in fresh), default=0), frozen))
    patches.sort(key=lambda pair: pair[0])
    every = tuple(f for _, of_site in patches for f in of_site)
    return filters.Patch(every, _changed_head(before.index, after.index))


def _changed_head(before: GraphIndex, after: GraphIndex) -> filters.HeadChange | None:
    """The new numbers of the first last layer that differs; None where none does."""
    for output in before.outputs:
        try:
            old, new = find_head(before, output), find_head(after, output)
        except errors.ModelError:
            continue  # an output that no layer of classes makes
        if old.name != new.name or old.weight.shape != new.weight.shape:
            continue
        refitted = not np.array_equal(old.weight, new.weight)
        kind: filters.HeadKind = "last-layer" if refitted else "bias"
        change = filters.HeadChange(kind, new.name, new.bias, new.weight if refitted else None)
        if changes_head(old, change):
            return change
    return None


# Undoing


def revert(model: ModelProto, edits: Sequence[filters.TensorEdit]) -> ModelProto:
    """A copy of the model as it was before `bake` made these edits, in this order.

    Raises:
        VerificationError: the model does not hold what the edits name.
    """
    result = copied(model)
    for edit in reversed(edits):
        undo(result, edit)
    return result


# The last layer


Floats = NDArray[np.float64]


def biased(index: GraphIndex, head: ClassHead, shift: Floats) -> filters.HeadChange:
    """The change that adds `shift` (n_classes,) to the scores, rounded to what the file can hold.

    Raises:
        ModelError: the head has no place for class biases, or it cannot hold these.
    """
    if head.fixed_bias:
        raise errors.ModelError(head.fixed_bias)
    bias = head.biases + shift / head.bias_scale
    return held(index, head, filters.HeadChange("bias", head.name, bias))


def refitted(
    index: GraphIndex, head: ClassHead, weight: Floats, shift: Floats
) -> filters.HeadChange:
    """The change that adds `weight` and `shift` to what the head computes from its features.

    Args:
        index: of the head's model.
        head: the layer that changes.
        weight: (n_classes, n_features), added to the weights, in units of the scores.
        shift: (n_classes,), added to the scores; 0 for a head that has no place for biases.

    Raises:
        ModelError: the weights cannot be changed, or the file cannot hold these numbers.
    """
    if head.fixed_weight:
        raise errors.ModelError(head.fixed_weight)
    bias = None if head.place is None else head.biases + shift / head.bias_scale
    changed = head.weight + weight / head.weight_scale[:, None]
    return held(index, head, filters.HeadChange("last-layer", head.name, bias, changed))


def held(index: GraphIndex, head: ClassHead, change: filters.HeadChange) -> filters.HeadChange:
    """The change with the numbers as they read back once they are stored.

    Raises:
        ModelError: some are too large, or not finite.
    """
    constants, node = Constants(index), index.nodes[head.node]
    weight = None
    if change.weight is not None:
        # Where each number of the weight lies in the kernel.
        places = np.arange(head.weight.size, dtype=np.float64).reshape(head.weight.shape)
        flat = np.empty(head.weight.size)
        flat[kernel_order(node, places).astype(np.int64)] = constants.as_stored(
            head.kernel, kernel_order(node, change.weight)
        )
        weight = flat.reshape(head.weight.shape)
    bias = change.bias
    if bias is not None:
        stored = _class_biases(constants, head)
        read = bias.astype(head.dtype) if stored is None else constants.as_stored(stored, bias)
        bias = read.astype(np.float64)
    for numbers in (weight, bias):
        if numbers is not None and not np.isfinite(numbers).all():
            raise errors.ModelError(f"the last layer {head.name!r} cannot hold the new numbers")
    return filters.HeadChange(change.kind, head.name, bias, weight)


def head_changes(
    constants: ConstantArrays, head: ClassHead, change: filters.HeadChange
) -> list[filters.Change]:
    """What to write: the numbers that differ from those in the file.

    Raises:
        ModelError: the change does not fit the head.
    """
    _check(head, change)
    changes: list[filters.Change] = []
    if change.weight is not None:
        layer = constants.index.nodes[head.node]
        new, old = (kernel_order(layer, w) for w in (change.weight, head.weight))
        changes += _differing(head.node, 1, new, old, f"{head.name}/kernel")
    if change.bias is None or head.place is None:
        return changes
    node, slot, name = head.place.node, head.place.slot, f"{head.name}/bias"
    stored = _class_biases(constants, head)
    if stored is not None:
        before = constants.array(stored).reshape(-1).astype(np.float64)
        changes += _differing(node, slot, change.bias, before, name)
    elif np.any(change.bias != head.biases):
        array = change.bias.astype(head.dtype)
        changes.append(filters.AddedTensor(node=node, slot=slot, array=array, name=name))
    return changes


def _differing(
    node: int, slot: int, new: Floats, old: Floats, name: str
) -> list[filters.TensorChange]:
    """One change of all numbers that differ; none where all are equal."""
    places = np.flatnonzero(new != old)
    if not len(places):
        return []
    return [
        filters.TensorChange(node=node, slot=slot, positions=places, values=new[places], clone=name)
    ]


def changes_head(head: ClassHead, change: filters.HeadChange) -> bool:
    """Whether baking a change would alter any number."""
    if change.weight is not None and not np.array_equal(change.weight, head.weight):
        return True
    return change.bias is not None and bool(np.any(change.bias != head.biases))


def _check(head: ClassHead, change: filters.HeadChange) -> None:
    if change.kind == "bias" and (change.bias is None or change.weight is not None):
        raise errors.ModelError("a change of class biases names biases and no weights")
    if change.kind == "last-layer" and change.weight is None:
        raise errors.ModelError("a refitted last layer names its weights")
    if change.bias is not None and head.place is None:
        raise errors.ModelError(head.fixed_bias)
    if change.weight is not None and head.fixed_weight:
        raise errors.ModelError(head.fixed_weight)
    for numbers, wanted in ((change.bias, (head.n_classes,)), (change.weight, head.weight.shape)):
        if numbers is not None and numbers.shape != wanted:
            raise errors.ModelError(
                f"the last layer {head.name!r} has numbers of shape {wanted}, and {numbers.shape} "
                "were given"
            )


def _class_biases(constants: ConstantArrays, head: ClassHead) -> str | None:
    """The tensor at the bias's place, if it holds a number for each class."""
    assert head.place is not None
    inputs = constants.index.nodes[head.place.node].input
    name = inputs[head.place.slot] if len(inputs) > head.place.slot else ""
    return name if name and constants.array(name).size == head.n_classes else None
