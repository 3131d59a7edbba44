"""What an absent filter yields when it is not its mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import ModelError
from repairkit.core.filters import FilterMeans, Site
from repairkit.graph.kinds.codes import slots_of
from repairkit.graph.kinds.layers import addend_slot
from repairkit.graph.kinds.sites import Survey


def zero_levels(sites: tuple[Site, ...]) -> FilterMeans:
    """Absent filters yield zero."""
    return {site.name: np.zeros(site.level_shape, np.float32) for site in sites}


def bias_levels(found: Survey, sites: tuple[Site, ...]) -> FilterMeans:
    """Absent filters yield what they do for a zero response: BatchNorm's beta, else the bias.

    A tree has no bias, and yields zero.
    """
    trees = tuple(site for site in sites if site.n_values is not None)
    layers = (site for site in sites if site.n_values is None)
    return {**{site.name: _bias(found, site) for site in layers}, **zero_levels(trees)}


def _bias(found: Survey, site: Site) -> NDArray[np.float32]:
    layer, index = found.layers[site.name], found.index
    node = index.nodes[layer.node]
    names = []
    if layer.norm is not None:
        names.append(index.nodes[layer.norm].input[2])
    else:
        slot = slots_of(node).bias
        if slot is not None and len(node.input) > slot and node.input[slot]:
            names.append(node.input[slot])
        if layer.add is not None:
            add = index.nodes[layer.add]
            addend = addend_slot(add, index)
            assert addend is not None
            names.append(add.input[addend])
    level = np.zeros(site.n_channels, np.float32)
    for name in names:
        bias = found.constants.array(name).reshape(-1)
        if bias.size not in (1, site.n_channels):
            raise ModelError(
                f"the bias {name!r} of {site.name!r} has {bias.size} values for "
                f"{site.n_channels} filters; export the model anew"
            )
        level = level + bias.astype(np.float32)
    if layer.codes is not None:  # the bias counts products of input and kernel steps
        level = level * layer.codes.factor * np.float32(layer.codes.scale)
    return level
