"""Prove which filter of an exported model is which channel of which layer.

One channel of one image is frozen in the framework and one filter in ONNX Runtime, at the same
constant outside the channel's usual range. The pair is proven if both outputs are equal, and differ
from the unfrozen output and from the outputs with any other filter frozen. Where saturation hides a
difference, other constants and images are tried.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from repairkit.core import filters, suite
from repairkit.core.framework import FrameworkModel, Images, Layer, LayerMap, MappedLayer
from repairkit.core.process.stages import stage
from repairkit.graph.coalitions.masking import mask_name, mask_shape
from repairkit.graph.kinds.sites import find_sites, instrument
from repairkit.jobs.setup.workbench import Subject

# Distance of the constant from the channel's mean, in standard deviations, and the image.
_TRIES = ((4.0, 0), (1.5, 1), (0.5, 0), (12.0, 1), (40.0, 2), (-4.0, 0))
# Moderate: saturated outputs are equal, whichever channel is frozen.
_PROBE = (1.5, 0)
_MOST_IMAGES = 8
_MOST_TRIED = 5  # sites of a layer
_MOST_COMPARED = 4096
_MOST_NUMBERS = 1 << 22
_LEAST_NOISE, _MOST_NOISE = 1e-7, 1e-5
_PROBES = 4
_OTHERS = 32
Done = Callable[[int, int], None]
_MOST_COLUMNS = 64


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
        usual = _usual(pair)
        homes = _find_homes(_Trial(pair, usual, *_PROBE))
    open_channels = {
        layer.name: np.arange(layer.n_channels)
        for layer in pair.framework.layers
        if layer.name in homes
    }
    n_all, n_done = sum(len(c) for c in open_channels.values()), 0
    with stage("mapping", total=n_all, unit="filters") as tell:
        for spread, image in _TRIES:
            left = {name: channels for name, channels in open_channels.items() if len(channels)}
            if not left:
                break
            trial = _Trial(pair, usual, spread, image)
            for name, proven in trial.prove(left, homes):
                n_done += len(proven)
                open_channels[name] = np.setdiff1d(open_channels[name], proven)
                tell(n_done)
                if on_progress is not None:
                    on_progress(n_done, n_all)
    mapped = [
        MappedLayer(layer, None, (), "no layer of the ONNX file answers to it")
        if layer.name not in homes
        else MappedLayer(layer, homes[layer.name].name, tuple(open_channels[layer.name].tolist()))
        for layer in pair.framework.layers
    ]
    return LayerMap(pair.framework.framework, tuple(pair.framework.input_shape), tuple(mapped))


def _usual(pair: Pairing) -> dict[str, tuple[Images, Images]]:
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


class _Trial:
    """One attempt: every filter has a constant at one distance from its mean, on one image."""

    def __init__(
        self, pair: Pairing, usual: dict[str, tuple[Images, Images]], spread: float, image: int
    ) -> None:
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
        self._compared: NDArray[np.intp] | None = None
        self.base = self._run_masks(self._masks({}))[0]
        self.scale = float(np.abs(self.base).max()) or 1.0

    def prove(
        self, wanted: dict[str, NDArray[np.intp]], homes: dict[str, filters.Site]
    ) -> Iterator[tuple[str, NDArray[np.intp]]]:
        """The channels in `wanted` that are proven, layer by layer."""
        crowd = Crowd(self.base)
        ours: dict[str, Images] = {}
        for name, channels in wanted.items():
            asked = _with_others(channels, homes[name].n_channels)
            answers = self.frozen_here(homes[name], asked)
            ours[name] = answers[np.searchsorted(asked, channels)]
            crowd.add(name, asked, answers)
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
            parts.append(self._some_of(answer))
        return np.concatenate(parts)

    def _some_of(self, answer: Images) -> Images:
        """A row for each image, with at most `_MOST_COMPARED` numbers of its output."""
        rows = answer.reshape(len(answer), -1)
        if self._compared is None:
            n_compared = min(_MOST_COMPARED, rows.shape[1])
            chosen = np.random.default_rng(0).choice(rows.shape[1], n_compared, replace=False)
            self._compared = np.sort(chosen)
        return rows[:, self._compared]

    def _masks(self, given: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
        every = {mask_name(s): np.ones(mask_shape(s, 1), bool) for s in self.pair.sites}
        return {**every, **given}

    def _run_masks(self, masks: dict[str, NDArray[np.bool_]], n_images: int = 1) -> Images:
        images = np.repeat(self.image, n_images, axis=0)
        return self._some_of(self.runner.run(images, masks)[self.pair.subject.output])


def _find_homes(trial: _Trial) -> dict[str, filters.Site]:
    """The site of each layer: the one where freezing a few channels has the same effect.

    Layers and sites mostly come in the same order, so sites at a similar place are tried first.
    Only a few are tried: freezing may change no answer at all, as in an untrained network. If none
    has the same effect, the first free site with as many channels is taken, unproven.
    """
    pair = trial.pair
    free = list(pair.sites)
    homes: dict[str, filters.Site] = {}
    lost: list[Layer] = []
    for layer in pair.framework.layers:
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


def _does_the_same(trial: _Trial, layer: Layer, site: filters.Site) -> bool:
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


@dataclass
class Crowd:
    """The outputs with each of many filters frozen, and with none.

    Only the 64 numbers that vary most are compared: outputs that differ there differ. Call `add`
    for every layer, then `settle`, then `is_apart`.
    """

    base: Images
    _parts: dict[str, Images] = field(default_factory=dict)
    _channels: dict[str, NDArray[np.intp]] = field(default_factory=dict)

    def add(self, layer: str, channels: NDArray[np.intp], outputs: Images) -> None:
        """The outputs for some channels of a layer, ascending, shape (n_channels, n_numbers)."""
        self._parts[layer] = outputs
        self._channels[layer] = channels

    def settle(self) -> None:
        """Choose the numbers to compare, and sort all outputs by the first of them."""
        everything = list(self._parts.values())
        variances = np.mean([_variances(part) for part in everything], axis=0)
        self._columns = np.argsort(-variances, kind="stable")[:_MOST_COLUMNS]
        starts = np.cumsum([0, *map(len, everything)])
        self._starts = dict(zip(self._parts, starts[:-1].tolist(), strict=True))
        rows = np.concatenate([part[:, self._columns] for part in everything])
        rows = np.concatenate([rows, self.base[None, self._columns]])
        self._order = np.argsort(rows[:, 0], kind="stable")
        self._rows = rows[self._order]
        self._parts = {}

    def is_apart(
        self, layer: str, channels: NDArray[np.intp], outputs: Images, limits: Images
    ) -> NDArray[np.bool_]:
        """Whether each output differs by more than its limit from those of all other filters.

        Args:
            layer: of the filters.
            channels: shape (n,), among those that were added.
            outputs: shape (n, n_numbers).
            limits: shape (n,).
        """
        projected = outputs[:, self._columns]
        low = np.searchsorted(self._rows[:, 0], projected[:, 0] - limits, "left")
        high = np.searchsorted(self._rows[:, 0], projected[:, 0] + limits, "right")
        places = self._starts[layer] + np.searchsorted(self._channels[layer], channels)
        return np.array(
            [
                self._is_alone(
                    projected[i], int(low[i]), int(high[i]), int(places[i]), float(limits[i])
                )
                for i in range(len(projected))
            ],
            bool,
        )

    def _is_alone(self, output: Images, low: int, high: int, place: int, limit: float) -> bool:
        near: suite.Array = np.arange(low, high)
        near = near[self._order[near] != place]
        for column in range(1, self._rows.shape[1]):
            if not len(near):
                return True
            near = near[np.abs(self._rows[near, column] - output[column]) <= limit]
        return not len(near)


def _variances(part: Images) -> NDArray[np.float64]:
    finite = np.nan_to_num(part.astype(np.float64), posinf=0.0, neginf=0.0)
    spread: NDArray[np.float64] = finite.var(0)
    return spread
