"""Tree ensembles drawn at random, and what each tree yields, by a walk down in Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repairkit.core.suite import Array

MODES = {
    "BRANCH_LEQ": np.less_equal,
    "BRANCH_LT": np.less,
    "BRANCH_GTE": np.greater_equal,
    "BRANCH_GT": np.greater,
    "BRANCH_EQ": np.equal,
    "BRANCH_NEQ": np.not_equal,
}
N_FEATURES = 4


@dataclass(frozen=True)
class Tree:
    """A leaf (`weights` by column) or a question with two ways on."""

    weights: dict[int, float] | None = None
    feature: int = 0
    mode: str = "LEAF"
    threshold: float = 0.0
    missing_is_true: bool = False
    yes: Tree | None = None
    no: Tree | None = None

    def reached(self, row: Array) -> dict[int, float]:
        """The weights of the leaf that a row reaches."""
        if self.weights is not None:
            return self.weights
        value = row[self.feature]
        missing = bool(np.isnan(value)) and self.missing_is_true
        way = self.yes if missing or MODES[self.mode](value, self.threshold) else self.no
        assert way is not None
        return way.reached(row)


@dataclass(frozen=True)
class Forest:
    """A model of one ensemble, and the trees that it was made of."""

    model: ModelProto
    trees: tuple[Tree, ...]
    n_columns: int
    dtype: str

    def yields(self, rows: Array) -> Array:
        """What each tree yields alone: (n_rows, n_trees, n_columns)."""
        found = np.zeros((len(rows), len(self.trees), self.n_columns), self.dtype)
        for r, row in enumerate(rows):
            for t, tree in enumerate(self.trees):
                for column, weight in tree.reached(row).items():
                    found[r, t, column] = weight
        return found


def rows_of(n: int, *, seed: int = 0, missing: float = 0.1) -> NDArray[np.float32]:
    """Rows of small whole numbers and halves, some of them missing."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-4, 5, (n, N_FEATURES)) / 2
    return np.where(rng.random(rows.shape) < missing, np.nan, rows).astype(np.float32)


def grow(
    rng: np.random.Generator, columns: list[int], depth: int, modes: list[str], low: float
) -> Tree:
    """A tree at random, whose leaves all have weights for `columns`."""
    if depth == 0 or rng.random() < 0.15:
        weights = rng.uniform(low, 1.0, len(columns)).astype(np.float32).tolist()
        return Tree(dict(zip(columns, weights, strict=True)))
    return Tree(
        None,
        int(rng.integers(N_FEATURES)),
        str(rng.choice(modes)),
        float(rng.integers(-4, 5) / 2),
        bool(rng.random() < 0.5),
        grow(rng, columns, depth - 1, modes, low),
        grow(rng, columns, depth - 1, modes, low),
    )


def forest(
    seed: int,
    *,
    kind: str = "TreeEnsembleRegressor",
    n_trees: int = 5,
    n_columns: int = 2,
    depth: int = 3,
    one_column_each: bool = False,
    double: bool = False,
    low: float = -1.0,
    modes: tuple[str, ...] = ("BRANCH_LEQ",),
    transform: str = "NONE",
    base: tuple[float, ...] = (),
) -> Forest:
    """A forest at random. Two columns or more of a classifier are its classes; one is of two."""
    rng = np.random.default_rng(seed)
    trees = []
    for number in range(n_trees):
        columns = [number % n_columns] if one_column_each else list(range(n_columns))
        trees.append(grow(rng, columns, depth, list(modes), low))
    node = _node(rng, kind, trees, n_columns, double=double)
    node.attribute.append(helper.make_attribute("post_transform", transform))
    if base:
        node.attribute.append(helper.make_attribute("base_values", list(base)))
    element = TensorProto.DOUBLE if double else TensorProto.FLOAT
    row = helper.make_tensor_value_info("rows", element, ["n", N_FEATURES])
    n_outputs = max(n_columns, 2) if kind == "TreeEnsembleClassifier" else n_columns
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", n_outputs])
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["n"])
    outputs = [label, scores] if kind == "TreeEnsembleClassifier" else [scores]
    graph = helper.make_graph([node], "forest", [row], outputs)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    model.metadata_props.add(key="author", value="somebody")
    return Forest(model, tuple(trees), n_columns, "float64" if double else "float32")


def _node(
    rng: np.random.Generator, kind: str, trees: list[Tree], n_columns: int, *, double: bool
) -> NodeProto:
    """The lists of an ensemble, with numbers for trees and nodes that are in no order."""
    prefix = "class" if kind == "TreeEnsembleClassifier" else "target"
    nodes: dict[str, list[Any]] = {
        name: []
        for name in (
            *("treeids", "nodeids", "featureids", "values", "modes"),
            *("truenodeids", "falsenodeids", "missing_value_tracks_true", "hitrates"),
        )
    }
    ends: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
    for tree_id, tree in zip(rng.permutation(50)[: len(trees)].tolist(), trees, strict=True):
        order = [tree]
        for found in order:
            order += [way for way in (found.yes, found.no) if way is not None]
        ids = dict(zip(map(id, order), rng.permutation(len(order)).tolist(), strict=True))
        for found in order:
            yes, no = (0 if way is None else ids[id(way)] for way in (found.yes, found.no))
            entry = (tree_id, ids[id(found)], found.feature, found.threshold, found.mode)
            entry += (yes, no, int(found.missing_is_true), 1.0)
            for values, value in zip(nodes.values(), entry, strict=True):
                values.append(value)
            for column, weight in (found.weights or {}).items():
                for values, value in zip(
                    ends.values(), (tree_id, ids[id(found)], column, weight), strict=True
                ):
                    values.append(value)
    given: dict[str, Any] = {f"nodes_{name}": values for name, values in nodes.items()}
    given |= {f"{prefix}_{name}": values for name, values in ends.items()}
    if double:
        for name in ("nodes_values", "nodes_hitrates", f"{prefix}_weights"):
            array = np.array(given.pop(name), np.float64)
            given[f"{name}_as_tensor"] = numpy_helper.from_array(array, name)
    if kind == "TreeEnsembleClassifier":
        given["classlabels_int64s"] = list(range(max(n_columns, 2)))
        outputs = ["label", "scores"]
    else:
        given["n_targets"] = n_columns
        outputs = ["scores"]
    return helper.make_node(kind, ["rows"], outputs, "forest", domain="ai.onnx.ml", **given)
