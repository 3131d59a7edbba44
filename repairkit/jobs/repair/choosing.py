"""Choose a cure, confirm it by images that did not choose it, or decline.

`CURES` lists every way to change a model. A new one is a file in `cures` and an entry here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np

from repairkit.core.attacked import twins_of
from repairkit.core.errors import ModelError, SettingsError, TargetNotMetError
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Indices, Suite
from repairkit.data.strata import CONFIRMATION_SHARE, split_selection, strata_of
from repairkit.jobs.output.signs_of_life import OnProgress
from repairkit.jobs.repair.comparison.plain_recipe import choose_by_ranking
from repairkit.jobs.repair.confirming import (
    Judge,
    compare_cures,
    confirm,
    cross_fit,
    draw_folds,
    not_sure,
)
from repairkit.jobs.repair.criterion import ChoosingCriterion
from repairkit.jobs.repair.cures.freezing import FreezeFilters
from repairkit.jobs.repair.cures.last_layer import MoveBiases, RefitLastLayer
from repairkit.jobs.repair.cures.supplies import FilterSupplies, Looks, Offer, Supplies
from repairkit.jobs.repair.filter_values import (
    FilterValues,
    Screening,
    can_be_solved_anew,
    find_values,
)
from repairkit.jobs.repair.judging import require_test
from repairkit.jobs.repair.objective import Limit, Objective, Wishes
from repairkit.jobs.repair.repair_settings import PatchSettings, PatchTime, check_word
from repairkit.jobs.setup.workbench import Bench
from repairkit.repairs.crossfit import Folds
from repairkit.repairs.cure import BEST, ChosenPatch, Cure, Nothing, Remembered


class Strategy(Protocol):
    """A way to change models: the door through which a cure comes in."""

    @property
    def name(self) -> str:
        """As `--repair` names it."""
        ...

    @property
    def needs_values(self) -> bool:
        """Whether it freezes filters that their values single out (`Supplies.filters`)."""
        ...

    def cure(self, bench: Bench, criterion: ChoosingCriterion, supplies: Supplies) -> Cure:
        """The cure for a workbench's model.

        Raises:
            ModelError: why this model cannot be changed so, in one line.
        """
        ...


CURES: tuple[Strategy, ...] = (FreezeFilters(), MoveBiases(), RefitLastLayer())
"""Every way to change a model; of equal gains the earlier is taken."""


def check_repair(asked: PatchSettings) -> None:
    """Refuse a repair that is unknown, or that takes no value of a filter and is given some.

    Raises:
        SettingsError: it is one of these.
    """
    check_word("--repair", asked.repair, (*(strategy.name for strategy in CURES), BEST))
    if not _needs_values(asked.repair) and (asked.scores or asked.level == "best"):
        raise SettingsError(
            f"--repair {asked.repair} freezes no filter; leave out --scores and --level best"
        )


def _needs_values(repair: str) -> bool:
    return any(one.needs_values for one in CURES if repair in (one.name, BEST))


def choose_patch(
    bench: Bench,
    asked: PatchSettings,
    objective: Objective,
    on_progress: OnProgress,
    *,
    compare: bool = True,
) -> ChosenPatch:
    """Choose how to change the model.

    Args:
        bench: the workbench.
        asked: the settings.
        objective: what is to be improved.
        on_progress: called now and then while filters are scored.
        compare: put the other cures beside the chosen one.

    Raises:
        TargetNotMetError: nothing can be promised.
        RunFolderError: the run is about something else.
    """
    check_repair(asked)
    why_part = _why_a_part_confirms(bench, asked)
    given = "" if asked.confirm_share is None else "--confirm-share keeps images to confirm alone"
    plainly = "--choose plain judges by the images that chose" if asked.choose == "plain" else ""
    require_test(bench, plainly or given or why_part)
    if asked.choose == "plain":
        return _choose_plainly(bench, asked, objective, on_progress)
    wishes = Wishes(
        objective=objective,
        limits=(Limit(bench.accuracy, asked.max_drop),) if bench.n_classes else (),
        targets=asked.targets,
        search=asked.search,
        share=asked.confirm_share,
        max_group_drop=asked.max_group_drop,
        promise=asked.promise,
    )
    if wishes.share is None and not why_part:
        chosen = _choose_by_all(bench, asked, wishes, on_progress, compare)
        if chosen is not None:
            return chosen
        why_part = "its values cannot be solved anew for some of the images"
        require_test(bench, why_part)
    share = CONFIRMATION_SHARE if wishes.share is None else wishes.share
    chosen = _choose_by_part(bench, asked, replace(wishes, share=share), share, on_progress)
    if not why_part:
        return chosen
    note = (
        f"{share:.0%} of the selection images confirmed and the others chose ({why_part}); "
        "with --method repair every image does both"
    )
    return replace(chosen, notes=(*chosen.notes, note))


def _why_a_part_confirms(bench: Bench, asked: PatchSettings) -> str:
    """Why not every image can choose and confirm; empty where it can."""
    if asked.confirm_share is not None:
        return ""
    if asked.scores is not None:
        return "the values come from a run folder"
    if not _needs_values(asked.repair):
        return ""
    if not can_be_solved_anew(asked.score.method):
        return f"the values of {asked.score.method} cannot be solved anew for some of the images"
    if any(not metric.per_image for metric in bench.metrics(bench.metric_names)):
        return "its metric judges images together"
    return ""


def _offer(
    bench: Bench,
    asked: PatchSettings,
    wishes: Wishes,
    values: FilterValues | None,
    *,
    time: PatchTime | None,
    scored: Indices,
    parts: Sequence[Indices],
    folds: Folds | None = None,
) -> Offer:
    """What the model can take.

    Args:
        bench: the workbench.
        asked: the settings.
        wishes: what is to be improved.
        values: of the filters; None where no filter is to be frozen.
        time: what is left, if there is a limit.
        scored: positions of the scored images among those of the selection part.
        parts: positions of the images on which a choice needs answers together.
        folds: of the cross-confirmation.
    """
    suite, filters = bench.parts.selection, None
    if values is None:
        plain = bench.working.run_plain(suite)
    else:
        looks = _looks(bench, wishes.objective, time, parts)
        plain = looks.plain
        filters = FilterSupplies(
            looks=looks,
            screen=Screening(bench, values, wishes.objective, plain, scored),
            best_levels=asked.level == "best",
            is_over=_never if time is None else partial(time.is_over, 1),
        )
    criterion = ChoosingCriterion(
        wishes=wishes,
        metrics=bench.metrics,
        form=bench.form,
        annotations=suite.annotations,
        plain=plain,
    )
    supplies = Supplies(
        strata=strata_of(suite.annotations),
        twins=twins_of(suite.annotations),
        folds=folds,
        filters=filters,
    )
    cures: dict[str, Cure] = {}
    reasons: dict[str, str] = {}
    for strategy in CURES:
        if strategy.needs_values and filters is None:
            continue
        try:
            cures[strategy.name] = Remembered(strategy.cure(bench, criterion, supplies))
        except ModelError as error:
            reasons[strategy.name] = str(error)
    return Offer(cures=cures, reasons=reasons, plain=plain, filters=filters)


def _looks(
    bench: Bench, objective: Objective, time: PatchTime | None, parts: Sequence[Indices]
) -> Looks:
    suite = bench.parts.selection
    game = bench.working.game(suite, bench.metrics((objective.metric,)))
    return Looks(
        game.evaluator,
        n_players=len(bench.roster),
        n_images=len(suite),
        parts=parts,
        rows_at_once=None if time is None else time.rows_at_once(len(suite)),
    )


def _never() -> bool:
    return False


def _judge(bench: Bench, wishes: Wishes, within: Indices, *, n_folds: int) -> Judge:
    """What cures are judged by, on the selection images at the positions `within`."""
    return Judge(
        wishes=wishes,
        metrics=bench.metrics,
        told=wishes.told_names(bench.accuracy if bench.n_classes else None),
        form=bench.form,
        annotations=bench.parts.selection.annotations.take(within),
        n_folds=n_folds,
        seed=bench.settings.seed,
    )


def _choose_by_all(
    bench: Bench, asked: PatchSettings, wishes: Wishes, on_progress: OnProgress, compare: bool
) -> ChosenPatch | None:
    """Every image chooses and confirms; None where values cannot be solved for some images."""
    suite = bench.parts.selection
    everyone = np.arange(len(suite))
    folds = draw_folds(suite.annotations, wishes.n_folds, bench.settings.seed)
    time, values = PatchTime.of(asked.score, bench), None
    if _needs_values(asked.repair):
        values = _values(bench, asked, wishes.objective, suite, time, on_progress)
        if values.on(everyone) is None:
            return None
    offer = _offer(
        bench, asked, wishes, values, time=time, scored=everyone, parts=folds.parts, folds=folds
    )
    judge = _judge(bench, wishes, everyone, n_folds=folds.n_folds)
    cure = offer.wanted(asked.repair)
    chosen = confirm_by_all(judge, folds, cure, offer.plain, repair=asked.repair)
    selection = dict(chosen.selection or {})
    if compare and (time is None or not time.is_over(1)):
        with stage("judging simpler cures"):
            selection["cures"] = compare_cures(
                offer.cures,
                offer.reasons,
                judge=judge,
                folds=folds,
                plain=offer.plain,
                lowest=asked.promise,
            )
    if values is None:
        return replace(chosen, selection=selection)
    selection["passes"] = offer.passes(of_values=int(values.run.get("image_passes", 0)))
    return replace(chosen, scoring=values.run, selection=selection)


def _choose_by_part(
    bench: Bench, asked: PatchSettings, wishes: Wishes, share: float, on_progress: OnProgress
) -> ChosenPatch:
    """Some selection images choose, the others confirm."""
    halves = split_selection(bench.parts.selection, share, bench.settings.seed)
    within, others = halves.positions
    time, values = PatchTime.of(asked.score, bench), None
    if _needs_values(asked.repair):
        values = _values(bench, asked, wishes.objective, halves.choosing, time, on_progress)
    offer = _offer(bench, asked, wishes, values, time=time, scored=within, parts=(within, others))
    judge = _judge(bench, wishes, others, n_folds=0)
    cure = offer.wanted(asked.repair)
    chosen = confirm_by_part(judge, halves.positions, cure, offer.plain, repair=asked.repair)
    # A run may have been scored on all selection images, those that confirm among them.
    part = None if values is None else values.run.get("scored_on", {}).get("part")
    saw = part not in (None, "choosing")
    selection = {**(chosen.selection or {}), "scores_saw_confirmation": saw}
    scoring = None if values is None else values.run
    return replace(chosen, scoring=scoring, selection=selection, saw_confirmation=saw)


def _values(
    bench: Bench,
    asked: PatchSettings,
    objective: Objective,
    suite: Suite,
    time: PatchTime | None,
    on_progress: OnProgress,
) -> FilterValues:
    return find_values(
        bench,
        objective,
        suite,
        run=asked.scores,
        score=asked.score if time is None else time.for_scoring(asked.score),
        source=asked.attacks.source,
        on_progress=on_progress,
    )


def _choose_plainly(
    bench: Bench, asked: PatchSettings, objective: Objective, on_progress: OnProgress
) -> ChosenPatch:
    time = PatchTime.of(asked.score, bench)
    values = _values(bench, asked, objective, bench.parts.selection, time, on_progress)
    chosen = choose_by_ranking(
        bench,
        values.harm.signs[0] * values.harm.values[:, 0],
        objective,
        at_most=asked.at_most,
        max_drop=asked.max_drop,
        max_group_drop=asked.max_group_drop,
        is_over=_never if time is None else partial(time.is_over, 1),
    )
    return replace(chosen, scoring=values.run)


@stage("choosing")
def confirm_by_all(
    judge: Judge, folds: Folds, cure: Cure, plain: Array, *, repair: str
) -> ChosenPatch:
    """Every image chooses and every image confirms; see `confirming`.

    Args:
        judge: of all selection images.
        folds: of the selection images.
        cure: the way to change the model.
        plain: the outputs for the selection images as the model is.
        repair: what was asked for.

    Raises:
        TargetNotMetError: there is nothing to gain, or not surely enough.
    """
    wishes, n_images = judge.wishes, len(judge.annotations)
    fitted = cross_fit(cure, folds, plain)
    story = {
        **wishes.opening(n_images, n_images, judge.seed),
        "repair": repair,
        **fitted.whole.story,
        "folds": fitted.fold_rows(wishes.search.at_most),
    }
    if isinstance(fitted.whole, Nothing):
        raise _declined(fitted.whole.reason, story, judge, plain)
    with stage("confirming"):
        confirmed = confirm(fitted, judge)
    verdict, n_steps = confirmed.verdict, confirmed.n_steps
    shipped = fitted.whole.first(n_steps)
    story |= {
        **verdict.rows(wishes, confirmed.looks),
        "cure": shipped.name,
        "folds": fitted.fold_rows(n_steps),
        "stability": fitted.stability(n_steps),
        "unstable": fitted.unstable(n_steps),
    }
    if verdict.refusal is not None or verdict.best(wishes.promise) is None:
        reason = verdict.why_not(wishes)
        if verdict.refusal is not None:
            reason = f"on images that did not choose, {verdict.refusal.reason}"
        reason = f"{shipped.words} is best on all selection images, but {reason}"
        raise _declined(reason, story, judge, plain)
    return ChosenPatch(
        patch=shipped.patch,
        promise=verdict.changes[wishes.objective.metric],
        selection=story,
        outputs=(plain, confirmed.answers),
        n_folds=wishes.n_folds,
        n_confirmations=confirmed.looks,
    )


@stage("choosing")
def confirm_by_part(
    judge: Judge, positions: tuple[Indices, Indices], cure: Cure, plain: Array, *, repair: str
) -> ChosenPatch:
    """Some selection images choose, the others confirm and have no part in the choice.

    Args:
        judge: of the images that confirm.
        positions: of the images that choose, and of those that confirm.
        cure: the way to change the model.
        plain: the outputs for all selection images as the model is.
        repair: what was asked for.

    Raises:
        TargetNotMetError: there is nothing to gain, or not surely enough.
    """
    wishes, (within, others) = judge.wishes, positions
    before = plain[others]
    story = {**wishes.opening(len(within), len(others), judge.seed), "repair": repair}
    whole = cure.on(within)
    story |= whole.story
    if isinstance(whole, Nothing):
        raise _declined(whole.reason, story, judge, before)
    first = ""
    for looks, n_steps in enumerate(range(whole.n_steps, 0, -1), 1):
        cured = whole.first(n_steps)
        with stage("confirming"):
            verdict = judge.judge(before, cured.outputs[others])
        if not first:
            story |= verdict.rows(wishes, looks)
        chance, refusal = not_sure(wishes.objective, verdict.changes), verdict.refusal
        if not chance and refusal is None:
            return ChosenPatch(
                patch=cured.patch,
                promise=verdict.changes[wishes.objective.metric],
                selection={**story, **verdict.rows(wishes, looks), "cure": cured.name},
                n_confirmations=looks,
            )
        reason = chance or ("" if refusal is None else refusal.reason)
        first = first or (
            f"{cured.words} was best on the {len(within)} images that chose, but on the "
            f"{len(others)} that confirm {reason}; more selection images may tell"
        )
        # A smaller change costs less and gains less: only a broken limit leads to one.
        if chance or (refusal is not None and not refusal.costs_too_much):
            break
    story["confirmation_looks"] = looks
    if looks > 1:
        first += f" ({looks - 1} smaller sets on the way there were not borne out either)"
    raise _declined(first, story, judge, before)


def _declined(
    reason: str, story: Mapping[str, object], judge: Judge, plain: Array
) -> TargetNotMetError:
    """The error, with the targets that the model meets already.

    Args:
        reason: why there is no repair.
        story: how the choice went so far.
        judge: of the images that confirm.
        plain: the outputs for them as the model is.
    """
    targets = judge.wishes.targets
    met = [str(target) for target in targets if target.met(judge.value(target.metric, plain))]
    if met:
        reason += f"; as it is, the model meets {' and '.join(met)} on them"
    document = {**story, "declined": reason}
    return TargetNotMetError(f"no repair: {reason}; nothing was written", document)
