"""How strongly filters respond to every image of a suite, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import Filter, Site
from repairkit.core.suite import Array, Suite
from repairkit.engine.runner import OpenModel

_CHUNK_BYTES = 128 * 2**20


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
        sites: of the model, none of them a tree ensemble.
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
    chunk, start = 1, 0
    while start < len(suite):
        positions = np.arange(start, min(start + chunk, len(suite)))
        answers = runner.run(suite.batch(positions), feeds=suite.feeds(positions))
        rows = np.empty((4, len(filters), len(positions)))
        for number, filter in enumerate(filters):
            site = by_name[filter.site]
            channel = _channel(answers[site.tensor], site, filter.channel)
            rows[:, number], maps[number] = _peaks(channel)
        parts.append(rows)
        if start == 0:
            held = sum(answer.nbytes for answer in answers.values())
            chunk = int(np.clip(_CHUNK_BYTES // max(held, 1), 1, 128))
        start = int(positions[-1]) + 1
    peaks, means, rows, columns = np.concatenate(parts, axis=2)
    return Responses(peaks=peaks, means=means, rows=rows, columns=columns, maps=maps)


def _channel(tensor: Array, site: Site, channel: int) -> NDArray[np.float64]:
    """One channel's responses, (n_images, positions...), codes turned into numbers."""
    taken = np.take(tensor, channel, axis=site.channel_axis % tensor.ndim).astype(np.float64)
    return site.numbers(taken)


def _peaks(channel: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[int, int]]:
    """Peak, mean, and the peak's place, (4, n_images); and the size of the map."""
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
