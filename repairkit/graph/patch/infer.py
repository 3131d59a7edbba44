"""Infer from two models alone which filters were frozen, and at what, and how the head changed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError
from repairkit.core.filters import Filter, Site
from repairkit.core.patch import FrozenFilter, HeadChange, HeadKind, Patch
from repairkit.graph.index import GraphIndex
from repairkit.graph.kinds.class_head import find_head
from repairkit.graph.kinds.codes import kernel_rest
from repairkit.graph.kinds.layers import kernel_mask
from repairkit.graph.kinds.levels import bias_levels
from repairkit.graph.kinds.sites import Survey, survey
from repairkit.graph.kinds.trees import constant_of_tree
from repairkit.graph.patch.bake import bake
from repairkit.graph.patch.head_bake import changes_head
from repairkit.graph.patch.revert import changes_nothing


def infer_patch(original: ModelProto, patched: ModelProto) -> Patch:
    """The filters that hold a constant in `patched` and did not, or held another, in `original`.

    A filter that was frozen partly holds none and is not seen. New numbers of the last layer are.
    Layers of every kind count, whatever output they lead to. Whether the models differ in nothing
    else is not told: bake what was found into the original and compare.
    """
    before, after = (survey(model, include=["dense"]) for model in (original, patched))
    known = {site.name: site for site in before.sites}
    added = {t.name: place for place, t in enumerate(patched.graph.initializer)}
    found: list[tuple[int, list[FrozenFilter]]] = []
    for site in after.sites:
        if known.get(site.name) != site:
            continue
        trees = site.n_values is not None
        frozen = (_frozen_trees if trees else _frozen)(site, before, after)
        if frozen:
            fresh = set() if trees else _tensors(after, site) - _tensors(before, site)
            # Baking appends what it adds, site by site in the order of the patch.
            found.append((min((added.get(name, 0) for name in fresh), default=0), frozen))
    found.sort(key=lambda pair: pair[0])
    every = tuple(f for _, of_site in found for f in of_site)
    return Patch(every, _changed_head(before.index, after.index))


def _changed_head(before: GraphIndex, after: GraphIndex) -> HeadChange | None:
    """The new numbers of the first last layer that differs; None where none does."""
    for output in before.outputs:
        try:
            old, new = find_head(before, output), find_head(after, output)
        except ModelError:
            continue  # an output that no layer of classes makes
        if old.name != new.name or old.weight.shape != new.weight.shape:
            continue
        refitted = not np.array_equal(old.weight, new.weight)
        kind: HeadKind = "last-layer" if refitted else "bias"
        change = HeadChange(kind, new.name, new.bias, new.weight if refitted else None)
        if changes_head(old, change):
            return change
    return None


def _frozen(site: Site, before: Survey, after: Survey) -> list[FrozenFilter]:
    old, new = (_reading(found, site) for found in (before, after))
    if old[0].shape != new[0].shape:
        return []
    levels = bias_levels(after, (site,))[site.name]
    codes = after.layers[site.name].codes
    if codes is not None:
        levels = codes.held(levels.astype(np.float64)).astype(np.float32)
    node = after.index.nodes[after.layers[site.name].node]
    frozen = []
    for channel in range(site.n_channels):
        mask = kernel_mask(node, new[0].shape, channel)
        if new[0][mask].any() or (new[1] is not None and new[1][channel] != 0):
            continue
        alike = old[0][mask].tobytes() == new[0][mask].tobytes()
        for a, b in zip(old[1:], new[1:], strict=True):
            alike &= a is None or b is None or a[channel].tobytes() == b[channel].tobytes()
        if not alike:
            frozen.append(FrozenFilter(Filter(site.name, channel), float(levels[channel])))
    return frozen


def _frozen_trees(site: Site, before: Survey, after: Survey) -> list[FrozenFilter]:
    old, new = before.ensembles[site.name], after.ensembles[site.name]
    frozen = []
    for tree in range(site.n_channels):
        constant = constant_of_tree(new, tree)
        if constant is not None and constant != constant_of_tree(old, tree):
            frozen.append(FrozenFilter(Filter(site.name, tree), constant))
    return frozen


def _reading(found: Survey, site: Site) -> tuple[Array, Array | None, NDArray[np.float32]]:
    """Kernel, scale of the normalisation if there is one, and bias; the last two per channel."""
    layer = found.layers[site.name]
    kernel = found.constants.array(layer.kernel)
    rest = kernel_rest(found.index.nodes[layer.node], found.constants)
    kernel = kernel - rest if rest.any() else kernel
    scale = None
    if layer.norm is not None:
        scale = found.constants.array(found.index.nodes[layer.norm].input[1]).reshape(-1)
    return kernel, scale, bias_levels(found, (site,))[site.name]


def _tensors(found: Survey, site: Site) -> set[str]:
    layer = found.layers[site.name]
    places = (place for place in (layer.node, layer.add, layer.norm) if place is not None)
    return {name for place in places for name in found.index.nodes[place].input if name}


def is_idle(model: ModelProto, found: Survey, frozen: FrozenFilter) -> bool:
    """Whether freezing a filter of a model would change no tensor.

    Args:
        model: with the filter.
        found: its survey.
        frozen: the filter and its constant.
    """
    site, channel = frozen.filter.site, frozen.filter.channel
    trees = found.ensembles.get(site)
    if trees is not None:
        held = constant_of_tree(trees, channel)
        return held is not None and held == frozen.constant
    layer = found.layers[site]
    kernel = found.constants.array(layer.kernel)
    if kernel[kernel_mask(found.index.nodes[layer.node], kernel.shape, channel)].any():
        return False
    alone = bake(model, Patch((frozen,)), found=found)
    return all(changes_nothing(edit, model, alone.model) for edit in alone.edits)
