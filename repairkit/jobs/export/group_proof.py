"""Prove the map of a large model: read all filters, freeze them in groups, and some of them alone.

Freezing each filter alone takes two passes for every filter. Here every channel is read in both
models first. A channel that holds the numbers of one filter, and of no other, is frozen in two
random groups, in both models, and is proven if the outputs are equal both times. A random sample is
also frozen alone. To measure what the groups can show, pairs of proven filters are swapped in ONNX
Runtime alone: the share of swaps that change the outputs is stated with the map.

Channels that are not told apart, or whose groups differ, are frozen alone as in a small model, as
many as the same number of passes allows.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from repairkit.core import filters
from repairkit.core.framework import (
    CONFIDENCE,
    GroupProof,
    Images,
    Layer,
    LayerMap,
    Readable,
)
from repairkit.core.process.stages import Tell, stage
from repairkit.graph.kinds.sites import survey
from repairkit.jobs.export import mapping
from repairkit.jobs.export.channel_reading import Reading, read_channels
from repairkit.jobs.export.suffixes import Suffix, Suffixes
from repairkit.metrics.chance import least_share

MOST_WORK = 5e11
"""Multiplications in each model that freezing filters alone may take."""
_ATTEMPTS = ((1.5, 4), (0.5, 16), (4.0, 32))
"""Distances of the constants from the means, in standard deviations, and the number of groups."""
_PARTITIONS = 2
_FEWEST_ALONE = 2  # of a layer
_SWAPS = 300
_FEWEST_LEFT = 64
SEED = 0
_UNPROVEN = "unproven in groups; --one-by-one tries each filter alone, at more constants"


@stage("counting the work")
def passes_that_fit(pair: mapping.Pairing) -> tuple[int, int]:
    """How many filters may be frozen alone, and how many there are to freeze."""
    n_filters = sum(site.n_channels for site in pair.sites)
    surveyed = survey(pair.subject.model)
    costs = dict(a for a in (each.arithmetic() for each in surveyed.layers.values()) if a)
    if not costs:
        return n_filters, n_filters
    answers = pair.subject.opened().tap(costs).run(pair.images[:1])
    work = sum(answers[tensor].size * cost for tensor, cost in costs.items())
    return int(MOST_WORK / max(work, 1.0)), n_filters


@dataclass(kw_only=True)
class _Layer:
    """A layer with its site, and what has been proven of its channels so far.

    Attributes:
        layer: of the framework.
        site: of the ONNX file.
        told_apart: which channels are, (n_channels,).
        alone: channels that are also to be frozen alone.
        partners: another channel with which each of some channels is to be swapped.
        proven: which channels are, (n_channels,).
        one_by_one: channels that were proven alone.
        n_groups: that were frozen.
        swaps: by channel, whether the outputs showed its swap.
    """

    layer: Layer
    site: filters.Site
    told_apart: NDArray[np.bool_]
    alone: NDArray[np.intp]
    partners: dict[int, int]
    proven: NDArray[np.bool_]
    one_by_one: set[int] = field(default_factory=set)
    n_groups: int = 0
    swaps: dict[int, bool] = field(default_factory=dict)


def prove_in_groups(
    pair: mapping.Pairing,
    model: Readable,
    *,
    n_alone: int,
    on_progress: mapping.Done | None = None,
) -> LayerMap:
    """The site of every layer, and the channels for which that is proven.

    Args:
        pair: the models, whose outputs were found equal.
        model: the framework's model of the pair.
        n_alone: filters that may be frozen alone.
        on_progress: called with the number of proven filters and of all filters.
    """
    reading = read_channels(
        model,
        pair.framework.layers,
        pair.subject.opened(),
        pair.sites,
        images=pair.images,
        tolerance=pair.tolerance,
    )
    with stage("finding the filters' ranges"):
        usual = mapping.usual_values(pair)
    rng = np.random.default_rng(SEED)
    layers = _drawn(pair.framework.layers, reading, n_alone, rng)
    images = pair.images[:_PARTITIONS] if len(pair.images) > 1 else np.repeat(pair.images, 2, 0)
    suffixes = Suffixes(pair.subject.opened(), pair.sites, images, tolerance=pair.tolerance)
    n_all, n_done = sum(site.n_channels for site in pair.sites), 0
    with stage("mapping", total=n_all, unit="filters") as tell, ThreadPoolExecutor(1) as pool:

        def report(n_more: int) -> None:
            tell(n_done + n_more)
            if on_progress is not None:
                on_progress(n_done + n_more, n_all)

        for each in layers:
            suffix = suffixes.behind(each.site)
            if suffix is not None:
                bench = _Bench(pair, model, suffix, images, pool)
                _prove_layer(bench, each, usual[each.site.name], rng)
            n_done += int(each.proven.sum())
            report(0)
        homes, left = _prove_the_rest(pair, usual, layers, max(n_alone, _FEWEST_LEFT), report)
    return _with_proof(mapping.layer_map(pair, homes, left), layers, reading.n_images)


def _drawn(known: Sequence[Layer], reading: Reading, n_alone: int, rng: Generator) -> list[_Layer]:
    """The layers that were read, with the channels drawn to be frozen alone and to be swapped."""
    read = [layer for layer in known if layer.name in reading.homes]
    apart = {layer.name: reading.told_apart[layer.name] for layer in read}
    filters_of = [
        (name, int(channel))
        for name, channels in apart.items()
        if len(channels) > 1
        for channel in np.flatnonzero(channels)
    ]
    chosen = rng.choice(len(filters_of), min(_SWAPS, len(filters_of)), replace=False)
    swapped: dict[str, list[int]] = {layer.name: [] for layer in read}
    for position in np.sort(chosen).tolist():
        name, channel = filters_of[position]
        swapped[name].append(channel)
    share = n_alone / max(1, sum(layer.n_channels for layer in read))
    drawn = []
    for layer in read:
        distinct = np.flatnonzero(apart[layer.name])
        n_here = min(len(distinct), max(_FEWEST_ALONE, int(share * layer.n_channels)))
        others = rng.integers(1, max(2, layer.n_channels), len(swapped[layer.name]))
        drawn.append(
            _Layer(
                layer=layer,
                site=reading.homes[layer.name],
                told_apart=apart[layer.name],
                alone=np.sort(rng.choice(distinct, n_here, replace=False)),
                partners={
                    channel: (channel + int(step)) % layer.n_channels
                    for channel, step in zip(swapped[layer.name], others, strict=True)
                },
                proven=np.zeros(layer.n_channels, bool),
            )
        )
    return drawn


@dataclass(frozen=True)
class _Bench:
    """Both models, ready to freeze channels of one layer on a few images."""

    pair: mapping.Pairing
    model: Readable
    suffix: Suffix
    images: Images
    pool: ThreadPoolExecutor

    def here(self, image: int, frozen: NDArray[np.bool_], constants: Images) -> Images:
        """Outputs of the ONNX file, (n_rows, n_numbers); see `Suffix.outputs`."""
        return mapping.compared_numbers(self.suffix.outputs(image, frozen, constants))

    def there(
        self, layer: Layer, image: int, frozen: NDArray[np.bool_], constants: Images
    ) -> Images:
        """Outputs of the framework, (n_rows, n_numbers)."""
        parts = []
        for start in range(0, len(frozen), self.pair.rows):
            rows = frozen[start : start + self.pair.rows]
            images = np.repeat(self.images[image : image + 1], len(rows), axis=0)
            with self.model.freezing_many(layer.name, rows, constants):
                parts.append(mapping.compared_numbers(self.pair.framework.outputs(images)))
        return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class _Frozen:
    """Rows of frozen channels on one image, and the outputs with them.

    Attributes:
        image: its position.
        rows: which channels are frozen, (n_rows, n_channels): groups, then single channels.
        n_groups: how many of the rows are groups.
        ours: outputs of the ONNX file, (n_rows, n_numbers).
        theirs: outputs of the framework, (n_rows, n_numbers).
        base: the unfrozen output, (n_numbers,).
        tolerance: the relative difference up to which outputs count as equal.
    """

    image: int
    rows: NDArray[np.bool_]
    n_groups: int
    ours: Images
    theirs: Images
    base: Images
    tolerance: float

    def limits(self, outputs: Images) -> Images:
        """The difference up to which each row counts as equal."""
        scale = float(np.abs(self.base).max()) or 1.0
        return np.asarray(self.tolerance * np.maximum(scale, np.abs(outputs).max(1)))

    def differ(self, rows: NDArray[np.intp], outputs: Images) -> NDArray[np.bool_]:
        """Whether outputs of the ONNX file differ from those of the framework for some rows."""
        with np.errstate(invalid="ignore"):
            equal = np.abs(outputs - self.theirs[rows]).max(1) <= self.limits(outputs)
        return np.asarray(~equal)

    def visible(self) -> NDArray[np.bool_]:
        """Whether freezing a row's channels changes the output."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(self.ours - self.base).max(1) > 3 * self.limits(self.ours))

    def good(self) -> NDArray[np.bool_]:
        """Whether a row's outputs are equal, and unlike the unfrozen one and all other rows."""
        every = np.arange(len(self.rows))
        good = self.visible() & ~self.differ(every, self.ours)
        limits = 3 * self.limits(self.ours)
        for row in np.flatnonzero(good):
            with np.errstate(invalid="ignore"):
                unlike = np.abs(self.ours - self.theirs[row]).max(1) > limits[row]
            same = (self.rows == self.rows[row]).all(1)
            good[row] = bool((unlike | same).all())
        return good


def _prove_layer(bench: _Bench, each: _Layer, usual: tuple[Images, Images], rng: Generator) -> None:
    """Freeze all channels of a layer in groups; those of failed groups again, in smaller ones."""
    for spread, most_groups in _ATTEMPTS:
        if not (each.told_apart & ~each.proven).any():
            return
        mean, width = usual
        # All different: freezing another channel must not give the same output by chance.
        factors = rng.uniform(0.8, 1.25, len(mean)) * spread
        constants = (mean + factors * width).astype(np.float32)
        frozen = [
            _freeze(bench, each, image, constants, _partition(each, most_groups, rng))
            for image in range(_PARTITIONS)
        ]
        each.n_groups += sum(part.n_groups for part in frozen)
        fresh = _proven(each, frozen)
        each.proven |= fresh
        _swap(bench, each, frozen, constants, fresh)


def _partition(each: _Layer, most_groups: int, rng: Generator) -> list[NDArray[np.intp]]:
    """The channels that are told apart and not proven, in random groups."""
    channels = rng.permutation(np.flatnonzero(each.told_apart & ~each.proven))
    return np.array_split(channels, min(most_groups, len(channels)))


def _freeze(
    bench: _Bench,
    each: _Layer,
    image: int,
    constants: Images,
    groups: Sequence[NDArray[np.intp]],
) -> _Frozen:
    """Freeze groups of a layer's channels in both models; on the first image, also single ones."""
    n_channels = each.layer.n_channels
    alone = each.alone[~each.proven[each.alone]] if image == 0 else each.alone[:0]
    rows = np.zeros((len(groups) + len(alone), n_channels), bool)
    for row, channels in zip(rows, [*groups, *alone], strict=True):
        row[channels] = True
    # The last row is the unfrozen image. The runtimes run side by side, each on one core.
    answers = bench.pool.submit(
        bench.here, image, np.concatenate([rows, np.zeros((1, n_channels), bool)]), constants
    )
    theirs = bench.there(each.layer, image, rows, constants)
    *ours, base = answers.result()
    return _Frozen(
        image=image,
        rows=rows,
        n_groups=len(groups),
        ours=np.stack(ours),
        theirs=theirs,
        base=base,
        tolerance=bench.pair.tolerance,
    )


def _proven(each: _Layer, frozen: Sequence[_Frozen]) -> NDArray[np.bool_]:
    """The channels that are proven now: all their groups passed.

    One that contradicts this when it is frozen alone is left to be proven alone.
    """
    passed = each.told_apart & ~each.proven
    for part in frozen:
        good = part.good()
        n_groups = part.n_groups
        passed &= part.rows[:n_groups][good[:n_groups]].any(0)
        wrong = part.visible() & part.differ(np.arange(len(part.rows)), part.ours)
        contradicted = part.rows[n_groups:][wrong[n_groups:]].any(0)
        each.told_apart &= ~contradicted
        passed &= ~contradicted
        single = part.rows[n_groups:][good[n_groups:]].any(0)
        each.one_by_one |= set(np.flatnonzero(single & each.told_apart).tolist())
    each.one_by_one &= set(np.flatnonzero(passed | each.proven).tolist())
    return passed


def _swap(
    bench: _Bench,
    each: _Layer,
    frozen: Sequence[_Frozen],
    constants: Images,
    fresh: NDArray[np.bool_],
) -> None:
    """Swap drawn channels with their partners in the ONNX file, and see whether a group shows it.

    Groups with the channel are tried first, then those with its partner.
    """
    hidden = [channel for channel in each.partners if fresh[channel]]
    each.swaps.update(dict.fromkeys(hidden, False))
    for of_partner in (False, True):
        for part in frozen:
            if not hidden:
                return
            pairs = np.array([(channel, each.partners[channel]) for channel in hidden])
            groups = part.rows[: part.n_groups][:, pairs[:, int(of_partner)]].argmax(0)
            rows, levels = part.rows[groups].copy(), np.tile(constants, (len(groups), 1))
            every = np.arange(len(groups))[:, None]
            rows[every, pairs] = rows[every, pairs[:, ::-1]]
            levels[every, pairs] = levels[every, pairs[:, ::-1]]
            seen = part.differ(groups, bench.here(part.image, rows, levels))
            each.swaps.update({c: True for c, shown in zip(hidden, seen, strict=True) if shown})
            hidden = [channel for channel in hidden if not each.swaps[channel]]


def _prove_the_rest(
    pair: mapping.Pairing,
    usual: mapping.UsualValues,
    layers: Sequence[_Layer],
    most: int,
    report: Tell,
) -> tuple[dict[str, filters.Site], dict[str, NDArray[np.intp]]]:
    """Freeze up to `most` of the channels that are not proven, each alone, as in a small model.

    Returns:
        The site of each layer, and the channels that are not proven, by layer.
    """
    homes = {each.layer.name: each.site for each in layers}
    taken = {site.name for site in homes.values()}
    free = [site for site in pair.sites if site.name not in taken]
    lost = [layer for layer in pair.framework.layers if layer.name not in homes]
    if free and lost:
        probe = mapping.FreezingTrial(pair, usual, *mapping.PROBE)
        homes |= mapping.find_homes(probe, lost, free)
    unproven = {
        layer.name: np.arange(layer.n_channels)
        for layer in pair.framework.layers
        if layer.name in homes
    }
    unproven |= {each.layer.name: np.flatnonzero(~each.proven) for each in layers}
    tried = {}
    for name, channels in unproven.items():
        tried[name] = channels[:most]
        most -= len(tried[name])
    left = mapping.prove_one_by_one(pair, usual, homes, tried, report)
    by_name = {each.layer.name: each for each in layers}
    for name, channels in unproven.items():
        alone = np.setdiff1d(tried[name], left[name])
        if name in by_name:
            by_name[name].one_by_one |= set(alone.tolist())
        unproven[name] = np.setdiff1d(channels, alone)
    return homes, unproven


def _with_proof(known: LayerMap, layers: Sequence[_Layer], n_images: int) -> LayerMap:
    """The map with the record of how it was proven."""
    by_name = {each.layer.name: each for each in layers}
    mapped = []
    for one in known.layers:
        if one.layer.name in by_name:
            alone = tuple(sorted(by_name[one.layer.name].one_by_one))
        else:  # no channel was in a group
            alone = tuple(c for c in range(one.layer.n_channels) if c not in set(one.unproven))
        note = one.note if one.site is None or not one.unproven else _UNPROVEN
        alone_here = None if one.site is None else alone
        mapped.append(replace(one, one_by_one=alone_here, note=note))
    swaps = [seen for each in layers for seen in each.swaps.values()]
    proof = GroupProof(
        n_groups=sum(each.n_groups for each in layers),
        n_swaps=len(swaps),
        n_seen=sum(swaps),
        share_seen=least_share(sum(swaps), len(swaps), CONFIDENCE),
        n_images=n_images,
        seed=SEED,
    )
    return replace(known, layers=tuple(mapped), groups=proof)
