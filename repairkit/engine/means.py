"""Measure what each filter yields on average, streaming over images in 64-bit sums."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto

from repairkit.core.arrays import Array
from repairkit.core.filters import FilterMeans, Site, Sums
from repairkit.core.process.stages import stage
from repairkit.core.suite import Suite
from repairkit.engine.ensembles.leaves import LeafReader, mean_leaves
from repairkit.engine.runner import Runner
from repairkit.graph.coalitions.instrument import tapped
from repairkit.graph.facts.rounding import find_rounding
from repairkit.graph.index import GraphIndex

_CHUNK_BYTES = 256 * 2**20


def measure_means(
    model: ModelProto,
    sites: tuple[Site, ...],
    suite: Suite,
    *,
    input_name: str,
    step: int | None = None,
    device: str = "cpu",
    magnitude: bool = False,
) -> FilterMeans:
    """The mean of every filter over the suite's images and all positions.

    Args: see `measure_sums`.

    Returns:
        For every site an array of its `level_shape`: float32, or float64 for trees.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    sums = measure_sums(
        model,
        sites,
        suite,
        input_name=input_name,
        step=step,
        device=device,
        magnitude=magnitude,
    )
    return {site.name: sums[site.name].mean(site) for site in sites}


def measure_sums(
    model: ModelProto,
    sites: tuple[Site, ...],
    suite: Suite,
    *,
    input_name: str,
    step: int | None = None,
    device: str = "cpu",
    magnitude: bool = False,
) -> dict[str, Sums]:
    """What every filter yields in all, over the suite's images and all positions.

    Args:
        model: never modified; takes any batch, or `step` images at a time.
        sites: of this model.
        suite: calibration images.
        input_name: the image input.
        step: see `Batching`.
        device: where to run.
        magnitude: take the mean of absolute values (the activation norm).

    Returns:
        By the names of the sites.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    trees = tuple(site for site in sites if site.n_values is not None)
    if trees:
        reader = LeafReader(model, trees, input_name, step=step)
        means = mean_leaves(reader, suite, magnitude=magnitude)
        sums = {name: Sums(mean * len(suite), len(suite)) for name, mean in means.items()}
        sites = tuple(site for site in sites if site.n_values is None)
        if sites:
            sums |= measure_sums(
                model,
                sites,
                suite,
                input_name=input_name,
                step=step,
                device=device,
                magnitude=magnitude,
            )
        return sums
    tensors = tuple(site.tensor for site in sites)
    runner = Runner(
        tapped(model, tensors),
        input_name,
        step,
        outputs=tensors,
        device=device,
        # What rounds to steps takes other steps where the runtime rewrites it.
        optimise=find_rounding(GraphIndex(model), tensors) is None,
    )
    totals = {site.name: np.zeros(site.n_channels) for site in sites}
    counts = dict.fromkeys(totals, 0)
    measure: Callable[[Array], Array] = np.abs if magnitude else np.asarray
    chunk, start = 1, 0
    with stage("measuring means", total=len(suite)) as tell:
        while start < len(suite):
            positions = np.arange(start, min(start + chunk, len(suite)))
            answers = runner.run(suite.batch(positions), feeds=suite.feeds(positions))
            for site in sites:
                tensor = answers[site.tensor]
                if site.scale is not None:
                    tensor = (tensor.astype(np.float64) - site.zero) * site.scale
                axes = tuple(a for a in range(tensor.ndim) if a != site.channel_axis % tensor.ndim)
                totals[site.name] += measure(tensor).sum(axis=axes, dtype=np.float64)
                counts[site.name] += tensor.size // site.n_channels
            if start == 0:
                held = sum(answers[site.tensor].nbytes for site in sites)
                chunk = int(np.clip(_CHUNK_BYTES // max(held, 1), 1, 128))
            start = int(positions[-1]) + 1
            tell(start)
    return {name: Sums(totals[name], counts[name]) for name in totals}
