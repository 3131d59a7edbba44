"""What filters yield on the images of a suite: means, responses to each image, leaves of trees.

Sums are 64-bit. Images are streamed, so that memory holds a few at a time.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import Filter, FilterMeans, Site, Sums
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Indices, Suite
from repairkit.engine.runner import OpenModel, Runner
from repairkit.graph.kinds.ensembles import Ensemble, read_ensemble
from repairkit.graph.kinds.trees import tap_trees
from repairkit.graph.protos import GraphIndex
from repairkit.graph.structure import find_rounding

_MEANS_BYTES = 96 * 2**20
_RESPONSES_BYTES = 128 * 2**20
_CHUNK_ROWS = 1024


def measure_means(
    opened: OpenModel, sites: tuple[Site, ...], suite: Suite, *, magnitude: bool = False
) -> FilterMeans:
    """The mean of every filter over the suite's images and all positions; see `measure_sums`.

    For every site an array of its `level_shape`: float32, or float64 for trees.
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
    # A model that rounds to steps may take other steps if the runtime rewrites its graph.
    optimise = find_rounding(GraphIndex(opened.model), tensors) is None
    runner = opened.tap(tensors, optimise=optimise)
    totals = {site.name: np.zeros(()) for site in sites}
    counts = dict.fromkeys(totals, 0)
    with stage("measuring means", total=len(suite)) as tell:
        for positions, answers in in_chunks(runner, suite, tensors, _MEANS_BYTES):
            for site in sites:
                tensor = answers[site.tensor]
                totals[site.name] = totals[site.name] + _sum_of(site, tensor, magnitude=magnitude)
                counts[site.name] += tensor.size // math.prod(site.level_shape)
            tell(int(positions[-1]) + 1)
    return {name: Sums(totals[name], counts[name]) for name in totals}


def _sum_of(site: Site, stored: Array, *, magnitude: bool) -> Array:
    """What the filters yielded, summed over images and positions, in the site's `level_shape`.

    With `magnitude`, how much they yielded: a number each. Of a filter that yields several numbers
    that is the root of their squares.
    """
    numbers = site.numbers(stored)
    kept = [site.channel_axis % numbers.ndim]
    if site.value_axis is None:
        numbers = np.abs(numbers) if magnitude else numbers
    elif magnitude:
        numbers = np.linalg.norm(numbers, axis=site.value_axis, keepdims=True).astype(np.float64)
    if site.value_axis is not None and not magnitude:
        kept.append(site.value_axis % numbers.ndim)
    axes = tuple(axis for axis in range(numbers.ndim) if axis not in kept)
    return np.asarray(numbers.sum(axis=axes, dtype=np.float64))


def in_chunks(
    runner: Runner, suite: Suite, tensors: Sequence[str], n_bytes: int
) -> Iterator[tuple[Indices, Mapping[str, Array]]]:
    """Images in order, and their tensors, which take about `n_bytes` at a time.

    The first chunk is one image, which shows how many have room; there are 128 at most.
    """
    chunk, start = 1, 0
    while start < len(suite):
        positions = np.arange(start, min(start + chunk, len(suite)))
        answers = runner.run(suite.batch(positions), feeds=suite.feeds(positions))
        yield positions, answers
        if start == 0:
            held = sum(answers[tensor].nbytes for tensor in tensors)
            chunk = int(np.clip(n_bytes // max(held, 1), 1, 128))
        start = int(positions[-1]) + 1


@dataclass(frozen=True, kw_only=True)
class Responses:
    """Of some filters to the images of a suite, in order; every array is (n_filters, n_images).

    `peaks` is the greatest response over all positions and `means` the mean; `rows` and `columns`
    say where the peak lies, as shares of the map's height and width (0.5 where there is none), and
    `maps` (n_filters, 2) are those sizes.
    """

    peaks: NDArray[np.float64]
    means: NDArray[np.float64]
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    maps: NDArray[np.int64]


def measure_responses(
    opened: OpenModel, sites: Sequence[Site], filters: Sequence[Filter], suite: Suite
) -> Responses:
    """The responses of filters, streaming over the images.

    Args:
        opened: the model; the tensors of all `sites` are tapped in one session.
        sites: of the model, whose filters yield one number per position.
        filters: of some of these sites, whose responses are wanted; at least one.
        suite: the images; at least one.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    wanted = {filter.site for filter in filters}
    tensors = tuple(dict.fromkeys(site.tensor for site in sites if site.name in wanted))
    runner = opened.tap(tensors)
    by_name = {site.name: site for site in sites}
    parts: list[NDArray[np.float64]] = []
    maps = np.ones((len(filters), 2), np.int64)
    for positions, answers in in_chunks(runner, suite, tensors, _RESPONSES_BYTES):
        rows = np.empty((4, len(filters), len(positions)))
        for number, filter in enumerate(filters):
            site = by_name[filter.site]
            tensor = answers[site.tensor]
            axis = site.channel_axis % tensor.ndim
            channel = np.take(tensor, filter.channel, axis=axis).astype(np.float64)
            rows[:, number], maps[number] = _peaks(site.numbers(channel))
        parts.append(rows)
    peaks, means, rows, columns = np.concatenate(parts, axis=2)
    return Responses(peaks=peaks, means=means, rows=rows, columns=columns, maps=maps)


def _peaks(channel: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Of responses (n_images, positions...): peak, mean, and the peak's place, (4, n_images).

    Also the size of the map.
    """
    n_images = len(channel)
    height, width = channel.shape[1:] if channel.ndim == 3 else (1, 1)
    flat = channel.reshape(n_images, -1)
    best = flat.argmax(axis=1)
    if channel.ndim == 3:
        rows, columns = (best // width + 0.5) / height, (best % width + 0.5) / width
    else:
        rows = columns = np.full(n_images, 0.5)
    peaks = flat[np.arange(n_images), best]
    return np.stack([peaks, flat.mean(axis=1), rows, columns]), (height, width)


class LeafReader:
    """A model that gives the leaves which rows reach.

    Args:
        opened: the model.
        sites: of this model; all of them tree ensembles.
    """

    def __init__(self, opened: OpenModel, sites: Sequence[Site]) -> None:
        index = GraphIndex(opened.model)
        self.ensembles: dict[str, Ensemble] = {}
        for site in sites:
            ensemble = read_ensemble(index.producers[site.tensor], index)
            assert isinstance(ensemble, Ensemble)
            self.ensembles[site.name] = ensemble
        tapped, self._taps = tap_trees(opened.model, sites)
        on_cpu = opened.variant(tapped, device="cpu")  # no other device runs trees
        self._runner = on_cpu.runner(outputs=tuple(self._taps.values()))

    def read(self, rows: Array) -> dict[str, NDArray[np.int32]]:
        """The number of the leaf that each row reaches, (n_trees, n_rows) by site."""
        answers = self._runner.run(rows)
        return {
            name: (
                answers[self._taps[name]].astype(np.int32).T
                + ensemble.first_leaves.astype(np.int32)[:, None]
            )
            for name, ensemble in self.ensembles.items()
        }

    def read_suite(self, suite: Suite) -> Mapping[str, NDArray[np.int32]]:
        """See `read`, for every row of a suite in order."""
        parts = [
            self.read(suite.batch(np.arange(i, min(i + _CHUNK_ROWS, len(suite)))))
            for i in range(0, len(suite), _CHUNK_ROWS)
        ]
        return {name: np.concatenate([p[name] for p in parts], axis=1) for name in self.ensembles}


def mean_leaves(reader: LeafReader, suite: Suite, *, magnitude: bool = False) -> FilterMeans:
    """What each tree yields on average over a suite: (n_trees, n_columns) by site, float64.

    With `magnitude`, one number per tree: the mean size of what it yields, (n_trees,).
    """
    means = {}
    for name, leaves in reader.read_suite(suite).items():
        ensemble = reader.ensembles[name]
        table = ensemble.table.astype(np.float64)
        if magnitude:
            table = np.linalg.norm(table, axis=1, keepdims=True)
        reached = np.bincount(leaves.reshape(-1), minlength=len(table))[:, None]
        total = np.zeros((ensemble.n_trees, table.shape[1]))
        np.add.at(total, ensemble.tree_of_leaf, table * reached)
        level = total / len(suite)
        means[name] = level[:, 0] if magnitude else level
    return means
