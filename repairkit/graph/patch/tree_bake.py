"""Freeze trees inside their ensemble: all leaves of a frozen tree hold its constant.

Branches, lists and their lengths stay, so that only weights differ, and the old ones undo it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, numpy_helper

from repairkit.core.errors import ModelError, VerificationError
from repairkit.core.filters import FilterMeans
from repairkit.core.patch import Constant, TensorEdit
from repairkit.graph.index import attribute
from repairkit.graph.kinds.trees import Ensemble
from repairkit.graph.stored.storage import Storage, Write, runs_of, store

_FLOAT = np.dtype("<f4")


def freeze_trees(
    node: NodeProto, site: str, trees: Ensemble, constants: Mapping[int, Constant]
) -> TensorEdit:
    """Let the leaves of some trees hold constants, in place.

    Args:
        node: the ensemble's node in the model that is edited.
        site: its name, for messages.
        trees: what the node holds.
        constants: one number for each of the ensemble's columns, by tree.

    Raises:
        ModelError: a constant has no place in the leaves, or would change how scores are read.
    """
    levels = np.zeros((trees.n_trees, len(trees.columns)))
    for tree, constant in constants.items():
        if np.size(constant) != len(trees.columns):
            raise ModelError(
                f"tree {site}:{tree} yields {len(trees.columns)} numbers and its constant is "
                f"{constant!r}; give one for each"
            )
        levels[tree] = constant
    frozen = np.isin(np.arange(trees.n_trees), list(constants))
    check_levels(site, trees, levels)
    positions = np.flatnonzero(frozen[trees.tree_of])
    weights = trees.weights.copy()
    weights[positions] = levels[trees.tree_of, trees.column_of][positions]
    if trees.all_positive is False and not (weights < 0).any():
        raise ModelError(
            f"freezing {len(constants)} trees would leave {site} without any negative leaf, and "
            "the operator reads the scores of two classes in another way then; freeze fewer trees"
        )
    name = f"{trees.prefix}_weights"
    found = attribute(node, name) or attribute(node, f"{name}_as_tensor")
    assert found is not None
    runs = tuple(runs_of(positions))
    old = _write(found, positions, weights[positions])
    return TensorEdit(kind="attribute", tensor=found.name, runs=runs, old=old, node=node.output[0])


def check_levels(site: str, trees: Ensemble, levels: NDArray[np.float64]) -> None:
    """Refuse levels that the leaves cannot hold.

    Raises:
        ModelError: a level is not finite, or for a class of which the tree has no weight.
    """
    for wrong, what in (
        (~np.isfinite(levels), "yields infinity or NaN; check the model's leaves"),
        ((levels != 0) & ~trees.holds, "has no leaf for one of its constants; give zero there"),
        (
            (levels < 0) & (trees.all_positive is True),
            "would be negative as no leaf is, and the operator would take its sums for margins; "
            "give zero or more",
        ),
    ):
        if wrong.any():
            raise ModelError(f"tree {site}:{int(np.argwhere(wrong)[0, 0])} {what}")


def representable_trees(site: str, trees: Ensemble, levels: NDArray[np.float64]) -> FilterMeans:
    """The levels nearest to those wanted that the leaves can hold.

    Raises:
        ModelError: see `check_levels`.
    """
    check_levels(site, trees, levels)
    return {site: levels.astype(trees.weights.dtype)}


def _write(
    found: AttributeProto, positions: NDArray[np.intp], values: NDArray[np.float64]
) -> bytes:
    """Put values at flat positions of an attribute; the bytes that stood there."""
    if found.type == AttributeProto.TENSOR:
        place = Storage("attribute", found.name, shared=False)
        return store(found.t, Write(place, positions.astype(np.int64), values))
    old = np.array([found.floats[p] for p in positions.tolist()], _FLOAT)
    for position, value in zip(positions.tolist(), values.tolist(), strict=True):
        found.floats[position] = value
    return old.tobytes()


def restore_attribute(nodes: list[NodeProto], edit: TensorEdit) -> None:
    """Undo an edit of `freeze_trees` in place.

    Raises:
        VerificationError: no node has what the edit names, or its bytes do not fit.
    """
    made = [node for node in nodes if edit.node in node.output]
    found = attribute(made[0], edit.tensor) if made else None
    if found is None or found.type not in (AttributeProto.TENSOR, AttributeProto.FLOATS):
        raise VerificationError(
            f"the model has no list {edit.tensor!r} in the node that makes {edit.node!r}"
        )
    stored = found.type == AttributeProto.TENSOR
    dtype = numpy_helper.to_array(found.t).dtype if stored else _FLOAT
    size = int(np.prod(found.t.dims)) if stored else len(found.floats)
    n_values = sum(max(stop - start, 0) for start, stop in edit.runs)
    outside = any(start < 0 or stop > size for start, stop in edit.runs)
    if not edit.runs or outside or len(edit.old) != n_values * dtype.itemsize:
        raise VerificationError(f"the old bytes kept for {edit.tensor!r} do not fit the list")
    positions = np.concatenate([np.arange(start, stop) for start, stop in edit.runs])
    _write(found, positions, np.frombuffer(edit.old, dtype))
