"""What an absent filter yields when it is not its mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import ModelError
from repairkit.core.filters import FilterMeans, Site
from repairkit.graph.layers import addend_slot
from repairkit.graph.sites import Survey


def zero_levels(sites: tuple[Site, ...]) -> FilterMeans:
    """Absent filters yield zero."""
    return {site.name: np.zeros(site.n_channels, np.float32) for site in sites}


def bias_levels(found: Survey, sites: tuple[Site, ...]) -> FilterMeans:
    """Absent filters yield what they do for a zero response: BatchNorm's beta, else the bias."""
    return {site.name: _bias(found, site) for site in sites}


def _bias(found: Survey, site: Site) -> NDArray[np.float32]:
    layer, index = found.layers[site.name], found.index
    node = index.nodes[layer.node]
    names = []
    if layer.norm is not None:
        names.append(index.nodes[layer.norm].input[2])
    else:
        if len(node.input) > 2 and node.input[2]:
            names.append(node.input[2])
        if layer.add is not None:
            add = index.nodes[layer.add]
            slot = addend_slot(add, index)
            assert slot is not None
            names.append(add.input[slot])
    level = np.zeros(site.n_channels, np.float32)
    for name in names:
        bias = found.constants.array(name).reshape(-1)
        if bias.size not in (1, site.n_channels):
            raise ModelError(
                f"the bias {name!r} of {site.name!r} has {bias.size} values for "
                f"{site.n_channels} filters; export the model anew"
            )
        level = level + bias.astype(np.float32)
    return level
