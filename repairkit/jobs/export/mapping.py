"""Prove which filter of an exported model is which channel of which layer.

One channel of one image is frozen in the framework and one filter in ONNX Runtime, at the same
constant outside the channel's usual range. The pair is proven if both outputs are equal, and differ
from the unfrozen output and from the outputs with any other filter frozen. Where saturation hides a
difference, other constants and images are tried.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from repairkit.core import filters, suite
from repairkit.core.framework import FrameworkModel, Images, Layer, LayerMap, MappedLayer
from repairkit.core.process.stages import Tell, stage
from repairkit.graph.coalitions.masking import mask_name, mask_shape
from repairkit.graph.kinds.sites import find_sites, instrument
from repairkit.jobs.export.crowd import Crowd
from repairkit.jobs.setup.workbench import Subject

# Distance of the constant from the channel's mean, in standard deviations, and the image.
TRIES = ((4.0, 0), (1.5, 1), (0.5, 0), (12.0, 1), (40.0, 2), (-4.0, 0))
# Moderate: saturated outputs are equal, whichever channel is frozen.
PROBE = (1.5, 0)
_MOST_IMAGES = 8
_MOST_TRIED = 5  # sites of a layer
_MOST_COMPARED = 4096
_MOST_NUMBERS = 1 << 22
_LEAST_NOISE, _MOST_NOISE = 1e-7, 1e-5
_PROBES = 4
_OTHERS = 32
Done = Callable[[int, int], None]
UsualValues = dict[str, tuple[Images, Images]]
"""The mean and the spread of every filter: site to two arrays (n_channels,)."""


@dataclass(frozen=True)
class Pairing:
    """The two models, and a few images on which they are compared."""

    framework: FrameworkModel
    subject: Subject
    images: suite.Array
    noise: float

    @cached_property
    def sites(self) -> tuple[filters.Site, ...]:
        return find_sites(self.subject.model)

    @property
    def rows(self) -> int:
        """How many images are run at once."""
        return int(np.clip(_MOST_NUMBERS // max(1, self.images[0].size * 16), 4, 64))

    @property
    def tolerance(self) -> float:
        """The relative difference up to which outputs count as equal."""
        return 20 * float(np.clip(self.noise, _LEAST_NOISE, _MOST_NOISE))


def prove_layers(pair: Pairing, *, on_progress: Done | None = None) -> LayerMap:
    """The site of every layer, and the channels for which that is proven.

    Args:
        pair: the models, whose outputs were found equal.
        on_progress: called with the number of mapped filters and of all filters.
    """
    with stage("finding the layers' sites"):
        usual = usual_values(pair)
        homes = find_homes(FreezingTrial(pair, usual, *PROBE), pair.framework.layers, pair.sites)
    every = {
        layer.name: np.arange(layer.n_channels)
        for layer in pair.framework.layers
        if layer.name in homes
    }
    n_all = sum(len(c) for c in every.values())
    with stage("mapping", total=n_all, unit="filters") as tell:

        def report(n_done: int) -> None:
            tell(n_done)
            if on_progress is not None:
                on_progress(n_done, n_all)

        left = prove_one_by_one(pair, usual, homes, every, report)
    return layer_map(pair, homes, left)


def prove_one_by_one(
    pair: Pairing,
    usual: UsualValues,
    homes: dict[str, filters.Site],
    channels: dict[str, NDArray[np.intp]],
    tell: Tell,
) -> dict[str, NDArray[np.intp]]:
    """The channels that could not be proven by freezing each of them alone.

    Args:
        pair: the models.
        usual: see `usual_values`.
        homes: the site of each layer.
        channels: to prove, by layer.
        tell: called with the number of proven channels.
    """
    left, n_done = dict(channels), 0
    for spread, image in TRIES:
        wanted = {name: channels for name, channels in left.items() if len(channels)}
        if not wanted:
            break
        trial = FreezingTrial(pair, usual, spread, image)
        for name, proven in trial.prove(wanted, homes):
            n_done += len(proven)
            left[name] = np.setdiff1d(left[name], proven)
            tell(n_done)
    return left


def layer_map(
    pair: Pairing, homes: dict[str, filters.Site], unproven: dict[str, NDArray[np.intp]]
) -> LayerMap:
    """The map of all layers, from their sites and the channels that are not proven."""
    mapped = [
        MappedLayer(layer, None, (), "no layer of the ONNX file answers to it")
        if layer.name not in homes
        else MappedLayer(layer, homes[layer.name].name, tuple(unproven[layer.name].tolist()))
        for layer in pair.framework.layers
    ]
    return LayerMap(pair.framework.framework, tuple(pair.framework.input_shape), tuple(mapped))


def usual_values(pair: Pairing) -> UsualValues:
    """The mean and the spread of every filter over a few images: site to two (n_channels,)."""
    if not pair.sites:
        return {}
    runner = pair.subject.opened().tap(site.tensor for site in pair.sites)
    answers = runner.run(pair.images[: min(_MOST_IMAGES, pair.rows)])
    usual = {}
    for site in pair.sites:
        values = np.moveaxis(answers[site.tensor], site.channel_axis, 0).reshape(
            site.n_channels, -1
        )
        # A channel that hardly varies must be moved as far as the others to have an effect.
        spread = np.maximum(values.std(1), values.std() / 2 + 1e-6)
        usual[site.name] = (values.mean(1), spread.astype(np.float32))
    return usual


class FreezingTrial:
    """One attempt: every filter has a constant at one distance from its mean, on one image."""

    def __init__(self, pair: Pairing, usual: UsualValues, spread: float, image: int) -> None:
        self.pair = pair
        self.image = pair.images[image % len(pair.images)][None]
        rng = np.random.default_rng(abs(int(spread * 10)) + image)
        self.constants: filters.FilterMeans = {}
        for name, (mean, width) in usual.items():
            # All different: freezing another channel must not give the same output by chance.
            factors = rng.uniform(0.8, 1.25, len(mean)) * spread
            self.constants[name] = (mean + factors * width).astype(np.float32)
        masked = instrument(pair.subject.model, pair.sites, self.constants)
        opened = pair.subject.opened().variant(masked)
        self.runner = opened.runner(outputs=(opened.output,))
        self.base = self._run_masks(self._masks({}))[0]
        self.scale = float(np.abs(self.base).max()) or 1.0

    def prove(
        self, wanted: dict[str, NDArray[np.intp]], homes: dict[str, filters.Site]
    ) -> Iterator[tuple[str, NDArray[np.intp]]]:
        """The channels in `wanted` that are proven, layer by layer."""
        crowd = Crowd(self.base)
        ours: dict[str, Images] = {}
        asked = {
            name: _with_others(channels, homes[name].n_channels)
            for name, channels in wanted.items()
        }
        n_asked = sum(map(len, asked.values()))
        with stage("freezing filters in ONNX Runtime", total=n_asked, unit="filters") as tell:
            n_done = 0
            for name, channels in wanted.items():
                answers = self.frozen_here(homes[name], asked[name])
                ours[name] = answers[np.searchsorted(asked[name], channels)]
                crowd.add(name, asked[name], answers)
                n_done += len(asked[name])
                tell(n_done)
        crowd.settle()
        for name, channels in wanted.items():
            site, mine = homes[name], ours[name]
            limits = self.pair.tolerance * np.maximum(self.scale, np.abs(mine).max(1))
            with np.errstate(invalid="ignore"):
                seen = np.abs(mine - self.base).max(1) > 3 * limits
            if not seen.any():  # no output changed, so the framework need not run
                yield name, channels[seen]
                continue
            channels, mine, limits = channels[seen], mine[seen], limits[seen]
            theirs = self.frozen_there(name, channels, self.constants[site.name][channels])
            with np.errstate(invalid="ignore"):
                equal = np.abs(theirs - mine).max(1) <= limits
            apart = crowd.is_apart(name, channels, theirs, 3 * limits)
            yield name, channels[equal & apart]

    def frozen_here(self, site: filters.Site, channels: NDArray[np.intp]) -> Images:
        """Outputs of the ONNX file with one filter frozen in each row, shape (n, n_compared)."""
        parts = []
        for chosen in _chunks(channels, self.pair.rows):
            mask = np.ones((len(chosen), site.n_channels), bool)
            mask[np.arange(len(chosen)), chosen] = False
            shaped = mask.reshape(mask_shape(site, len(chosen)))
            parts.append(self._run_masks(self._masks({mask_name(site): shaped}), len(chosen)))
        return np.concatenate(parts)

    def frozen_there(self, layer: str, channels: NDArray[np.intp], constants: Images) -> Images:
        """The same in the framework, shape (n, n_compared)."""
        parts = []
        positions = np.arange(len(channels))
        for chosen in _chunks(positions, self.pair.rows):
            images = np.repeat(self.image, len(chosen), axis=0)
            with self.pair.framework.freezing(layer, channels[chosen], constants[chosen]):
                answer = self.pair.framework.outputs(images)
            parts.append(compared_numbers(answer))
        return np.concatenate(parts)

    def _masks(self, given: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
        every = {mask_name(s): np.ones(mask_shape(s, 1), bool) for s in self.pair.sites}
        return {**every, **given}

    def _run_masks(self, masks: dict[str, NDArray[np.bool_]], n_images: int = 1) -> Images:
        images = np.repeat(self.image, n_images, axis=0)
        return compared_numbers(self.runner.run(images, masks)[self.pair.subject.output])


def find_homes(
    trial: FreezingTrial, layers: Sequence[Layer], sites: Sequence[filters.Site]
) -> dict[str, filters.Site]:
    """The site of each layer: the one where freezing a few channels has the same effect.

    Layers and sites mostly come in the same order, so sites at a similar place are tried first.
    Only a few are tried: freezing may change no answer at all, as in an untrained network. If none
    has the same effect, the first free site with as many channels is taken, unproven.
    """
    pair = trial.pair
    free = list(sites)
    homes: dict[str, filters.Site] = {}
    lost: list[Layer] = []
    for layer in layers:
        fitting = _nearest(pair, layer, free)
        home = next((site for site in fitting if _does_the_same(trial, layer, site)), None)
        if home is None:
            lost.append(layer)
            continue
        homes[layer.name] = home
        free.remove(home)
    for layer in lost:
        home = next((site for site in free if site.n_channels == layer.n_channels), None)
        if home is not None:
            homes[layer.name] = home
            free.remove(home)
    return homes


def _nearest(pair: Pairing, layer: Layer, free: Sequence[filters.Site]) -> list[filters.Site]:
    """A few free sites with as many channels as the layer, the nearest in order first."""
    like = [site for site in pair.sites if site.n_channels == layer.n_channels]
    layers = [one for one in pair.framework.layers if one.n_channels == layer.n_channels]
    place = layers.index(layer)
    there = {site.name for site in free}
    ranked = sorted(enumerate(like), key=lambda numbered: abs(numbered[0] - place))
    return [site for _, site in ranked if site.name in there][:_MOST_TRIED]


def _does_the_same(trial: FreezingTrial, layer: Layer, site: filters.Site) -> bool:
    """Whether freezing a few channels changes the outputs of both models equally."""
    n_probes = min(_PROBES, layer.n_channels)
    channels = np.unique(np.linspace(0, layer.n_channels - 1, n_probes).astype(np.intp))
    ours = trial.frozen_here(site, channels)
    limit = trial.pair.tolerance * max(trial.scale, float(np.abs(ours).max()))
    if not (np.abs(ours - trial.base).max(1) > 3 * limit).any():
        return False
    constants = trial.constants[site.name][channels]
    theirs = trial.frozen_there(layer.name, channels, constants)
    return bool((np.abs(theirs - ours).max(1) <= limit).all())


def compared_numbers(answer: Images) -> Images:
    """A row for each image, with at most `_MOST_COMPARED` numbers of its output."""
    rows = answer.reshape(len(answer), -1)
    n_compared = min(_MOST_COMPARED, rows.shape[1])
    chosen = np.random.default_rng(0).choice(rows.shape[1], n_compared, replace=False)
    return rows[:, np.sort(chosen)]


def _with_others(channels: NDArray[np.intp], n_channels: int) -> NDArray[np.intp]:
    """The channels that are asked for, with others of their layer from which they must differ.

    These are all others while many are asked for, and a few dozen in later tries.
    """
    n_others = n_channels if 4 * len(channels) >= n_channels else min(_OTHERS, n_channels)
    others = np.linspace(0, n_channels - 1, n_others).astype(np.intp)
    return np.union1d(channels, others)


def _chunks(values: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def sites_without_layer(layers: LayerMap, sites: Sequence[filters.Site]) -> tuple[str, ...]:
    """The names of sites that belong to no layer of the framework."""
    return tuple(site.name for site in sites if not layers.layer_at(site.name))
