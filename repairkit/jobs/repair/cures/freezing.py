"""The cure that freezes filters: screened by their values, then searched jointly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.patch import Patch
from repairkit.core.suite import Indices
from repairkit.jobs.repair.cures.criterion import ChoosingCriterion
from repairkit.jobs.repair.cures.cures import Cured, Nothing
from repairkit.jobs.repair.cures.looks import Looks
from repairkit.jobs.repair.selection_story import figures_of, told_steps, told_trade_off
from repairkit.jobs.setup.bench import Bench
from repairkit.repairs import (
    Bound,
    Folds,
    Frozen,
    Screened,
    Search,
    SearchSettings,
    assign_folds,
    make_patch,
)

_FOLDS = 2  # a stream of the seed

Screen = Callable[[Indices], tuple[int, ...]]
"""Positions of selection images to the players that their values say do harm, most surely first."""

Refine = Callable[[Patch, Indices], tuple[Patch, Array]]
"""A patch with constants chosen anew by the images at some positions, and its outputs for all."""


@dataclass(frozen=True, eq=False)
class Freezing:
    """See `cures.Cure`.

    Attributes:
        bench: the workbench.
        criterion: what to improve, on all selection images.
        looks: the outputs with sets frozen.
        screen: who may be frozen.
        settings: of the search.
        strata: of each selection image, (n_images,).
        twins: see `assign_folds`.
        seed: of folds and resamples.
        folds: of the cross-confirmation. A choice on the images of some of them cross-fits over
            just these, so that few sets of images need values of their own. Drawn anew if None.
        told: metrics whose figures the report tells of every set.
        over: whether a search is to end; asked with the number of searches begun.
        refine: sets constants anew; None keeps them.
    """

    bench: Bench
    criterion: ChoosingCriterion
    looks: Looks
    screen: Screen
    settings: SearchSettings
    strata: NDArray[np.int64]
    twins: NDArray[np.intp] | None
    seed: int
    told: tuple[str, ...]
    folds: Folds | None = None
    over: Callable[[int], bool] = lambda _: False
    refine: Refine | None = None
    searches: list[Search] = field(default_factory=list)
    name: str = "freeze"

    def on(self, within: Indices) -> Cured | Nothing:
        """See `cures.Cure`."""
        rng = np.random.default_rng([self.seed, _FOLDS])
        folds = None if self.folds is None else self.folds.among(within)
        folds = folds or assign_folds(
            self.strata, self.settings.n_folds, rng, within=within, twins=self.twins
        )
        screened = self._screened(folds)
        number = len(self.searches) + 1
        search = Search(
            self.looks,
            self.criterion,
            folds,
            self.settings,
            rng,
            out_of_time=lambda _: self.over(number),
        )
        self.searches.append(search)
        path = search.run(screened)
        story = self._story(search, path, screened, within)
        if len(path) == 1:
            return Nothing(self._nothing(search, screened, within), story)
        steps = [self._cured(frozen, search, story) for frozen in path[1:]]
        last = steps[-1]
        if self.refine is not None:
            patch, outputs = self.refine(last.patch, within)
            last = Cured(patch, outputs, last.gain, story, self.name)
        return Cured(last.patch, last.outputs, last.gain, story, self.name, fewer=tuple(steps[:-1]))

    def _screened(self, folds: Folds) -> Screened:
        overall = self.screen(folds.everyone)
        return Screened.of(overall, [self.screen(rest) for rest in folds.rest])

    def _cured(self, frozen: Frozen, search: Search, story: dict[str, Any]) -> Cured:
        bench = self.bench
        patch = make_patch(np.array(frozen, np.intp), bench.roster, bench.working.levels)
        return Cured(patch, self.looks.of(frozen), _gain(search), story, self.name)

    def _story(
        self, search: Search, path: tuple[Frozen, ...], screened: Screened, within: Indices
    ) -> dict[str, Any]:
        """How the choice was made; figures of the trade-off are of all selection images."""
        tried = [step.frozen for step in search.steps if step.gain is not None]
        ways = sorted(dict.fromkeys([*path, *tried]), key=len)
        about = self.criterion.annotations
        metrics = self.bench.metrics(self.told)
        on_all, on_choosing = {}, {}
        for frozen in ways:
            outputs = self.looks.of(frozen)
            on_all[frozenset(frozen)] = figures_of(metrics, outputs, about)
            on_choosing[frozenset(frozen)] = figures_of(
                metrics, outputs[within], about.take(within)
            )
        roster = self.bench.roster
        return {
            "candidates": len(screened.players),
            "looks": search.n_looks,
            "steps": told_steps(search.steps, roster, on_choosing),
            "trade_off": told_trade_off(ways, path, roster, on_all),
        }

    def _nothing(self, search: Search, screened: Screened, within: Indices) -> str:
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
