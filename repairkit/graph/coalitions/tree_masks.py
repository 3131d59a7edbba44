"""Turn trees off at run time, and read what each tree yields alone.

The masks are put in front of an ensemble's features, and every tree gets a new root that asks for
its own: where it is off, the way leads to a new leaf that holds the tree's mean. Sums, base values,
transforms and labels stay the operator's own, so that the instrumented node is the definition of an
absent tree, whatever the operator does with its sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from repairkit.core.errors import ModelError
from repairkit.core.filters import FilterMeans, Site
from repairkit.graph.index import GraphIndex, int_attribute
from repairkit.graph.kinds.trees import DOMAIN, Ensemble, numbers, read_ensemble, replace_numbers

_OPSET = 13  # for a model that has nothing but ai.onnx.ml operators
_IR_VERSION = 7
# A mask is 0 or 1. For each comparison: what it is compared with, and whether true means absent.
_ASKING = {
    "BRANCH_LEQ": (0.5, True),
    "BRANCH_LT": (0.5, True),
    "BRANCH_GTE": (0.5, False),
    "BRANCH_GT": (0.5, False),
    "BRANCH_EQ": (1.0, False),
    "BRANCH_NEQ": (1.0, True),
}
_FLOAT_MAKERS = {"Scaler", "Imputer", "Normalizer", "FeatureVectorizer", "OneHotEncoder"}


def mask_trees(model: ModelProto, masks: Mapping[str, Site], means: FilterMeans) -> ModelProto:
    """A copy with a mask input for each of some sites that are tree ensembles.

    Args:
        model: never modified.
        masks: names for the mask inputs, and the sites of this model that they are for.
        means: shape (n_trees, n_columns) for every site.
    """
    result = with_standard_operators(model)
    index = GraphIndex(model)
    taken = set(index.names)
    # From the back, so that nodes put in front of one ensemble move no other.
    for mask, site in sorted(masks.items(), key=lambda p: -index.producers[p[1].tensor]):
        position = index.producers[site.tensor]
        node, ensemble = result.graph.node[position], _ensemble(position, index)
        before = _with_masks(mask, site, node, element_type(model, node.input[0]), taken, result)
        _plant(node, ensemble, means[site.name])
        moved = [*result.graph.node[:position], *before, *result.graph.node[position:]]
        del result.graph.node[:]
        result.graph.node.extend(moved)
    for mask, site in masks.items():
        result.graph.input.append(
            helper.make_tensor_value_info(mask, TensorProto.BOOL, ["mask_rows", site.n_channels])
        )
    return result


def tap_trees(model: ModelProto, sites: Sequence[Site]) -> tuple[ModelProto, dict[str, str]]:
    """A copy that also tells which leaf of each tree is reached, and those outputs by site name.

    An output has shape (n, n_trees) and holds whole numbers as floats: a leaf's number in
    `Ensemble.leaves`, less that of its tree's first leaf.
    """
    result = with_standard_operators(model)
    index = GraphIndex(model)
    taken = set(index.names)
    taps = {}
    for site in sites:
        position = index.producers[site.tensor]
        node, ensemble = index.nodes[position], _ensemble(position, index)
        source = node.input[0]
        if element_type(model, source) not in (TensorProto.FLOAT, TensorProto.DOUBLE):
            source = _fresh(f"{site.name}/as_float", taken)
            result.graph.node.append(
                helper.make_node("Cast", [node.input[0]], [source], to=TensorProto.FLOAT)
            )
        taps[site.name] = _fresh(f"{site.name}/leaves", taken)
        result.graph.node.append(_numbered(node, ensemble, source, taps[site.name]))
        result.graph.output.append(helper.make_empty_tensor_value_info(taps[site.name]))
    return result, taps


def _ensemble(position: int, index: GraphIndex) -> Ensemble:
    found = read_ensemble(position, index)
    if isinstance(found, str):
        name = index.nodes[position].output[0]
        raise ModelError(f"the trees that make {name!r} are no filters: {found}")
    return found


def _numbered(node: NodeProto, ensemble: Ensemble, source: str, output: str) -> NodeProto:
    """A regressor of the same trees, a target for each, whose leaves yield their own number."""
    tapped = NodeProto(op_type="TreeEnsembleRegressor", domain=DOMAIN, name=output)
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
                    f"target_{part}", numbers(node, f"nodes_{part}")[ensemble.leaves].tolist()
                )
                for part in ("treeids", "nodeids")
            ),
        ]
    )
    return tapped


def _with_masks(
    mask: str, site: Site, node: NodeProto, dtype: int, taken: set[str], model: ModelProto
) -> list[NodeProto]:
    """Nodes that put a row of masks in front of every row of an ensemble's input."""
    source = node.input[0]
    names = [
        _fresh(f"{site.name}/{step}", taken)
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
        helper.make_node("Cast", [mask], [digits], to=dtype),
        helper.make_node("Expand", [digits, mask_shape], [masks]),
        helper.make_node("Concat", [masks, source], [masked], axis=1),
    ]


def _plant(node: NodeProto, ensemble: Ensemble, levels: NDArray[np.float64]) -> None:
    """Give every tree a root that asks for its mask, and a leaf for when it is off."""
    n_trees = ensemble.n_trees
    modes = numbers(node, "nodes_modes")
    ids, trees = numbers(node, "nodes_nodeids"), numbers(node, "nodes_treeids")
    mode = next((m for m in modes.tolist() if m in _ASKING), "BRANCH_LEQ")
    threshold, true_is_absent = _ASKING[mode]
    roots = ids[ensemble.starts] + 2
    absent = np.ones(n_trees, np.int64)
    yes, no = (absent, roots) if true_is_absent else (roots, absent)
    nothing = np.zeros(n_trees, np.int64)
    pairs = {
        "treeids": (trees, trees[ensemble.starts], trees[ensemble.starts]),
        "nodeids": (ids + 2, nothing, absent),
        "featureids": (numbers(node, "nodes_featureids") + n_trees, np.arange(n_trees), nothing),
        "values": (numbers(node, "nodes_values"), np.full(n_trees, threshold), nothing),
        "modes": (modes, np.full(n_trees, mode), np.full(n_trees, "LEAF")),
        "truenodeids": (numbers(node, "nodes_truenodeids") + 2, yes, nothing),
        "falsenodeids": (numbers(node, "nodes_falsenodeids") + 2, no, nothing),
        "hitrates": (numbers(node, "nodes_hitrates"), absent, absent),
        "missing_value_tracks_true": (
            numbers(node, "nodes_missing_value_tracks_true"),
            nothing,
            nothing,
        ),
    }
    for name, (kept, root, leaf) in pairs.items():
        if len(kept):
            fresh = np.stack([root, leaf], axis=1).reshape(-1)
            width = np.promote_types(kept.dtype, fresh.dtype)
            grown = np.insert(kept.astype(width), np.repeat(ensemble.starts, 2), fresh)
            replace_numbers(node, f"nodes_{name}", grown)
    tree, column = np.nonzero(ensemble.holds)
    ends = {
        "treeids": trees[ensemble.starts][tree],
        "nodeids": np.ones(len(tree), np.int64),
        "ids": np.array(ensemble.columns)[column],
        "weights": levels[tree, column],
    }
    for name, added in ends.items():
        kept = numbers(node, f"{ensemble.prefix}_{name}")
        shifted = kept + 2 if name == "nodeids" else kept
        replace_numbers(node, f"{ensemble.prefix}_{name}", np.concatenate([shifted, added]))


def element_type(model: ModelProto, name: str) -> int:
    """The element type of the tensor that an ensemble reads."""
    known = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
    if name in known:
        return known[name]
    maker = next((n for n in model.graph.node if name in n.output), None)
    if maker is not None and maker.op_type == "Cast":
        return int_attribute(maker, "to", TensorProto.FLOAT)
    if maker is not None and maker.domain == DOMAIN and maker.op_type in _FLOAT_MAKERS:
        return int(TensorProto.FLOAT)
    try:
        inferred = shape_inference.infer_shapes(model)
    except (ValueError, RuntimeError):  # a model over 2 GB, or one that contradicts itself
        return int(TensorProto.FLOAT)
    found = {v.name: v.type.tensor_type.elem_type for v in inferred.graph.value_info}
    return found.get(name) or int(TensorProto.FLOAT)


def with_standard_operators(model: ModelProto) -> ModelProto:
    """A copy in which operators of the ONNX standard may stand, too."""
    result = ModelProto()
    result.CopyFrom(model)
    if not any(o.domain in ("", "ai.onnx") for o in result.opset_import):
        result.opset_import.append(helper.make_opsetid("", _OPSET))
        result.ir_version = max(result.ir_version, _IR_VERSION)
    result.ir_version = max(result.ir_version, 4)  # an initializer need not be an input too
    return result


def _fresh(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name
