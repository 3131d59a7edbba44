"""Tree ensembles of `ai.onnx.ml`: the trees of a node, and the stored weights of each tree.

A node stores all trees in flat lists: one entry per node of a tree, and one per weight of a leaf.
A tree adds one number to the sum of each *column*, a class or a target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repairkit.core import errors, filters, suite
from repairkit.graph import protos

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
_OPSET = 13  # for a model that has only ai.onnx.ml operators
_IR_VERSION = 7
_MOST_NUMBERS = 2**26  # that all leaves together may yield
_PREFIX = {"TreeEnsembleClassifier": "class", "TreeEnsembleRegressor": "target"}


@dataclass(frozen=True, kw_only=True)
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
        weights: of the leaves, (n_weights,), float32 or float64 as stored.
        labels: of the classes, in the order of the scores; empty where the node gives none.
    """

    node: int
    prefix: str
    starts: NDArray[np.intp]
    leaves: NDArray[np.intp]
    columns: tuple[int, ...]
    leaf_of: NDArray[np.intp]
    column_of: NDArray[np.intp]
    weights: suite.Array
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
    def table(self) -> suite.Array:
        """What each leaf yields, (n_leaves, n_columns), in the precision of the weights."""
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
        """Whether no weight is negative, if that decides how scores are read; else None.

        With two classes and weights for one of them, the operator takes sums as probabilities of
        that class if no weight is negative, and as margins if one is.
        """
        if len(self.labels) != 2 or len(self.columns) != 1:
            return None
        return not bool((self.weights < 0).any())


def is_ensemble(node: NodeProto) -> bool:
    """Whether a node is a tree ensemble of any kind."""
    return node.domain == DOMAIN and node.op_type in (*ENSEMBLES, *UNSUPPORTED)


def scores_of(node: NodeProto) -> str:
    """The output that holds an ensemble's sums, not its labels."""
    last = 1 if node.op_type == "TreeEnsembleClassifier" else 0
    return str(node.output[last]) if len(node.output) > last else ""


def read_ensemble(position: int, index: protos.GraphIndex) -> Ensemble | str:
    """The ensemble at a node of one of `ENSEMBLES`, or why its lists cannot be edited."""
    node = index.nodes[position]
    prefix = _PREFIX[node.op_type]
    entries = _lists(node, "nodes", _NODE_LISTS, _NODE_EXTRAS)
    ends = _lists(node, prefix, _LEAF_LISTS, {})
    if isinstance(entries, str) or isinstance(ends, str):
        return entries if isinstance(entries, str) else str(ends)
    trees, nodes, modes = (entries[name] for name in ("treeids", "nodeids", "modes"))
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
    ensemble = Ensemble(
        node=position,
        prefix=prefix,
        starts=starts,
        leaves=leaves,
        columns=tuple(columns.tolist()),
        leaf_of=np.array([number_of[key] for key in keys], np.intp),
        column_of=column_of.astype(np.intp),
        weights=ends["weights"],
        labels=class_labels([node]),
    )
    return _irregular(ensemble) or ensemble


def _irregular(trees: Ensemble) -> str | None:
    """Why a mean cannot be stored in the leaves' weights; None where it can."""
    places = trees.leaf_of * len(trees.columns) + trees.column_of
    if len(np.unique(places)) != len(places):
        return "a leaf has two weights for one class"
    n_weights = np.bincount(trees.leaf_of, minlength=len(trees.leaves))
    if not np.array_equal(n_weights, trees.holds.sum(axis=1)[trees.tree_of_leaf]):
        return "leaves of one tree have weights for different classes"
    return None


def _lists(
    node: NodeProto, prefix: str, wanted: Mapping[str, str], extra: Mapping[str, str]
) -> dict[str, suite.Array] | str:
    """Lists of one length by name, or what is wrong with them; an `extra` list may be missing.

    The values of `wanted` and `extra` are the kinds of type that the elements must have.
    """
    lists = {name: numbers(node, f"{prefix}_{name}") for name in (*wanted, *extra)}
    length = len(lists["treeids"])
    for name, kind in {**wanted, **extra}.items():
        if name in extra and not len(lists[name]):
            continue
        if not length or len(lists[name]) != length or lists[name].dtype.kind != kind:
            return f"its list {prefix}_{name} is missing, of another length or of another type"
    return lists


def numbers(node: NodeProto, name: str) -> suite.Array:
    """A list attribute, also where it is stored as a tensor; empty where the node has none."""
    held = protos.attribute(node, name) or protos.attribute(node, f"{name}_as_tensor")
    if held is None:
        return np.zeros(0)
    if held.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(held.t).reshape(-1)
    if held.type == AttributeProto.STRINGS:
        return np.array([text.decode("utf-8", "replace") for text in held.strings])
    if held.type == AttributeProto.FLOATS:
        return np.array(held.floats, np.float32)
    return np.array(held.ints, np.int64)


def replace_numbers(node: NodeProto, name: str, values: suite.Array) -> None:
    """Replace the list in an attribute, in the form in which it is stored."""
    held = protos.attribute(node, name) or protos.attribute(node, f"{name}_as_tensor")
    assert held is not None
    if held.type == AttributeProto.TENSOR:
        stored = numpy_helper.to_array(held.t)
        fresh = values.astype(stored.dtype)
        if fresh.size == stored.size:
            fresh = fresh.reshape(stored.shape)
        held.t.CopyFrom(numpy_helper.from_array(fresh, held.t.name))
    elif held.type == AttributeProto.STRINGS:
        held.strings[:] = [str(text).encode() for text in values]
    elif held.type == AttributeProto.FLOATS:
        held.floats[:] = values.astype(np.float32).tolist()
    else:
        held.ints[:] = values.astype(np.int64).tolist()


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


def spread_over_thresholds(
    model: ModelProto, input_name: str, rows: suite.Array, rng: np.random.Generator
) -> suite.Array:
    """The rows, with every feature that trees compare drawn from around the trees' thresholds.

    Noise in another range would send all rows to the same leaves. Only ensembles that read the
    input itself tell in which range it lies. Rows are floats of shape (n, n_features).
    """
    result = rows.copy()
    asked: dict[int, list[float]] = {}
    for node in model.graph.node:
        if is_ensemble(node) and node.input[0] == input_name:
            features, modes = (numbers(node, f"nodes_{name}") for name in ("featureids", "modes"))
            thresholds = numbers(node, "nodes_values")
            for feature, mode, threshold in zip(features, modes, thresholds, strict=False):
                if mode != "LEAF":
                    asked.setdefault(int(feature), []).append(float(threshold))
    for feature, known in asked.items():
        if feature < rows.shape[1]:
            width = max(known) - min(known) or abs(known[0]) or 1.0
            drawn = rng.choice(known, len(rows))
            result[:, feature] = drawn + 0.1 * width * rng.standard_normal(len(rows))
    return result


def with_standard_operators(model: ModelProto) -> ModelProto:
    """A copy that may also use operators of the ONNX standard."""
    result = protos.copied(model)
    if not any(o.domain in protos.STANDARD for o in result.opset_import):
        result.opset_import.append(helper.make_opsetid("", _OPSET))
        result.ir_version = max(result.ir_version, _IR_VERSION)
    result.ir_version = max(result.ir_version, protos.DEFAULTS_SINCE)
    return result


# The nodes behind ensembles: `ZipMap`, which turns scores into dictionaries, and others


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


def zipped_outputs(index: protos.GraphIndex) -> set[str]:
    """Outputs of the model that are made by a `ZipMap`."""
    return {
        o for node in index.nodes if _is_zipmap(node) for o in node.output if o in index.outputs
    }


def _is_zipmap(node: NodeProto) -> bool:
    return node.op_type == "ZipMap" and node.domain == DOMAIN


def tail_of(model: ModelProto, sites: Sequence[filters.Site], output: str) -> ModelProto | None:
    """A model from the scores of all ensembles to an output; None where the output is the scores.

    Raises:
        ModelError: the output also depends on the input in another way.
    """
    if [site.tensor for site in sites] == [output]:
        return None
    plain = without_zipmaps(model)
    index = protos.GraphIndex(plain)
    scores = [site.tensor for site in sites]
    needed, members = {output}, []
    for position in range(len(index.nodes) - 1, -1, -1):
        node = index.nodes[position]
        if any(o in needed and o not in scores for o in node.output):
            members.append(node)
            needed.update(name for name in (*node.input, *protos.outer_names(node)) if name)
    made = {o for node in members for o in node.output}
    beside = sorted(name for name in needed & index.fed if name not in made and name not in scores)
    if beside:
        raise errors.ModelError(
            f"the output {output!r} depends on {beside[0]!r}, not only on trees"
        )
    graph = helper.make_graph(
        members[::-1],
        "tail",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in scores],
        [value for value in plain.graph.output if value.name == output],
        [tensor for name, tensor in index.initializers.items() if name in needed],
    )
    tail = helper.make_model(graph, opset_imports=plain.opset_import)
    tail.ir_version = max(plain.ir_version, protos.DEFAULTS_SINCE)
    tail.functions.extend(plain.functions)
    return tail
