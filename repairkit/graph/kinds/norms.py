"""The size of each filter's kernel or leaves, a baseline that looks at no image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repairkit.graph.kinds.codes import kernel_rest, kernel_scale
from repairkit.graph.kinds.layers import kernel_mask
from repairkit.graph.kinds.sites import Survey
from repairkit.graph.kinds.trees import Ensemble


def kernel_norms(found: Survey) -> dict[str, NDArray[np.float64]]:
    """The L2 norm of every filter's kernel, or tree's leaves: site name to (n_channels,)."""
    norms = {name: _tree_norms(trees) for name, trees in found.ensembles.items()}
    for site in found.sites:
        if site.name in norms:
            continue
        layer = found.layers[site.name]
        node = found.index.nodes[layer.node]
        codes = found.constants.array(layer.kernel).astype(np.float64)
        rest = kernel_rest(node, found.constants)
        kernel = (codes - rest) * kernel_scale(node, found.constants)
        norms[site.name] = np.array(
            [
                np.linalg.norm(kernel[kernel_mask(node, kernel.shape, channel)])
                for channel in range(site.n_channels)
            ]
        )
    return norms


def _tree_norms(trees: Ensemble) -> NDArray[np.float64]:
    weights = trees.weights.astype(np.float64)
    squares = np.zeros(trees.n_trees)
    np.add.at(squares, trees.tree_of, weights**2)
    return np.sqrt(squares)
