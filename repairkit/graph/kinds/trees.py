"""Sites whose filters are the trees of an ensemble.

All leaves of a frozen tree hold its constant. Lists and their lengths stay, and the old numbers
undo it. Only weights differ, and thresholds of questions for equality (see `_EQUAL_TO_NOTHING`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from repairkit.core import errors, filters, suite
from repairkit.graph.coalitions.masking import mask_name, with_where
from repairkit.graph.kinds import ensembles
from repairkit.graph.kinds.kind import Kind, SiteLayer, SiteSearch
from repairkit.graph.protos import GraphIndex, attribute, fresh_name, int_attribute, refill

_EQUAL_TO_NOTHING = 0.5
"""The threshold of questions for equality in a frozen tree, all of whose leaves are alike.

ONNX Runtime joins a chain of questions whether a feature equals a whole number where their leaves
are alike. With a tree of one leaf in front it then adds the frozen constant several times (1.31).
It joins none that asks for half a number.
"""
_EXPAND_SINCE = 8  # the opset since which there is `Expand`, which masks of trees need


@dataclass(frozen=True, eq=False)
class TreeLayer:
    """An ensemble whose filters are its trees; see `SiteLayer`."""

    site: filters.Site
    trees: ensembles.Ensemble
    node: NodeProto

    @property
    def tensors(self) -> set[str]:
        """Empty: an ensemble is edited in its own lists."""
        return set()

    def constant_of(self, tree: int) -> filters.Constant | None:
        """What every leaf of a tree yields; None where they differ."""
        yields = self.trees.table[self.trees.tree_of_leaf == tree]
        return None if (yields != yields[:1]).any() else filters.constant_of(yields[0])

    @property
    def is_exact(self) -> bool:
        return True

    def bias_levels(self) -> suite.Array:
        """A tree has no bias, and yields zero."""
        return np.zeros(self.site.level_shape, np.float32)

    def nearest(self, levels: suite.Array) -> suite.Array:
        wanted = levels.astype(np.float64)
        self._check_levels(wanted)
        return wanted.astype(self.trees.weights.dtype)

    def reaches(self) -> NDArray[np.float64]:
        """See `SiteLayer`: a tree jumps."""
        return np.full(self.site.n_channels, np.nan)

    def norms(self) -> NDArray[np.float64]:
        weights = self.trees.weights.astype(np.float64)
        squares = np.zeros(self.trees.n_trees)
        np.add.at(squares, self.trees.tree_of, weights**2)
        return np.sqrt(squares)

    def why_not_partly(self) -> str:
        return "they are trees"

    def freeze(self, frozen: Sequence[filters.FrozenFilter]) -> list[filters.Change]:
        trees, name = self.trees, self.site.name
        levels = np.zeros((trees.n_trees, len(trees.columns)))
        for each in frozen:
            if np.size(each.constant) != len(trees.columns):
                raise errors.ModelError(
                    f"tree {each.filter.id} yields {len(trees.columns)} numbers and its constant "
                    f"is {each.constant!r}; give one for each"
                )
            levels[each.filter.channel] = each.constant
        self._check_levels(levels)
        chosen = np.isin(np.arange(trees.n_trees), [f.filter.channel for f in frozen])
        positions = np.flatnonzero(chosen[trees.tree_of])
        weights = trees.weights.copy()
        weights[positions] = levels[trees.tree_of, trees.column_of][positions]
        if trees.all_positive is False and not (weights < 0).any():
            raise errors.ModelError(
                f"freezing {len(frozen)} trees would leave {name} without any negative leaf, and "
                "the operator then reads the scores of two classes in another way; freeze fewer "
                "trees"
            )
        stored = self._stored(f"{trees.prefix}_weights")
        changes = [(stored, positions, weights[positions])]
        asked = self._whole_questions(chosen)
        if len(asked):
            unequal = np.full(len(asked), _EQUAL_TO_NOTHING, weights.dtype)
            changes.append((self._stored("nodes_values"), asked, unequal))
        return [
            filters.ListChange(node=trees.node, name=name, positions=places, values=values)
            for name, places, values in changes
        ]

    def _stored(self, name: str) -> str:
        """The name under which a list is stored: as numbers, or as a tensor."""
        return name if attribute(self.node, name) is not None else f"{name}_as_tensor"

    def _whole_questions(self, chosen: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Entries of chosen trees that ask whether a feature equals a whole number."""
        modes, thresholds, ids = (
            ensembles.numbers(self.node, f"nodes_{name}") for name in ("modes", "values", "treeids")
        )
        tree_of_entry = np.searchsorted(self.trees.starts, np.arange(len(ids)), side="right") - 1
        whole = (modes == "BRANCH_EQ") & (thresholds == np.round(thresholds))
        return np.flatnonzero(whole & chosen[tree_of_entry])

    def _check_levels(self, levels: NDArray[np.float64]) -> None:
        """Refuse levels that the leaves cannot hold.

        Raises:
            ModelError: a level is not finite, or for a class for which the tree has no weight.
        """
        trees = self.trees
        for wrong, what in (
            (~np.isfinite(levels), "yields infinity or NaN; check the model's leaves"),
            ((levels != 0) & ~trees.holds, "has no leaf for one of its constants; give zero there"),
            (
                (levels < 0) & (trees.all_positive is True),
                "would have the only negative leaves, and the operator would then take its sums as "
                "margins; give zero or more",
            ),
        ):
            if wrong.any():
                raise errors.ModelError(
                    f"tree {self.site.name}:{int(np.argwhere(wrong)[0, 0])} {what}"
                )

    def holds(self, channel: int, constant: filters.Constant) -> bool:
        held = self.constant_of(channel)
        return held is not None and held == constant

    def frozen_since(self, before: SiteLayer) -> list[filters.FrozenFilter]:
        assert isinstance(before, TreeLayer)  # an equal site is of the same kind
        frozen = []
        for tree in range(self.site.n_channels):
            constant = self.constant_of(tree)
            if constant is not None and constant != before.constant_of(tree):
                frozen.append(filters.FrozenFilter(filters.Filter(self.site.name, tree), constant))
        return frozen

    def arithmetic(self) -> None:
        """None: trees compare and add."""

    def folded(self) -> None:
        """None: trees are no convolution."""


def _find(search: SiteSearch, position: int) -> TreeLayer | str | None:
    index = search.index
    node = index.nodes[position]
    if not ensembles.is_ensemble(node):
        return None
    if node.op_type in ensembles.UNSUPPORTED:
        return ensembles.UNSUPPORTED[node.op_type]
    if not ensembles.scores_of(node):
        return "it gives labels alone, and no scores"
    if ensembles.scores_of(node) not in index.fed:
        return "it does not depend on the input"
    if not any(o in search.judged for o in node.output):
        return "it does not lead to the output that is judged"
    try:
        trees = ensembles.read_ensemble(position, index)
    except (ValueError, TypeError):  # a tensor whose bytes are not what its shape says
        return "its lists cannot be read"
    if isinstance(trees, str):
        return trees
    site = filters.Site(
        name=search.names[position],
        kind=node.op_type,
        tensor=ensembles.scores_of(node),
        node=node.name,
        channel_axis=1,
        n_channels=trees.n_trees,
        rank=2,
        dtype=trees.weights.dtype.name,
        n_values=len(trees.columns),
    )
    return TreeLayer(site, trees, node)


# Masks


# A mask is 0 or 1. For each comparison: the threshold, and whether true means absent.
_COMPARISONS = {
    "BRANCH_LEQ": (0.5, True),
    "BRANCH_LT": (0.5, True),
    "BRANCH_GTE": (0.5, False),
    "BRANCH_GT": (0.5, False),
    "BRANCH_EQ": (1.0, False),
    "BRANCH_NEQ": (1.0, True),
}
_FLOAT_MAKERS = {"Scaler", "Imputer", "Normalizer", "FeatureVectorizer", "OneHotEncoder"}


def _mask(
    model: ModelProto, sites: Sequence[filters.Site], means: filters.FilterMeans
) -> ModelProto:
    """See `Kind`. The means of a site have shape (n_trees, n_columns)."""
    model = with_where(model, at_least=_EXPAND_SINCE)
    result = ensembles.with_standard_operators(model)
    index = GraphIndex(model)
    taken = set(index.names)
    # From the back, so that nodes put in front of one ensemble move no other.
    for site in sorted(sites, key=lambda site: -index.producers[site.tensor]):
        position = index.producers[site.tensor]
        node, ensemble = result.graph.node[position], _ensemble(position, index)
        before = _with_masks(site, node, element_type(model, node.input[0]), taken, result)
        _plant(node, ensemble, means[site.name])
        moved = [*result.graph.node[:position], *before, *result.graph.node[position:]]
        refill(result.graph.node, moved)
    result.graph.input.extend(
        helper.make_tensor_value_info(
            mask_name(site), TensorProto.BOOL, ["mask_rows", site.n_channels]
        )
        for site in sites
    )
    return result


TREES = Kind(
    operators=frozenset({*ensembles.ENSEMBLES, *ensembles.UNSUPPORTED}), find=_find, mask=_mask
)


def tap_trees(
    model: ModelProto, sites: Sequence[filters.Site]
) -> tuple[ModelProto, dict[str, str]]:
    """A copy with outputs that tell which leaf of each tree is reached, and their names by site.

    An output has shape (n, n_trees) and holds whole numbers as floats: the leaf's number in
    `Ensemble.leaves`, minus that of the tree's first leaf.
    """
    result = ensembles.with_standard_operators(model)
    index = GraphIndex(model)
    taken = set(index.names)
    taps = {}
    for site in sites:
        position = index.producers[site.tensor]
        node, ensemble = index.nodes[position], _ensemble(position, index)
        source = node.input[0]
        if element_type(model, source) not in (TensorProto.FLOAT, TensorProto.DOUBLE):
            source = _taken_name(f"{site.name}/as_float", taken)
            result.graph.node.append(
                helper.make_node("Cast", [node.input[0]], [source], to=TensorProto.FLOAT)
            )
        taps[site.name] = _taken_name(f"{site.name}/leaves", taken)
        result.graph.node.append(_numbered(node, ensemble, source, taps[site.name]))
        result.graph.output.append(helper.make_empty_tensor_value_info(taps[site.name]))
    return result, taps


def _ensemble(position: int, index: GraphIndex) -> ensembles.Ensemble:
    ensemble = ensembles.read_ensemble(position, index)
    if isinstance(ensemble, str):
        name = index.nodes[position].output[0]
        raise errors.ModelError(f"the trees that make {name!r} are no filters: {ensemble}")
    return ensemble


def _numbered(node: NodeProto, ensemble: ensembles.Ensemble, source: str, output: str) -> NodeProto:
    """A regressor of the same trees, with a target for each; a leaf yields its number."""
    tapped = NodeProto(op_type="TreeEnsembleRegressor", domain=ensembles.DOMAIN, name=output)
    tapped.input.append(source)
    tapped.output.append(output)
    tapped.attribute.extend(a for a in node.attribute if a.name.startswith("nodes_"))
    within = np.arange(len(ensemble.leaves)) - ensemble.first_leaves[ensemble.tree_of_leaf]
    weights = helper.make_attribute("target_weights", within.astype(float).tolist())
    if any(a.name == "nodes_values_as_tensor" for a in node.attribute):  # both or neither
        held = numpy_helper.from_array(within.astype(np.float64), "target_weights")
        weights = helper.make_attribute("target_weights_as_tensor", held)
    tapped.attribute.extend(
        [
            weights,
            helper.make_attribute("n_targets", ensemble.n_trees),
            helper.make_attribute("target_ids", ensemble.tree_of_leaf.tolist()),
            *(
                helper.make_attribute(
                    f"target_{part}",
                    ensembles.numbers(node, f"nodes_{part}")[ensemble.leaves].tolist(),
                )
                for part in ("treeids", "nodeids")
            ),
        ]
    )
    return tapped


def _with_masks(
    site: filters.Site, node: NodeProto, dtype: int, taken: set[str], model: ModelProto
) -> list[NodeProto]:
    """Nodes that put a row of masks in front of every row of an ensemble's input."""
    source = node.input[0]
    names = [
        _taken_name(f"{site.name}/{step}", taken)
        for step in ("shape", "rows", "mask_shape", "numbers", "masks", "masked", "zero", "one")
    ]
    shape, rows, mask_shape, digits, masks, masked, zero, one = names
    for name, value in ((zero, 0), (one, 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    node.input[0] = masked
    return [
        helper.make_node("Shape", [source], [shape]),
        helper.make_node("Gather", [shape, zero], [rows]),
        helper.make_node("Concat", [rows, one], [mask_shape], axis=0),
        helper.make_node("Cast", [mask_name(site)], [digits], to=dtype),
        helper.make_node("Expand", [digits, mask_shape], [masks]),
        helper.make_node("Concat", [masks, source], [masked], axis=1),
    ]


def _plant(node: NodeProto, ensemble: ensembles.Ensemble, levels: NDArray[np.float64]) -> None:
    """Give every tree a root that tests its mask, and a leaf for when the mask is false."""
    n_trees = ensemble.n_trees

    def held(name: str) -> suite.Array:
        return ensembles.numbers(node, f"nodes_{name}")

    modes, ids, trees = held("modes"), held("nodeids"), held("treeids")
    mode = next((m for m in modes.tolist() if m in _COMPARISONS), "BRANCH_LEQ")
    threshold, true_is_absent = _COMPARISONS[mode]
    roots = ids[ensemble.starts] + 2
    absent = np.ones(n_trees, np.int64)
    yes, no = (absent, roots) if true_is_absent else (roots, absent)
    nothing = np.zeros(n_trees, np.int64)
    pairs = {
        "treeids": (trees, trees[ensemble.starts], trees[ensemble.starts]),
        "nodeids": (ids + 2, nothing, absent),
        "featureids": (held("featureids") + n_trees, np.arange(n_trees), nothing),
        "values": (held("values"), np.full(n_trees, threshold), nothing),
        "modes": (modes, np.full(n_trees, mode), np.full(n_trees, "LEAF")),
        "truenodeids": (held("truenodeids") + 2, yes, nothing),
        "falsenodeids": (held("falsenodeids") + 2, no, nothing),
        "hitrates": (held("hitrates"), absent, absent),
        "missing_value_tracks_true": (held("missing_value_tracks_true"), nothing, nothing),
    }
    for name, (kept, root, leaf) in pairs.items():
        if len(kept):
            fresh = np.stack([root, leaf], axis=1).reshape(-1)
            width = np.promote_types(kept.dtype, fresh.dtype)
            grown = np.insert(kept.astype(width), np.repeat(ensemble.starts, 2), fresh)
            ensembles.replace_numbers(node, f"nodes_{name}", grown)
    _plant_weights(node, ensemble, trees[ensemble.starts], levels)


def _plant_weights(
    node: NodeProto, ensemble: ensembles.Ensemble, ids: suite.Array, levels: NDArray[np.float64]
) -> None:
    """Give the new leaf of every tree its levels; `ids` are those of the trees."""
    tree, column = np.nonzero(ensemble.holds)
    ends = {
        "treeids": ids[tree],
        "nodeids": np.ones(len(tree), np.int64),
        "ids": np.array(ensemble.columns)[column],
        "weights": levels[tree, column],
    }
    for name, added in ends.items():
        kept = ensembles.numbers(node, f"{ensemble.prefix}_{name}")
        shifted = kept + 2 if name == "nodeids" else kept
        ensembles.replace_numbers(
            node, f"{ensemble.prefix}_{name}", np.concatenate([shifted, added])
        )


def element_type(model: ModelProto, name: str) -> int:
    """The element type of the tensor that an ensemble reads."""
    known = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    if name in known:
        return known[name]
    maker = next((n for n in model.graph.node if name in n.output), None)
    if maker is not None and maker.op_type == "Cast":
        return int_attribute(maker, "to", TensorProto.FLOAT)
    if maker is not None and maker.domain == ensembles.DOMAIN and maker.op_type in _FLOAT_MAKERS:
        return int(TensorProto.FLOAT)
    try:
        inferred = shape_inference.infer_shapes(model)
    except (ValueError, RuntimeError):  # a model over 2 GB, or one that contradicts itself
        return int(TensorProto.FLOAT)
    types = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    return types.get(name) or int(TensorProto.FLOAT)


def _taken_name(wanted: str, taken: set[str]) -> str:
    """A fresh name, which is taken from then on."""
    name = fresh_name(wanted, taken)
    taken.add(name)
    return name
