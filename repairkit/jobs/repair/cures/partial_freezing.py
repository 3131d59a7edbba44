"""The cure that chooses, too, at which constant each filter is frozen, and how much is left of it.

Filters are chosen at the level that absent ones have. Then other ways are tried for each: 0, what
it yields for no response, its mean over calibration images give or take its spread, and a share of
the filter left as it was. A patch is baked for each, so that only what the model's numbers can hold
is tried. Each filter takes its best way. The ways that folds of the images choose are judged on
the other images; unless these gain, every filter stays at its mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import FilterMeans
from repairkit.core.patch import Constant, FrozenFilter, Patch, constant_of
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Indices
from repairkit.graph.baking import representable
from repairkit.graph.kinds.sites import bias_levels, zero_levels
from repairkit.jobs.setup.preparing import patched_outputs
from repairkit.jobs.setup.workbench import Bench
from repairkit.repairs import Criterion, Cure, Cured, Nothing, assign_folds

_SPREADS = (-1.0, -0.5, 0.5, 1.0)
GAINS = (0.25, 0.5)
"""Shares of a filter that are tried to be left, around its mean."""

N_FOLDS = 5
_STREAM = 6  # of the seed


@dataclass(frozen=True, eq=False)
class PartialFreezing:
    """See `repairs.Cure`: the filters that `freezing` chooses, at levels chosen anew."""

    freezing: Cure
    levels: BestLevels

    @property
    def name(self) -> str:
        """See `repairs.Cure`."""
        return self.freezing.name

    def on(self, within: Indices) -> Cured | Nothing:
        """See `repairs.Cure`; the smaller steps keep their levels."""
        cured = self.freezing.on(within)
        if isinstance(cured, Nothing):
            return cured
        patch, outputs = self.levels(cured.patch, within)
        return replace(cured, patch=patch, outputs=outputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class BestLevels:
    """Sets the levels of a patch's filters anew; see the module.

    Attributes:
        bench: the workbench.
        criterion: of all selection images.
        strata: see `assign_folds`.
        twins: see `assign_folds`.
    """

    bench: Bench
    criterion: Criterion
    strata: NDArray[np.int64]
    twins: NDArray[np.intp] | None = None
    _known: dict[Patch, Array] = field(default_factory=dict)

    @stage("choosing levels")
    def __call__(self, patch: Patch, within: Indices) -> tuple[Patch, Array]:
        """The patch with other levels where they gain, and its outputs for all selection images.

        Args:
            patch: the filters, at the level of absent ones.
            within: positions of the selection images that choose.
        """
        rng = np.random.default_rng([self.bench.settings.seed, _STREAM])
        folds = assign_folds(self.strata, N_FOLDS, rng, within=within, twins=self.twins)
        tried = {place: self._variants(patch, place) for place in range(len(patch))}
        before = self.criterion.columns(self._outputs(patch))
        after = before.copy()
        for fold, rest in enumerate(folds.rest):
            members = folds.fold_of == fold
            outputs = self._outputs(self._best(patch, tried, rest))
            after[members] = self.criterion.columns(outputs)[members]
        gained = self.criterion.figure(after, within) - self.criterion.figure(before, within)
        best = self._best(patch, tried, within)
        better = self._figure(best, within) > self._figure(patch, within)
        chosen = best if gained > 0 and better else patch
        return chosen, self._outputs(chosen)

    def _variants(self, patch: Patch, place: int) -> list[FrozenFilter]:
        """The ways to freeze one filter, as it is frozen first."""
        frozen = patch.frozen[place]
        constants = _constants(self._options, frozen)
        ways = [frozen, *(FrozenFilter(frozen.filter, constant) for constant in constants)]
        if not self.bench.original.layers[frozen.filter.site].why_not_partly():
            ways += [FrozenFilter(frozen.filter, frozen.constant, gain) for gain in GAINS]
        return ways

    def _best(
        self, patch: Patch, tried: Mapping[int, Sequence[FrozenFilter]], within: Indices
    ) -> Patch:
        """Every filter in the way that is best beside the others as they are, within limits."""
        frozen = list(patch.frozen)
        for place, ways in tried.items():
            figures = [self._figure(_with(patch, place, way), within) for way in ways]
            frozen[place] = ways[int(np.argmax(figures))]
        return Patch(tuple(frozen), patch.head)

    def _figure(self, patch: Patch, within: Indices) -> float:
        outputs = self._outputs(patch)
        if self.criterion.objection(outputs, within):
            return -np.inf
        return self.criterion.figure(self.criterion.columns(outputs), within)

    def _outputs(self, patch: Patch) -> Array:
        if patch not in self._known:
            self._known[patch] = patched_outputs(self.bench, patch, self.bench.parts.selection)
        return self._known[patch]

    @cached_property
    def _options(self) -> list[FilterMeans]:
        return _options(self.bench)


def _options(bench: Bench) -> list[FilterMeans]:
    """Levels to try beside the one that was chosen at."""
    sites = bench.roster.sites
    mean, spread = (
        bench.working.measure(bench.parts.calibration, magnitude=magnitude)
        for magnitude in (False, True)
    )
    # A tree has a number per class, and one size for all of them.
    sizes = {name: spread[name].reshape(len(spread[name]), -1) for name in spread}
    sizes = {name: sizes[name].max(axis=1) for name in sizes}
    shifted = [
        {name: mean[name] + _apart(factor * sizes[name], mean[name]) for name in mean}
        for factor in _SPREADS
    ]
    wanted = [mean, zero_levels(sites), bias_levels(bench.working.survey, sites), *shifted]
    return [representable(bench.working.survey, levels) for levels in wanted]


def _apart(shift: Array, like: Array) -> Array:
    """A number per filter, so shaped that it adds to each of the filter's numbers."""
    return shift.reshape(-1, *[1] * (like.ndim - 1))


def _constants(options: list[FilterMeans], frozen: FrozenFilter) -> Iterator[Constant]:
    """The constants to try for a filter, each once."""
    place = frozen.filter
    constants = [constant_of(levels[place.site][place.channel]) for levels in options]
    yield from (c for c in dict.fromkeys(constants) if c != frozen.constant)


def _with(patch: Patch, place: int, way: FrozenFilter) -> Patch:
    frozen = list(patch.frozen)
    frozen[place] = way
    return Patch(tuple(frozen), patch.head)
