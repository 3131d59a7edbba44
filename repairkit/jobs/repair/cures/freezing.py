"""The cure that freezes filters: screened by their values, then searched for jointly.

With `--level best` the constant of each filter is chosen, too, and how much of the filter is left.
Filters are chosen at the level of absent ones. Then other ways are tried for each: 0, what it
yields for no response, its mean over calibration images plus or minus its spread, and a share of
the filter left as it was. A patch is baked for each way, so only what the model's numbers can hold
is tried. Each filter takes its best way. The ways that folds of the images choose are judged on
the other images; unless these gain, every filter stays at its mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.attacked import is_attacked
from repairkit.core.filters import Constant, FilterMeans, FrozenFilter, Patch, Roster, constant_of
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Indices
from repairkit.graph.baking import representable
from repairkit.graph.kinds.sites import bias_levels, zero_levels
from repairkit.jobs.repair.cures.supplies import FilterSupplies, Supplies
from repairkit.jobs.repair.objective import ChoosingCriterion, figures_of
from repairkit.jobs.setup.preparing import patched_outputs
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.robustness import ATTACK_SUCCESS
from repairkit.repairs.crossfit import Bound, Criterion, Folds, assign_folds
from repairkit.repairs.cure import Cure, Cured, Nothing, Story, make_patch
from repairkit.repairs.search import Frozen, Screened, Search, SearchStep

_SEARCH_STREAM = 2  # of the seed

Figures = Mapping[frozenset[int], Mapping[str, float]]
"""Metrics by the set of players that is frozen."""

_SPREADS = (-1.0, -0.5, 0.5, 1.0)
GAINS = (0.25, 0.5)
"""Shares of a filter that are tried to be left, around its mean."""

_LEVEL_FOLDS = 5
_LEVEL_STREAM = 6  # of the seed


@dataclass(frozen=True)
class FreezeFilters:
    """See `supplies.Strategy`: freezing filters, at the best of several levels where asked for."""

    name: str = "freeze"
    needs_values: bool = True

    def cure(self, bench: Bench, criterion: ChoosingCriterion, supplies: Supplies) -> Cure:
        """See `supplies.Strategy`."""
        assert supplies.filters is not None
        freezing = Freezing(
            bench=bench, criterion=criterion, supplies=supplies, filters=supplies.filters
        )
        if not supplies.filters.best_levels:
            return freezing
        levels = BestLevels(
            bench=bench, criterion=criterion, strata=supplies.strata, twins=supplies.twins
        )
        return PartialFreezing(freezing, levels)


@dataclass(frozen=True, kw_only=True, eq=False)
class Freezing:
    """See `cure.Cure`.

    A choice on the images of some folds of the cross-confirmation cross-fits over just these folds,
    so that few sets of images need values of their own.

    Attributes:
        bench: the workbench.
        criterion: what to improve, on all selection images.
        supplies: strata, twins and folds of the images.
        filters: which filters may be frozen, and the outputs without them.
    """

    bench: Bench
    criterion: ChoosingCriterion
    supplies: Supplies
    filters: FilterSupplies
    name: str = "freeze"

    def on(self, within: Indices) -> Cured | Nothing:
        """See `cure.Cure`."""
        rng = np.random.default_rng([self.bench.settings.seed, _SEARCH_STREAM])
        folds, settings = self._folds(within, rng), self.criterion.wishes.search
        screened = self._screened(folds)
        search = Search(
            answer=partial(self.filters.looks, within=within),
            criterion=self.criterion,
            folds=folds,
            settings=settings,
            rng=rng,
            is_over=self.filters.is_over,
            most_steps=self._most_steps(within),
        )
        self.filters.searches.append(search)
        path = search.run(screened)
        # Of a fold's choice only the patch is told, so its figures are not worth a pass.
        story = {} if self._leaves_out(within) else self._story(search, path, screened, within)
        if len(path) == 1:
            return Nothing(self._why_nothing(search, screened, within), story)
        steps = [self._cured(frozen, search, story) for frozen in path[1:]]
        return replace(steps[-1], fewer=tuple(steps[:-1]))

    def _leaves_out(self, within: Indices) -> bool:
        """Whether a fold of the cross-confirmation takes no part."""
        return self.supplies.folds is not None and len(within) < len(self.criterion.annotations)

    def _most_steps(self, within: Indices) -> float:
        """A fold is judged after as many steps as the choice by all images took, and not later."""
        if not self._leaves_out(within):
            return math.inf
        searches = self.filters.searches
        by_all = [s.n_taken for s in searches if not self._leaves_out(s.folds.everyone)]
        return max(1, *by_all) if by_all else math.inf

    def _folds(self, within: Indices, rng: np.random.Generator) -> Folds:
        """Those of the cross-confirmation, as far as `within` holds whole ones; else drawn anew."""
        supplies = self.supplies
        folds = None if supplies.folds is None else supplies.folds.among(within)
        return folds or assign_folds(
            supplies.strata,
            self.criterion.wishes.search.n_folds,
            rng,
            within=within,
            twins=supplies.twins,
        )

    def _screened(self, folds: Folds) -> Screened:
        overall = self.filters.screen(folds.everyone)
        return Screened.of(overall, [self.filters.screen(rest) for rest in folds.rest])

    def _cured(self, frozen: Frozen, search: Search, story: Story) -> Cured:
        bench = self.bench
        patch = make_patch(np.array(frozen, np.intp), bench.roster, bench.working.levels)
        return Cured(
            patch=patch,
            outputs=self.filters.looks.of(frozen),
            gain=_gain(search),
            story=story,
            name=self.name,
        )

    def _story(
        self, search: Search, path: tuple[Frozen, ...], screened: Screened, within: Indices
    ) -> Story:
        """How the choice was made; figures of the trade-off are of all selection images."""
        tried = [step.frozen for step in search.steps if step.gain is not None]
        sets = sorted(dict.fromkeys([*path, *tried]), key=len)
        about = self.criterion.annotations
        accuracy = self.bench.accuracy if self.bench.n_classes else None
        names = self.criterion.wishes.told_names(accuracy)
        both = (ATTACK_SUCCESS.name,) if accuracy and is_attacked(about) else ()
        metrics = self.bench.metrics(tuple(dict.fromkeys((*names, *both))))
        on_all, on_choosing = {}, {}
        for frozen in sets:
            outputs = self.filters.looks.of(frozen)
            on_all[frozenset(frozen)] = figures_of(metrics, outputs, about)
            on_choosing[frozenset(frozen)] = figures_of(
                metrics, outputs[within], about.take(within)
            )
        roster = self.bench.roster
        return {
            "candidates": len(screened.players),
            "looks": search.n_looks,
            "steps": _steps(search.steps, roster, on_choosing),
            "trade_off": _trade_off(sets, path, roster, on_all),
        }

    def _why_nothing(self, search: Search, screened: Screened, within: Indices) -> str:
        objective = self.criterion.objective
        before = self.criterion.before(objective.metric, within)
        known = (
            f"{objective.metric} is {objective.measure.figure(before)} on the {len(within)} "
            "selection images that choose"
        )
        if not screened.players:
            return f"{known}, and no filter's value says that it harms"
        last, forbidden = search.steps[-1], self._forbidden(search)
        if last.added is None:
            return f"{known}; {last.reason}{forbidden}"
        best = self.bench.roster.filters[last.added].id
        allowed = " that keeps to the limits" if forbidden else ""
        return (
            f"{known}; of {len(screened.players)} candidates the best to freeze{allowed} is "
            f"{best}, which {last.reason}{forbidden}"
        )

    def _forbidden(self, search: Search) -> str:
        """What would do better, but for a limit; empty where nothing would."""
        if search.seen.best_objected is None:
            return ""
        frozen, objection = search.seen.best_objected
        names = " and ".join(self.bench.roster.filters[player].id for player in frozen)
        return f"; freezing {names} would do better, but {objection}"


def _gain(search: Search) -> Bound:
    """The gains of the steps taken, added up; the bounds likewise."""
    taken = [step.gain for step in search.steps if step.kept and step.gain is not None]
    return Bound(sum(g.value for g in taken), sum(g.low for g in taken))


def _steps(steps: Sequence[SearchStep], roster: Roster, figures: Figures) -> list[dict[str, Any]]:
    """Every step with the filter that it is about.

    `score` is the smooth figure that was searched by, `gain` what the step is worth on images that
    did not choose it, with its lower bound; `figures` are of the images that choose.
    """

    def name(player: int | None) -> str | None:
        return None if player is None else roster.filters[player].id

    return [
        {
            "n_frozen": len(step.frozen),
            "added": name(step.added),
            "dropped": name(step.dropped),
            "score": step.figure,
            "gain": None if step.gain is None else asdict(step.gain),
            "figures": dict(figures.get(frozenset(step.frozen), {})),
            "kept": step.kept,
            "reason": step.reason,
        }
        for step in steps
    ]


def _trade_off(
    sets: Sequence[Frozen],
    kept: Sequence[Frozen],
    roster: Roster,
    figures: Figures,
) -> list[dict[str, Any]]:
    """The figures of every set on the way, the model as it is among them."""
    return [
        {
            "n_frozen": len(frozen),
            "filters": [roster.filters[player].id for player in frozen],
            "kept": frozen in kept,
            **figures[frozenset(frozen)],
        }
        for frozen in sets
    ]


@dataclass(frozen=True, eq=False)
class PartialFreezing:
    """See `cure.Cure`: the filters that `freezing` chooses, at levels chosen anew."""

    freezing: Cure
    levels: BestLevels

    @property
    def name(self) -> str:
        """See `cure.Cure`."""
        return self.freezing.name

    def on(self, within: Indices) -> Cured | Nothing:
        """See `cure.Cure`; the smaller steps keep their levels."""
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
        rng = np.random.default_rng([self.bench.settings.seed, _LEVEL_STREAM])
        folds = assign_folds(self.strata, _LEVEL_FOLDS, rng, within=within, twins=self.twins)
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
            before, after = patch.frozen[:place], patch.frozen[place + 1 :]
            patches = [Patch((*before, way, *after), patch.head) for way in ways]
            figures = [self._figure(changed, within) for changed in patches]
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
    sizes = {
        name: by_filter.reshape(len(by_filter), -1)
        .max(axis=1)
        .reshape(-1, *[1] * (mean[name].ndim - 1))
        for name, by_filter in spread.items()
    }
    shifted = [{name: mean[name] + factor * sizes[name] for name in mean} for factor in _SPREADS]
    wanted = [mean, zero_levels(sites), bias_levels(bench.working.survey, sites), *shifted]
    return [representable(bench.working.survey, levels) for levels in wanted]


def _constants(options: list[FilterMeans], frozen: FrozenFilter) -> Iterator[Constant]:
    """The constants to try for a filter, each once."""
    place = frozen.filter
    constants = [constant_of(levels[place.site][place.channel]) for levels in options]
    yield from (c for c in dict.fromkeys(constants) if c != frozen.constant)
