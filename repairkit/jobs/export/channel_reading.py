"""Read what the channels of layers and the filters of sites hold, and find which are the same.

One run of both models on a few images gives the numbers of all channels. A channel is told apart if
its numbers are those of a filter, within rounding, and those of no other filter of any site.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core import filters
from repairkit.core.framework import Images, Layer, Readable
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array
from repairkit.engine.runner import OpenModel
from repairkit.jobs.export.crowd import Crowd

_AT_ONCE = 2  # images; all tensors of a large model are in memory
_MOST_IMAGES = 8
_MOST_POSITIONS = 64  # of an image


@dataclass(frozen=True)
class Reading:
    """Which layer is which site, and which of its channels are told apart.

    Attributes:
        homes: the site of each layer, by the layer's name; of others it could not be read.
        told_apart: (n_channels,) by the layer's name.
        n_images: on which they were read.
    """

    homes: dict[str, filters.Site]
    told_apart: dict[str, NDArray[np.bool_]]
    n_images: int


@dataclass(frozen=True)
class _Channels:
    """Numbers of a layer or a site, (n_channels, n_numbers); those of one `shape` are compared."""

    shape: tuple[int, ...]
    values: Images


def read_channels(
    model: Readable,
    layers: Sequence[Layer],
    opened: OpenModel,
    sites: Sequence[filters.Site],
    *,
    images: Images,
    tolerance: float,
) -> Reading:
    """Compare the channels of all layers with the filters of all sites.

    Args:
        model: of the framework.
        layers: of that model.
        opened: the ONNX file.
        sites: of that file.
        images: the first of them are run in both models.
        tolerance: the difference up to which numbers count as equal, relative to the largest.
    """
    images = images[:_MOST_IMAGES]
    theirs: dict[str, list[_Channels]] = {}
    ours: dict[str, list[_Channels]] = {}
    with stage("reading the layers", total=len(images)) as tell:
        runner = opened.tap(site.tensor for site in sites)
        for start in range(0, len(images), _AT_ONCE):
            batch = images[start : start + _AT_ONCE]
            for name, numbers in model.channel_values(batch).items():
                theirs.setdefault(name, []).append(_some_positions(numbers))
            answers = runner.run(batch)
            for site in sites:
                numbers = np.moveaxis(answers[site.tensor], site.channel_axis, 1)
                if len(numbers) == len(batch):
                    ours.setdefault(site.name, []).append(_some_positions(numbers))
            tell(start + len(batch))
    homes, told_apart = _compared(layers, _joined(theirs), _joined(ours), tolerance)
    by_name = {site.name: site for site in sites}
    return Reading({n: by_name[home] for n, home in homes.items()}, told_apart, len(images))


def _some_positions(numbers: Array) -> _Channels:
    """Numbers of shape (n_images, n_channels, ...), at a few positions."""
    flat = numbers.reshape(*numbers.shape[:2], -1)
    # Axes of length 1 come and go between frameworks: a convolution along a line is one of a plane.
    shape = tuple(size for size in numbers.shape[2:] if size != 1)
    n_positions = flat.shape[2]
    if n_positions > _MOST_POSITIONS:
        rng = np.random.default_rng(n_positions)
        flat = flat[:, :, np.sort(rng.choice(n_positions, _MOST_POSITIONS, replace=False))]
    values = np.moveaxis(flat, 1, 0).reshape(flat.shape[1], -1)
    return _Channels(shape, np.asarray(values, np.float32))


def _joined(parts: Mapping[str, list[_Channels]]) -> dict[str, _Channels]:
    return {
        name: _Channels(each[0].shape, np.concatenate([part.values for part in each], axis=1))
        for name, each in parts.items()
    }


def _compared(
    layers: Sequence[Layer],
    theirs: Mapping[str, _Channels],
    ours: Mapping[str, _Channels],
    tolerance: float,
) -> tuple[dict[str, str], dict[str, NDArray[np.bool_]]]:
    """The name of each layer's site, and which of its channels are told apart."""
    crowds = {shape: _crowd(ours, shape) for shape in {each.shape for each in ours.values()}}
    homes: dict[str, str] = {}
    told_apart = {}
    free = list(ours)
    for layer in layers:
        if layer.name not in theirs:
            continue
        read = theirs[layer.name]
        equal = {name: _equal(read, ours[name], tolerance) for name in free}
        home = max(equal, key=lambda name: int(equal[name].sum()), default="")
        if not home or 2 * equal[home].sum() <= layer.n_channels:
            continue
        homes[layer.name] = home
        free.remove(home)
        channels = np.flatnonzero(equal[home])
        limits = np.full(len(channels), 3 * _limit(ours[home], tolerance))
        apart = crowds[read.shape].is_apart(home, channels, read.values[channels], limits)
        told_apart[layer.name] = np.isin(np.arange(layer.n_channels), channels[apart])
    return homes, told_apart


def _limit(site: _Channels, tolerance: float) -> float:
    return tolerance * (float(np.abs(site.values).max()) or 1.0)


def _equal(layer: _Channels, site: _Channels, tolerance: float) -> NDArray[np.bool_]:
    """Which channels hold the same numbers; none where the shapes differ."""
    if layer.shape != site.shape or layer.values.shape != site.values.shape:
        return np.zeros(len(layer.values), bool)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(layer.values - site.values).max(1) <= _limit(site, tolerance))


def _crowd(ours: Mapping[str, _Channels], shape: tuple[int, ...]) -> Crowd:
    alike = {name: each.values for name, each in ours.items() if each.shape == shape}
    crowd = Crowd(np.full(next(iter(alike.values())).shape[1], np.inf, np.float32))
    for name, values in alike.items():
        crowd.add(name, np.arange(len(values)), values)
    crowd.settle()
    return crowd
