"""The size of each filter's kernel, a baseline that looks at no image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repairkit.graph.codes import kernel_rest, kernel_scale
from repairkit.graph.layers import kernel_mask
from repairkit.graph.sites import Survey


def kernel_norms(found: Survey) -> dict[str, NDArray[np.float64]]:
    """The L2 norm of every filter's kernel: site name to shape (n_channels,)."""
    norms = {}
    for site in found.sites:
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
