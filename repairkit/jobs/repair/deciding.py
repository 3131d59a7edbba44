"""Which filters a repair freezes: jointly or plainly, from fresh scores or an earlier run's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from repairkit.core.arrays import Array
from repairkit.core.attacked import twins_of
from repairkit.core.errors import SettingsError
from repairkit.core.patch import Figure, Patch
from repairkit.core.process.stages import stage
from repairkit.core.suite import Indices
from repairkit.jobs.output.progress import Progress
from repairkit.jobs.repair.confirm.choosing import (
    CONFIRMATION_SHARE,
    Wishes,
    choose_by_all,
    choose_by_part,
    draw_folds,
    judge_of,
    split_selection,
    strata_of,
    told_names,
)
from repairkit.jobs.repair.confirm.cure_table import compare_cures
from repairkit.jobs.repair.confirm.without_test import require_test
from repairkit.jobs.repair.cures.criterion import ChoosingCriterion
from repairkit.jobs.repair.cures.cures import BestCure, Cure, Remembered
from repairkit.jobs.repair.cures.freezing import Freezing
from repairkit.jobs.repair.cures.frozen_levels import BestLevels
from repairkit.jobs.repair.cures.head_cures import cures_of_head
from repairkit.jobs.repair.cures.looks import Looks
from repairkit.jobs.repair.objective import Limit, Objective
from repairkit.jobs.repair.patch_time import PatchTime
from repairkit.jobs.repair.plain_recipe import choose_patch, told_plainly, try_patches
from repairkit.jobs.repair.repair_settings import BEST, PatchSettings
from repairkit.jobs.repair.values.filter_values import (
    Screening,
    Values,
    can_be_solved_anew,
    find_values,
)
from repairkit.jobs.setup.bench import Bench
from repairkit.repairs import Folds

OnProgress = Callable[[Progress], None] | None


@dataclass(frozen=True)
class Made:
    """A patch and how it was chosen; no more than patch and notes where its filters were named.

    `outputs`: see `choosing.Chosen`.
    """

    patch: Patch
    promise: Figure | None = None
    scoring: Mapping[str, Any] | None = None
    selection: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    outputs: tuple[Array, Array] | None = None


def make_choice(
    bench: Bench,
    how: PatchSettings,
    objective: Objective,
    on_progress: OnProgress,
    *,
    compare: bool = True,
) -> Made:
    """Choose what to freeze.

    Args:
        bench: the workbench.
        how: the settings.
        objective: what is to be improved.
        on_progress: called now and then while filters are scored.
        compare: put the other cures beside the chosen one.

    Raises:
        TargetNotMetError: nothing can be promised.
        RunFolderError: the run is about something else.
    """
    why = _why_a_part_confirms(bench, how)
    given = "" if how.confirm_share is None else "--confirm-share keeps images to confirm alone"
    plainly = "--choose plain judges by the images that chose" if how.choose == "plain" else ""
    require_test(bench, plainly or given or why)
    if how.choose == "plain":
        return _choose_plainly(bench, how, objective, on_progress)
    limits = (Limit(bench.accuracy, how.max_drop),) if bench.n_classes else ()
    wishes = Wishes(
        objective=objective,
        limits=limits,
        targets=how.targets,
        search=how.search,
        share=how.confirm_share,
        max_group_drop=how.max_group_drop,
        promise=how.promise,
    )
    if wishes.share is None and not why:
        made = _choose_by_all(bench, how, wishes, on_progress, compare)
        if made is not None:
            return made
        why = "its values cannot be solved anew for some of the images"
        require_test(bench, why)
    share = CONFIRMATION_SHARE if wishes.share is None else wishes.share
    made = _choose_by_part(bench, how, replace(wishes, share=share), on_progress)
    if not why:
        return made
    note = (
        f"{share:.0%} of the selection images confirmed and the others chose ({why}); "
        "with --method repair every image does both"
    )
    return replace(made, notes=(*made.notes, note))


def _why_a_part_confirms(bench: Bench, how: PatchSettings) -> str:
    """Why not every image can choose and confirm; empty where it can."""
    if how.confirm_share is not None:
        return ""
    if how.scores is not None:
        return "the values come from a run folder"
    if not how.freezes:
        return ""
    if not can_be_solved_anew(how.score.method):
        return f"the values of {how.score.method} cannot be solved anew for some of the images"
    if any(not metric.per_image for metric in bench.metrics(bench.metric_names)):
        return "its metric judges images together"
    return ""


@dataclass(frozen=True, eq=False)
class _Ways:
    """The cures at hand by name, why there are no others, and what they rest on.

    `freezing` and `values` are None where no filter is to be frozen.
    """

    cures: dict[str, Cure]
    reasons: dict[str, str]
    plain: Array
    freezing: Freezing | None = None
    values: Values | None = None

    def wanted(self, repair: str) -> Cure:
        """The cure of that name.

        Raises:
            SettingsError: this model cannot be changed so.
        """
        if repair == BEST:
            return BestCure(tuple(self.cures.values()))
        if repair not in self.cures:
            reason = self.reasons[repair]
            raise SettingsError(f"--repair {repair} cannot be had with this model: {reason}")
        return self.cures[repair]

    @property
    def run(self) -> Mapping[str, Any] | None:
        """What the report tells of the scoring."""
        return None if self.values is None else self.values.run


def _choose_by_all(
    bench: Bench, how: PatchSettings, wishes: Wishes, on_progress: OnProgress, compare: bool
) -> Made | None:
    """Every image chooses and confirms; None where values cannot be solved for some images."""
    suite = bench.parts.selection
    folds = draw_folds(suite.annotations, wishes.n_folds, bench.settings.seed)
    time = PatchTime.of(how.score, bench)
    values = None
    if how.freezes:
        values = find_values(bench, _in_time(how, time), wishes.objective, suite, on_progress)
        if values.on(np.arange(len(suite))) is None:
            return None
    ways = _ways(bench, how, wishes, values, time, np.arange(len(suite)), folds)
    judge = judge_of(bench, wishes, suite.annotations, n_folds=folds.n_folds)
    cure, story = ways.wanted(how.repair), {"repair": how.repair}
    chosen = choose_by_all(wishes, judge, folds, cure, ways.plain, story)
    told = dict(chosen.story)
    if compare and (time is None or not time.is_over(1)):
        with stage("judging simpler cures"):
            told["cures"] = compare_cures(
                ways.cures,
                ways.reasons,
                judge=judge,
                folds=folds,
                plain=ways.plain,
                lowest=how.promise,
            )
    if ways.freezing is not None and ways.run is not None:
        told["passes"] = _passes(ways.run, ways.freezing)
    return Made(chosen.patch, chosen.promise, ways.run, told, outputs=chosen.outputs)


def _choose_by_part(
    bench: Bench, how: PatchSettings, wishes: Wishes, on_progress: OnProgress
) -> Made:
    assert wishes.share is not None
    halves = split_selection(bench, wishes.share)
    time, values = PatchTime.of(how.score, bench), None
    if how.freezes:
        values = find_values(
            bench, _in_time(how, time), wishes.objective, halves.choosing, on_progress
        )
    ways = _ways(bench, how, wishes, values, time, halves.positions[0])
    judge = judge_of(bench, wishes, halves.confirmation.annotations, n_folds=0)
    cure, story = ways.wanted(how.repair), {"repair": how.repair}
    chosen = choose_by_part(wishes, judge, halves, cure, ways.plain, story)
    # A run may have been scored on all selection images, those that confirm among them.
    seen = None if ways.run is None else ways.run.get("scored_on", {}).get("part")
    told = {**chosen.story, "scores_saw_confirmation": seen not in (None, "choosing")}
    return Made(chosen.patch, chosen.promise, ways.run, told)


def _ways(
    bench: Bench,
    how: PatchSettings,
    wishes: Wishes,
    values: Values | None,
    time: PatchTime | None,
    scored: Indices,
    folds: Folds | None = None,
) -> _Ways:
    """The cures that can be had.

    Args:
        bench: the workbench.
        how: the settings.
        wishes: what is to be improved.
        values: of the filters; None where no filter is to be frozen.
        time: what is left, if there is a limit.
        scored: positions of the scored images among those of the selection part.
        folds: of the cross-confirmation.
    """
    about, cures = bench.parts.selection.annotations, {}
    strata, twins = strata_of(about), twins_of(about)
    if values is None:
        freezing, plain = None, bench.working.run_plain(bench.parts.selection)
        criterion = _criterion(bench, wishes, plain)
    else:
        freezing = _freezing(bench, how, wishes, values, time, scored, folds)
        plain, criterion = freezing.looks.of(()), freezing.criterion
        cures[freezing.name] = Remembered(freezing)
    of_head, reasons = cures_of_head(bench, criterion, strata, twins)
    cures |= {cure.name: Remembered(cure) for cure in of_head}
    return _Ways(dict(cures), reasons, plain, freezing, values)


def _criterion(bench: Bench, wishes: Wishes, plain: Array) -> ChoosingCriterion:
    return ChoosingCriterion(
        wishes.objective,
        wishes.limits,
        wishes.targets,
        wishes.max_group_drop,
        bench.metrics,
        bench.form,
        bench.parts.selection.annotations,
        plain,
    )


def _freezing(
    bench: Bench,
    how: PatchSettings,
    wishes: Wishes,
    values: Values,
    time: PatchTime | None,
    scored: Indices,
    folds: Folds | None = None,
) -> Freezing:
    """The cure that freezes filters.

    Args:
        bench: the workbench.
        how: the settings.
        wishes: what is to be improved.
        values: of the filters.
        time: what is left, if there is a limit.
        scored: positions of the scored images among those of the selection part.
        folds: of the cross-confirmation.
    """
    suite = bench.parts.selection
    about, objective = suite.annotations, wishes.objective
    game = bench.working.game(suite, bench.metrics((objective.metric,)))
    rows = None if time is None else time.rows_at_once(len(suite))
    looks = Looks(
        game.evaluator, n_players=len(bench.roster), n_images=len(suite), rows_at_once=rows
    )
    plain = looks.of(())
    criterion = _criterion(bench, wishes, plain)
    names = told_names(bench, wishes)
    strata, twins = strata_of(about), twins_of(about)
    best = how.level == "best"
    refine = BestLevels(bench, criterion, strata, twins) if best else None
    return Freezing(
        bench,
        criterion,
        looks,
        Screening(bench, values, objective, plain, scored),
        wishes.search,
        strata,
        twins,
        bench.settings.seed,
        names,
        folds,
        over=lambda _: False if time is None else time.is_over(1),
        refine=refine,
    )


def _passes(run: Mapping[str, Any], freezing: Freezing) -> dict[str, int]:
    """Image passes: of the values, of one search on all images, and of all searches together."""
    n_images = freezing.looks.n_images
    first = freezing.searches[0].n_looks if freezing.searches else 0
    return {
        "values": int(run.get("image_passes", 0)),
        "one_search": first * n_images,
        "all_searches": freezing.looks.n_asked * n_images,
    }


def _choose_plainly(
    bench: Bench, how: PatchSettings, objective: Objective, on_progress: OnProgress
) -> Made:
    suite, name = bench.parts.selection, objective.metric
    time = PatchTime.of(how.score, bench)
    found = find_values(bench, _in_time(how, time), objective, suite, on_progress)
    game = bench.working.game(suite, bench.metrics((name,)))
    values = found.harm.signs[0] * found.harm.values[:, 0]
    trials = try_patches(bench, game, values, name, how.at_most, time=time)
    patch, promise = choose_patch(bench, game, trials, objective, how)
    return Made(patch, promise, found.run, told_plainly(trials, promise, name, len(suite)))


def _in_time(how: PatchSettings, time: PatchTime | None) -> PatchSettings:
    return how if time is None else replace(how, score=time.for_scoring(how.score))
