"""How strongly filters respond to every image of a suite, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from repairkit.core.arrays import Array
from repairkit.core.filters import Filter, Site
from repairkit.core.suite import Suite
from repairkit.engine.runner import Runner

_CHUNK_BYTES = 128 * 2**20


@dataclass(frozen=True)
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
    model: ModelProto,
    sites: Sequence[Site],
    filters: Sequence[Filter],
    suite: Suite,
    *,
    input_name: str,
    step: int | None = None,
    device: str = "cpu",
) -> Responses:
    """The responses of filters, streaming over the images.

    Args:
        model: never modified.
        sites: those of the filters, none of them a tree ensemble.
        filters: whose responses are wanted; at least one.
        suite: the images; at least one.
        input_name: the image input.
        step: see `Batching`.
        device: where to run.

    Raises:
        ModelError: ONNX Runtime fails on the model or the images.
    """
    tapped = ModelProto()
    tapped.CopyFrom(model)
    known = {o.name for o in tapped.graph.output}
    tensors = tuple(dict.fromkeys(site.tensor for site in sites))
    for tensor in tensors:
        if tensor not in known:
            tapped.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    runner = Runner(tapped, input_name, step, outputs=tensors, device=device)
    by_name = {site.name: site for site in sites}
    parts: list[NDArray[np.float64]] = []
    maps = np.ones((len(filters), 2), np.int64)
    chunk, start = 1, 0
    while start < len(suite):
        positions = np.arange(start, min(start + chunk, len(suite)))
        answers = runner.run(suite.batch(positions), feeds=suite.feeds(positions))
        found = np.empty((4, len(filters), len(positions)))
        for number, wanted in enumerate(filters):
            site = by_name[wanted.site]
            channel = _channel(answers[site.tensor], site, wanted.channel)
            found[:, number], maps[number] = _peaks(channel)
        parts.append(found)
        if start == 0:
            held = sum(answer.nbytes for answer in answers.values())
            chunk = int(np.clip(_CHUNK_BYTES // max(held, 1), 1, 128))
        start = int(positions[-1]) + 1
    peaks, means, rows, columns = np.concatenate(parts, axis=2)
    return Responses(peaks, means, rows, columns, maps)


def _channel(tensor: Array, site: Site, channel: int) -> NDArray[np.float64]:
    """One channel's responses, (n_images, positions...), codes turned into numbers."""
    taken = np.take(tensor, channel, axis=site.channel_axis % tensor.ndim).astype(np.float64)
    told: NDArray[np.float64] = taken if site.scale is None else (taken - site.zero) * site.scale
    return told


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
