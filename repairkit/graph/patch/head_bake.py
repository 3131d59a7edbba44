"""Store new class biases or new weights in the layer that makes the class scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import ModelError
from repairkit.core.patch import HeadChange
from repairkit.graph.index import GraphIndex
from repairkit.graph.kinds.class_head import ClassHead, kernel_order
from repairkit.graph.stored.editing import Editor, as_stored
from repairkit.graph.stored.storage import Constants

Floats = NDArray[np.float64]


def biased(index: GraphIndex, head: ClassHead, shift: Floats) -> HeadChange:
    """The change that adds `shift` to the class scores, rounded to what the file can hold.

    Args:
        index: of the model.
        head: its head.
        shift: (n_classes,).

    Raises:
        ModelError: the head has no place for class biases, or it cannot hold these.
    """
    if head.fixed_bias:
        raise ModelError(head.fixed_bias)
    before = np.zeros(head.n_classes) if head.bias is None else head.bias
    return held(index, head, HeadChange("bias", head.name, before + shift / head.bias_scale))


def refitted(index: GraphIndex, head: ClassHead, weight: Floats, shift: Floats) -> HeadChange:
    """The change that adds `weight` and `shift` to what the head makes of its features.

    Args:
        index: of the model.
        head: its head.
        weight: (n_classes, n_features), added to the weights as they count in the scores.
        shift: (n_classes,), added to the scores; 0 for a head that has no place for biases.

    Raises:
        ModelError: the weights cannot be changed, or the file cannot hold these numbers.
    """
    if head.fixed_weight:
        raise ModelError(head.fixed_weight)
    bias = None
    if head.place is not None:
        before = np.zeros(head.n_classes) if head.bias is None else head.bias
        bias = before + shift / head.bias_scale
    changed = head.weight + weight / head.weight_scale[:, None]
    return held(index, head, HeadChange("last-layer", head.name, bias, changed))


def held(index: GraphIndex, head: ClassHead, change: HeadChange) -> HeadChange:
    """The change with the numbers as they read back once they are stored.

    Raises:
        ModelError: some are too large, or not finite.
    """
    constants, node = Constants(index), index.nodes[head.node]
    weight = None
    if change.weight is not None:
        wanted = kernel_order(node, change.weight)
        flat = as_stored(constants, head.kernel, wanted).astype(np.float64)
        weight = _from_kernel(flat, head, node_order=kernel_order(node, _numbered(head)))
    bias = None
    if change.bias is not None:
        bias = _bias_as_stored(index, constants, head, change.bias)
    for numbers in (weight, bias):
        if numbers is not None and not np.isfinite(numbers).all():
            raise ModelError(f"the last layer {head.name!r} cannot hold the new numbers")
    return HeadChange(change.kind, head.name, bias, weight)


def bake_head(editor: Editor, head: ClassHead, change: HeadChange) -> None:
    """Write the numbers that differ from those that stand in the file.

    Raises:
        ModelError: the change does not fit the head.
    """
    _check(head, change)
    node = editor.index.nodes[head.node]
    if change.weight is not None:
        new, old = (kernel_order(node, w) for w in (change.weight, head.weight))
        places = np.flatnonzero(new != old)
        if len(places):
            editor.write(head.node, 1, places, new[places], f"{head.name}/kernel")
    if change.bias is None or head.place is None:
        return
    where, before = head.place, _stored_bias(editor.index, editor.constants, head)
    if before is not None and before.size == head.n_classes:
        places = np.flatnonzero(change.bias != before)
        if len(places):
            new = change.bias[places]
            editor.write(where.node, where.slot, places, new, f"{head.name}/bias")
    elif np.any(change.bias != (0.0 if head.bias is None else head.bias)):
        array = change.bias.astype(head.dtype)
        editor.add(where.node, where.slot, array, f"{head.name}/bias")


def changes_head(head: ClassHead, change: HeadChange) -> bool:
    """Whether baking a change would alter any number."""
    if change.weight is not None and not np.array_equal(change.weight, head.weight):
        return True
    before = 0.0 if head.bias is None else head.bias
    return change.bias is not None and bool(np.any(change.bias != before))


def _check(head: ClassHead, change: HeadChange) -> None:
    if change.kind == "bias" and (change.bias is None or change.weight is not None):
        raise ModelError("a change of class biases names biases and no weights")
    if change.kind == "last-layer" and change.weight is None:
        raise ModelError("a refitted last layer names its weights")
    if change.bias is not None and head.place is None:
        raise ModelError(head.fixed_bias)
    if change.weight is not None and head.fixed_weight:
        raise ModelError(head.fixed_weight)
    for numbers, wanted in ((change.bias, (head.n_classes,)), (change.weight, head.weight.shape)):
        if numbers is not None and numbers.shape != wanted:
            raise ModelError(
                f"the last layer {head.name!r} has numbers of shape {wanted}, and {numbers.shape} "
                "were given"
            )


def _numbered(head: ClassHead) -> Floats:
    return np.arange(head.weight.size, dtype=np.float64).reshape(head.weight.shape)


def _from_kernel(flat: Floats, head: ClassHead, *, node_order: Floats) -> Floats:
    """Numbers in the order of the kernel as (n_classes, n_features)."""
    found = np.empty(head.weight.size)
    found[node_order.astype(np.int64)] = flat
    return found.reshape(head.weight.shape)


def _stored_bias(index: GraphIndex, constants: Constants, head: ClassHead) -> Floats | None:
    """What stands at the bias's place, flat; None where there is nothing."""
    assert head.place is not None
    inputs = index.nodes[head.place.node].input
    if len(inputs) <= head.place.slot or not inputs[head.place.slot]:
        return None
    return constants.array(inputs[head.place.slot]).reshape(-1).astype(np.float64)


def _bias_as_stored(
    index: GraphIndex, constants: Constants, head: ClassHead, wanted: Floats
) -> Floats:
    assert head.place is not None
    before = _stored_bias(index, constants, head)
    if before is None or before.size != head.n_classes:
        return wanted.astype(head.dtype).astype(np.float64)
    name = index.nodes[head.place.node].input[head.place.slot]
    return as_stored(constants, name, wanted).astype(np.float64)
