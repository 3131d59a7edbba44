"""Measure what each filter yields on average, streaming over images in 64-bit sums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repairkit.core.filters import FilterMeans, Site, Sums
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Suite
from repairkit.engine.ensembles.leaves import LeafReader, mean_leaves
from repairkit.engine.runner import OpenModel
from repairkit.graph.index import GraphIndex
from repairkit.graph.structure import find_rounding

_CHUNK_BYTES = 256 * 2**20


def measure_means(
    opened: OpenModel, sites: tuple[Site, ...], suite: Suite, *, magnitude: bool = False
) -> FilterMeans:
    """The mean of every filter over the suite's images and all positions.

    Args: see `measure_sums`.

    Returns:
        For every site an array of its `level_shape`: float32, or float64 for trees.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    sums = measure_sums(opened, sites, suite, magnitude=magnitude)
    return {site.name: sums[site.name].mean(site) for site in sites}


def measure_sums(
    opened: OpenModel, sites: tuple[Site, ...], suite: Suite, *, magnitude: bool = False
) -> dict[str, Sums]:
    """The sum of what every filter yields, over the suite's images and all positions.

    Args:
        opened: the model.
        sites: of this model.
        suite: calibration images.
        magnitude: sum up absolute values (the activation norm).

    Returns:
        By the names of the sites.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    trees = tuple(site for site in sites if not site.in_tensor)
    if trees:
        means = mean_leaves(LeafReader(opened, trees), suite, magnitude=magnitude)
        sums = {name: Sums(mean * len(suite), len(suite)) for name, mean in means.items()}
        sites = tuple(site for site in sites if site.in_tensor)
        return sums | measure_sums(opened, sites, suite, magnitude=magnitude) if sites else sums
    tensors = tuple(site.tensor for site in sites)
    # A model that rounds to steps may take other steps where the runtime rewrites its graph.
    optimise = find_rounding(GraphIndex(opened.model), tensors) is None
    runner = opened.tap(tensors, optimise=optimise)
    totals = {site.name: np.zeros(site.n_channels) for site in sites}
    counts = dict.fromkeys(totals, 0)
    measure: Callable[[Array], Array] = np.abs if magnitude else np.asarray
    chunk, start = 1, 0
    with stage("measuring means", total=len(suite)) as tell:
        while start < len(suite):
            positions = np.arange(start, min(start + chunk, len(suite)))
            answers = runner.run(suite.batch(positions), feeds=suite.feeds(positions))
            for site in sites:
                tensor = site.numbers(answers[site.tensor])
                axes = tuple(a for a in range(tensor.ndim) if a != site.channel_axis % tensor.ndim)
                totals[site.name] += measure(tensor).sum(axis=axes, dtype=np.float64)
                counts[site.name] += tensor.size // site.n_channels
            if start == 0:
                held = sum(answers[site.tensor].nbytes for site in sites)
                chunk = int(np.clip(_CHUNK_BYTES // max(held, 1), 1, 128))
            start = int(positions[-1]) + 1
            tell(start)
    return {name: Sums(totals[name], counts[name]) for name in totals}
