"""The cure that freezes filters: screened by their values, then searched for jointly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from repairkit.core.filters import Roster
from repairkit.core.suite import Indices
from repairkit.jobs.repair.cures.partial_freezing import BestLevels, PartialFreezing
from repairkit.jobs.repair.cures.supplies import FilterSupplies, Supplies
from repairkit.jobs.repair.objective import ChoosingCriterion, figures_of
from repairkit.jobs.setup.workbench import Bench
from repairkit.repairs import (
    Bound,
    Cure,
    Cured,
    Folds,
    Frozen,
    Nothing,
    Screened,
    Search,
    Step,
    Story,
    assign_folds,
    make_patch,
)

_FOLDS = 2  # a stream of the seed

Figures = Mapping[frozenset[int], Mapping[str, float]]
"""Metrics by the set of players that is frozen."""


@dataclass(frozen=True)
class FreezeFilters:
    """See `choosing.Strategy`: freezing filters, at the best of several levels where asked for."""

    name: str = "freeze"
    needs_values: bool = True

    def cure(self, bench: Bench, criterion: ChoosingCriterion, supplies: Supplies) -> Cure:
        """See `choosing.Strategy`."""
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
    """See `repairs.Cure`.

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
        """See `repairs.Cure`."""
        rng = np.random.default_rng([self.bench.settings.seed, _FOLDS])
        folds, settings = self._folds(within, rng), self.criterion.wishes.search
        screened = self._screened(folds)
        search = Search(
            answer=self.filters.looks,
            criterion=self.criterion,
            folds=folds,
            settings=settings,
            rng=rng,
            is_over=self.filters.is_over,
        )
        self.filters.searches.append(search)
        path = search.run(screened)
        story = self._story(search, path, screened, within)
        if len(path) == 1:
            return Nothing(self._why_nothing(search, screened, within), story)
        steps = [self._cured(frozen, search, story) for frozen in path[1:]]
        return replace(steps[-1], fewer=tuple(steps[:-1]))

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
        metrics = self.bench.metrics(self.criterion.wishes.told_names(accuracy))
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
        if search.best_objected is None:
            return ""
        frozen, objection = search.best_objected
        names = " and ".join(self.bench.roster.filters[player].id for player in frozen)
        return f"; freezing {names} would do better, but {objection}"


def _gain(search: Search) -> Bound:
    """The gains of the steps taken, added up; the bounds likewise."""
    taken = [step.gain for step in search.steps if step.kept and step.gain is not None]
    return Bound(sum(g.value for g in taken), sum(g.low for g in taken))


def _steps(steps: Sequence[Step], roster: Roster, figures: Figures) -> list[dict[str, Any]]:
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
