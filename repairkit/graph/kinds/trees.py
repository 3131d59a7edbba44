"""Tree ensembles of `ai.onnx.ml`: which trees a node holds, and which stored weights are whose.

A node stores all trees in flat lists: one entry per node of a tree, and one per weight of a leaf.
What a tree adds to the sum is one number for each *column*, a class or a target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, numpy_helper

from repairkit.core.arrays import Array
from repairkit.core.filters import Site
from repairkit.core.patch import Constant, constant_of
from repairkit.graph.index import GraphIndex, attribute

DOMAIN = "ai.onnx.ml"
ENSEMBLES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
UNSUPPORTED = {"TreeEnsemble": "a TreeEnsemble in the form of ai.onnx.ml 5 cannot be frozen yet"}
_NODE_LISTS = {
    "treeids": "i",
    "nodeids": "i",
    "featureids": "i",
    "modes": "U",
    "values": "f",
    "truenodeids": "i",
    "falsenodeids": "i",
}
_NODE_EXTRAS = {"hitrates": "f", "missing_value_tracks_true": "i"}
_LEAF_LISTS = {"treeids": "i", "nodeids": "i", "ids": "i", "weights": "f"}
_MOST_NUMBERS = 2**26  # that leaves may yield, all together
_PREFIX = {"TreeEnsembleClassifier": "class", "TreeEnsembleRegressor": "target"}


@dataclass(frozen=True)
class Ensemble:
    """The trees of one node.

    Attributes:
        node: its position in the graph.
        prefix: `class` or `target`, with which the names of its weights' attributes begin.
        starts: position of the first entry of each tree among the node's entries, (n_trees,).
        leaves: positions of the leaves among the node's entries, (n_leaves,), tree by tree.
        columns: the classes or targets that the weights are for, ascending.
        leaf_of: the number of the leaf (in `leaves`) of each weight, (n_weights,).
        column_of: the position in `columns` of each weight, (n_weights,).
        weights: of the leaves, (n_weights,), float32 or float64 as they are stored.
        labels: of the classes, in the order of the scores; empty where the node gives none.
    """

    node: int
    prefix: str
    starts: NDArray[np.intp]
    leaves: NDArray[np.intp]
    columns: tuple[int, ...]
    leaf_of: NDArray[np.intp]
    column_of: NDArray[np.intp]
    weights: Array
    labels: tuple[str, ...]

    @property
    def n_trees(self) -> int:
        return len(self.starts)

    @cached_property
    def tree_of_leaf(self) -> NDArray[np.intp]:
        """Shape (n_leaves,)."""
        return np.searchsorted(self.starts, self.leaves, side="right") - 1

    @cached_property
    def first_leaves(self) -> NDArray[np.intp]:
        """The number of each tree's first leaf, (n_trees,)."""
        return np.searchsorted(self.leaves, self.starts)

    @cached_property
    def tree_of(self) -> NDArray[np.intp]:
        """The tree of each weight, (n_weights,)."""
        return self.tree_of_leaf[self.leaf_of]

    @cached_property
    def table(self) -> Array:
        """What each leaf yields, (n_leaves, n_columns), in the weights' own precision."""
        yields = np.zeros((len(self.leaves), len(self.columns)), self.weights.dtype)
        yields[self.leaf_of, self.column_of] = self.weights
        return yields

    @cached_property
    def holds(self) -> NDArray[np.bool_]:
        """Whether a tree has weights for a column, (n_trees, n_columns)."""
        held = np.zeros((self.n_trees, len(self.columns)), bool)
        held[self.tree_of, self.column_of] = True
        return held

    @property
    def all_positive(self) -> bool | None:
        """Whether no weight is negative, where that says how scores are read; else None.

        With two classes and weights for one of them, the operator takes sums for probabilities
        of that class if no weight is negative, and for margins if one is.
        """
        if len(self.labels) != 2 or len(self.columns) != 1:
            return None
        return not bool((self.weights < 0).any())


def constant_of_tree(trees: Ensemble, tree: int) -> Constant | None:
    """What every leaf of a tree yields; None where they differ."""
    yields = trees.table[trees.tree_of_leaf == tree]
    return None if (yields != yields[:1]).any() else constant_of(yields[0])


def is_ensemble(node: NodeProto) -> bool:
    """Whether a node is a tree ensemble of any kind."""
    return node.domain == DOMAIN and node.op_type in (*ENSEMBLES, *UNSUPPORTED)


def scores_of(node: NodeProto) -> str:
    """The output that holds an ensemble's sums, not its labels."""
    last = 1 if node.op_type == "TreeEnsembleClassifier" else 0
    return str(node.output[last]) if len(node.output) > last else ""


def tree_site(name: str, ensemble: Ensemble, node: NodeProto) -> Site:
    """The site whose filters are an ensemble's trees."""
    return Site(
        name=name,
        kind=node.op_type,
        tensor=scores_of(node),
        node=node.name,
        channel_axis=1,
        n_channels=ensemble.n_trees,
        rank=2,
        dtype=ensemble.weights.dtype.name,
        n_values=len(ensemble.columns),
    )


def survey_ensemble(position: int, index: GraphIndex, needed: set[str]) -> Ensemble | str:
    """The ensemble at a node, or the reason why its trees cannot be frozen.

    `needed` are the tensors on which the judged outputs depend.
    """
    node = index.nodes[position]
    if node.op_type in UNSUPPORTED:
        return UNSUPPORTED[node.op_type]
    if not scores_of(node):
        return "it gives labels alone, and no scores"
    if scores_of(node) not in index.fed:
        return "it does not depend on the input"
    if not any(o in needed for o in node.output):
        return "it does not lead to the output that is judged"
    try:
        return read_ensemble(position, index)
    except (ValueError, TypeError):  # a tensor whose bytes are not what its shape says
        return "its lists cannot be read"


def read_ensemble(position: int, index: GraphIndex) -> Ensemble | str:
    """The ensemble at a node of one of `ENSEMBLES`, or why its lists cannot be edited."""
    node = index.nodes[position]
    prefix = _PREFIX[node.op_type]
    found_nodes = _lists(node, "nodes", _NODE_LISTS, _NODE_EXTRAS)
    ends = _lists(node, prefix, _LEAF_LISTS, {})
    if isinstance(found_nodes, str) or isinstance(ends, str):
        return found_nodes if isinstance(found_nodes, str) else str(ends)
    trees, nodes, modes = (found_nodes[name] for name in ("treeids", "nodeids", "modes"))
    starts = np.flatnonzero(np.concatenate([[True], trees[1:] != trees[:-1]]))
    if len(set(trees[starts].tolist())) != len(starts):
        return "the nodes of a tree do not stand together"
    leaves = np.flatnonzero(modes == "LEAF")
    numbered = zip(trees[leaves].tolist(), nodes[leaves].tolist(), strict=True)
    number_of = {key: number for number, key in enumerate(numbered)}
    keys = list(zip(ends["treeids"].tolist(), ends["nodeids"].tolist(), strict=True))
    if len(number_of) != len(leaves):
        return "a tree has two leaves of one number"
    if not all(key in number_of for key in keys):
        return "a weight belongs to no leaf"
    columns, column_of = np.unique(ends["ids"], return_inverse=True)
    if len(leaves) * len(columns) > _MOST_NUMBERS:
        return f"its {len(leaves)} leaves times {len(columns)} classes are too many"
    found = Ensemble(
        position,
        prefix,
        starts,
        leaves,
        tuple(columns.tolist()),
        np.array([number_of[key] for key in keys], np.intp),
        column_of.astype(np.intp),
        ends["weights"],
        class_labels([node]),
    )
    return _irregular(found) or found


def _irregular(found: Ensemble) -> str | None:
    """Why a mean cannot be stored in the leaves' own weights, None where it can."""
    places = found.leaf_of * len(found.columns) + found.column_of
    if len(np.unique(places)) != len(places):
        return "a leaf has two weights for one class"
    n_weights = np.bincount(found.leaf_of, minlength=len(found.leaves))
    if not np.array_equal(n_weights, found.holds.sum(axis=1)[found.tree_of_leaf]):
        return "leaves of one tree have weights for different classes"
    return None


def _lists(
    node: NodeProto, prefix: str, wanted: Mapping[str, str], extra: Mapping[str, str]
) -> dict[str, Array] | str:
    """Lists of one length by name, or what is wrong with them; an `extra` one may be missing.

    The values of `wanted` and `extra` are the kinds of type that their elements must have.
    """
    found = {name: numbers(node, f"{prefix}_{name}") for name in (*wanted, *extra)}
    length = len(found["treeids"])
    for name, kind in {**wanted, **extra}.items():
        if name in extra and not len(found[name]):
            continue
        if not length or len(found[name]) != length or found[name].dtype.kind != kind:
            return f"its list {prefix}_{name} is missing, of another length or of another type"
    return found


def numbers(node: NodeProto, name: str) -> Array:
    """A list attribute, also where it is stored as a tensor; empty where the node has none."""
    found = attribute(node, name) or attribute(node, f"{name}_as_tensor")
    if found is None:
        return np.zeros(0)
    if found.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(found.t).reshape(-1)
    if found.type == AttributeProto.STRINGS:
        return np.array([text.decode("utf-8", "replace") for text in found.strings])
    if found.type == AttributeProto.FLOATS:
        return np.array(found.floats, np.float32)
    return np.array(found.ints, np.int64)


def replace_numbers(node: NodeProto, name: str, values: Array) -> None:
    """Put another list into an attribute, in the form in which it is stored."""
    found = attribute(node, name) or attribute(node, f"{name}_as_tensor")
    assert found is not None
    if found.type == AttributeProto.TENSOR:
        stored = numpy_helper.to_array(found.t)
        fresh = values.astype(stored.dtype)
        if fresh.size == stored.size:
            fresh = fresh.reshape(stored.shape)
        found.t.CopyFrom(numpy_helper.from_array(fresh, found.t.name))
    elif found.type == AttributeProto.STRINGS:
        found.strings[:] = [str(text).encode() for text in values]
    elif found.type == AttributeProto.FLOATS:
        found.floats[:] = values.astype(np.float32).tolist()
    else:
        found.ints[:] = values.astype(np.int64).tolist()


def class_labels(nodes: Sequence[NodeProto]) -> tuple[str, ...]:
    """The labels that a classifier among some nodes gives, in the order of its scores."""
    for node in nodes:
        if node.domain != DOMAIN:
            continue
        for name in ("classlabels_strings", "classlabels_int64s"):
            labels = numbers(node, name)
            if len(labels):
                return tuple(str(label) for label in labels.tolist())
    return ()
