"""Repair a model: choose what to change, bake it, prove it, judge it and write it with its report.

This module composes the stages, which do not import each other. `CURES` lists every way to change a
model. A new one is a file in `cures` and an entry here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from onnx import ModelProto

from repairkit.core import attacked, errors, filters, results
from repairkit.core.process.stages import stage
from repairkit.core.suite import Indices, Suite
from repairkit.data.parts import CONFIRMATION_SHARE, split_selection, strata_of
from repairkit.engine.runner import OpenModel
from repairkit.formats import patch_file
from repairkit.graph import baking, metadata
from repairkit.graph.stored.model_files import digest_of
from repairkit.jobs.attack.adversary import check_attacks, judge_attacks
from repairkit.jobs.backdoor.planting import Planted, plant
from repairkit.jobs.backdoor.suspects import most_suspect
from repairkit.jobs.look.interpreting import repair_report
from repairkit.jobs.output import destination, signs_of_life
from repairkit.jobs.proof import beside, verifying
from repairkit.jobs.repair import baselines, confirming, judging, repair_settings, telling
from repairkit.jobs.repair.aims import marking, outcome, refit_safe
from repairkit.jobs.repair.cures import freezing, last_layer
from repairkit.jobs.repair.cures.supplies import FilterSupplies, Looks, Offer, Strategy, Supplies
from repairkit.jobs.repair.filter_values import FilterValues, Screening, conductance_by, find_values
from repairkit.jobs.repair.ladder import CureJudge
from repairkit.jobs.repair.objective import ChoosingCriterion, Objective, Wishes
from repairkit.jobs.repair.outlook import advice_before_scoring
from repairkit.jobs.repair.patched import Patched
from repairkit.jobs.repair.repair_settings import GRADIENT, PatchSettings, PatchTime, check_word
from repairkit.jobs.repair.top_of_run import check_run_of_top, filters_said
from repairkit.jobs.score.scoring import score_bench
from repairkit.jobs.setup.looking import looked_at, tell_reading
from repairkit.jobs.setup.preparing import opened_beside
from repairkit.jobs.setup.settings import Again
from repairkit.jobs.setup.subject import judging_the_model
from repairkit.jobs.setup.unjudged import prepare_unjudged
from repairkit.jobs.setup.workbench import Bench, Settings, Subject
from repairkit.repairs.crossfit import Folds
from repairkit.repairs.cure import BEST, ChosenPatch, Cure, FinalFigures, Remembered, Story

_PROOF_IMAGES = 64


CURES: tuple[Strategy, ...] = (
    freezing.FreezeFilters(),
    last_layer.MOVE_BIASES,
    last_layer.REFIT_LAST_LAYER,
)
"""Every way to change a model; of equal gains the earlier is taken."""


def check_repair(asked: PatchSettings) -> None:
    """Refuse a repair that is unknown, or that takes no value of a filter and is given some.

    Raises:
        SettingsError: it is one of these.
    """
    repair = repair_settings.wanted_repair(asked)
    check_word("--repair", repair, (*(strategy.name for strategy in CURES), BEST))
    if not _needs_values(repair) and (asked.scores or asked.level == "best"):
        raise errors.SettingsError(
            f"--repair {repair} freezes no filter; leave out --scores and --level best"
        )


def _needs_values(repair: str) -> bool:
    return any(one.needs_values for one in CURES if repair in (one.name, BEST))


@judging_the_model
def patch(
    subject: Subject,
    settings: Settings,
    asked: PatchSettings,
    *,
    out: Path,
    on_progress: signs_of_life.OnProgress = None,
) -> Patched:
    """Repair a model, or say why not and write nothing.

    Raises:
        TargetNotMetError: no change of the model is surely better than none.
        VerificationError: the result could not be proven; nothing is written.
        RepairkitError: anything else that the user can mend.
    """
    check_repair(asked)
    again = telling.patch_again(subject.file.path, settings, asked)
    asked = replace(asked, score=asked.score.begun())
    destination.check_place(subject.file, settings.data_file, out)
    settings = telling.with_the_runs_code(asked, settings)
    objective = asked.objective_of(repair_settings.metric_at_hand(asked, settings))
    settings = repair_settings.settled(settings, asked, objective)
    named = filters_said(asked, subject.file.digest)
    if named:
        bench = prepare_unjudged(subject, settings, sites={f.site for f in named})
    else:
        bench = refit_safe.narrowed(marking.prepare_marked(subject, settings, asked), asked)
    planted = plant(bench, asked.known, asked.score.deadline, asked.attacks.source)
    bench = bench if planted is None else planted.bench
    objective = repair_settings.check_wishes(bench, asked, objective)
    asked = marking.with_bounds(bench, asked, objective)
    source_is_used = asked.baselines or asked.score.method == GRADIENT
    if planted is None:
        check_attacks(bench, asked.attacks, baselines=source_is_used)
    bench = looked_at(
        bench,
        asked.score.deadline,
        thorough="told" if named else "doubt",
        go_on=bool(named),
    )
    if named:
        check_run_of_top(bench, asked)
        players = repair_settings.named_players(bench, named)
        refit_safe.check_named(bench, asked, players)
        tell_reading(bench.reading)
        chosen = repair_settings.patch_without_idle(bench, players)
    else:
        advice = advice_before_scoring(bench, asked, objective)
        try:
            chosen = choose_patch(bench, asked, objective, on_progress)
        except errors.TargetNotMetError as error:
            raise telling.with_hint(bench, asked, error, advice) from None
    after = again, planted
    return _finish(bench, chosen, asked, objective, out=out, on_progress=on_progress, after=after)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Choice:
    """A choice under way.

    Attributes:
        bench: the workbench.
        asked: the settings.
        wishes: what is to be improved.
        time: what is left, if there is a limit.
        on_progress: called now and then while filters are scored.
    """

    bench: Bench
    asked: PatchSettings
    wishes: Wishes
    time: PatchTime | None
    on_progress: signs_of_life.OnProgress

    def is_over(self) -> bool:
        """Whether to stop choosing, by the clock."""
        return self.time is not None and self.time.is_over(1)


def choose_patch(
    bench: Bench,
    asked: PatchSettings,
    objective: Objective,
    on_progress: signs_of_life.OnProgress,
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
    needs_values = _needs_values(repair_settings.wanted_repair(asked))
    why_part = repair_settings.why_a_part_confirms(bench, asked, needs_values=needs_values)
    given = "" if asked.confirm_share is None else "--confirm-share keeps images to confirm alone"
    plainly = "--choose plain judges by the images that chose" if asked.choose == "plain" else ""
    judging.require_test(bench, plainly or given or why_part)
    choice = _Choice(
        bench=bench,
        asked=asked,
        wishes=asked.wishes(objective, bench.accuracy if bench.n_classes else None),
        time=PatchTime.of(asked.score, bench),
        on_progress=on_progress,
    )
    if plainly:
        return _choose_plainly(choice)
    if not given and not why_part:
        chosen = _choose_by_all(choice, compare=compare)
        if chosen is not None:
            return chosen
        why_part = "its values cannot be solved anew for some of the images"
        judging.require_test(bench, why_part)
    return _choose_by_part(choice, asked.confirm_share or CONFIRMATION_SHARE, why_part)


def _choose_by_all(choice: _Choice, *, compare: bool) -> ChosenPatch | None:
    """Every image chooses and confirms; None where values cannot be solved for some images."""
    bench, repair = choice.bench, repair_settings.wanted_repair(choice.asked)
    suite = bench.parts.selection
    everyone = np.arange(len(suite))
    folds = confirming.draw_folds(suite.annotations, choice.wishes.n_folds, bench.settings.seed)
    values = _values(choice, suite)
    if values is not None and values.on(everyone) is None:
        return None
    offer = _offer(choice, values, scored=everyone, parts=folds.parts, folds=folds)
    judge = _cure_judge(choice, everyone, n_folds=folds.n_folds)
    chosen = confirming.confirm_by_all(judge, folds, offer, repair=repair)
    selection = dict(chosen.selection or {})
    if compare and not choice.is_over():
        with stage("judging simpler cures"):
            selection["cures"] = confirming.compare_cures(judge, folds, offer)
    if values is None:
        return replace(chosen, selection=selection)
    selection["passes"] = offer.passes(of_values=int(values.run.get("image_passes", 0)))
    return replace(chosen, scoring=values.run, selection=selection)


def _choose_by_part(choice: _Choice, share: float, why_part: str) -> ChosenPatch:
    """Some selection images choose, the others confirm.

    Args:
        choice: what is asked for.
        share: of the selection images, those that confirm.
        why_part: why not every image does both; empty where the user gave a share.
    """
    choice = replace(choice, wishes=replace(choice.wishes, share=share))
    bench, repair = choice.bench, repair_settings.wanted_repair(choice.asked)
    halves = split_selection(bench.parts.selection, share, bench.settings.seed)
    within, others = halves.positions
    values = _values(choice, halves.choosing)
    offer = _offer(choice, values, scored=within, parts=(within, others))
    judge = _cure_judge(choice, others, n_folds=0)
    chosen = confirming.confirm_by_part(judge, halves.positions, offer, repair=repair)
    # A run may have been scored on all selection images, those that confirm among them.
    part = None if values is None else values.run.get("scored_on", {}).get("part")
    saw = part not in (None, "choosing")
    note = (
        f"{share:.0%} of the selection images confirmed and the others chose ({why_part}); "
        "with --method repair every image does both"
    )
    return replace(
        chosen,
        scoring=None if values is None else values.run,
        selection={**(chosen.selection or {}), "scores_saw_confirmation": saw},
        saw_confirmation=saw,
        notes=(*chosen.notes, note) if why_part else chosen.notes,
    )


def _choose_plainly(choice: _Choice) -> ChosenPatch:
    values = _values(choice, choice.bench.parts.selection)
    assert values is not None
    chosen = baselines.choose_by_ranking(
        choice.bench,
        choice.asked,
        choice.wishes.objective,
        values.harm.signs[0] * values.harm.values[:, 0],
        is_over=choice.is_over,
    )
    return replace(chosen, scoring=values.run)


def _values(choice: _Choice, suite: Suite) -> FilterValues | None:
    """Values of all filters on a suite; None where no filter is to be frozen."""
    asked, time = choice.asked, choice.time
    if not _needs_values(repair_settings.wanted_repair(asked)):
        return None
    return find_values(
        choice.bench,
        choice.wishes.objective,
        suite,
        run=asked.scores,
        score=asked.score if time is None else time.for_scoring(asked.score),
        source=asked.attacks.source,
        score_filters=partial(score_bench, on_progress=choice.on_progress),
    )


def _offer(
    choice: _Choice,
    values: FilterValues | None,
    *,
    scored: Indices,
    parts: Sequence[Indices],
    folds: Folds | None = None,
) -> Offer:
    """What the model can take.

    Args:
        choice: what is asked for.
        values: of the filters; None where no filter is to be frozen.
        scored: positions of the scored images among those of the selection part.
        parts: positions of the images on which a choice needs answers together.
        folds: of the cross-confirmation.
    """
    bench, suite = choice.bench, choice.bench.parts.selection
    of_filters = None if values is None else _filter_supplies(choice, values, scored, parts)
    plain = bench.working.run_plain(suite) if of_filters is None else of_filters.looks.plain
    criterion = ChoosingCriterion(
        wishes=choice.wishes,
        metrics=bench.metrics,
        form=bench.form,
        annotations=suite.annotations,
        plain=plain,
    )
    supplies = Supplies(
        strata=strata_of(suite.annotations),
        twins=attacked.twins_of(suite.annotations),
        folds=folds,
        filters=of_filters,
    )
    cures: dict[str, Cure] = {}
    reasons: dict[str, str] = {}
    for strategy in CURES:
        if strategy.needs_values and of_filters is None:
            continue
        try:
            refit_safe.check_cure(bench, choice.asked, strategy.name)
            cures[strategy.name] = Remembered(strategy.cure(bench, criterion, supplies))
        except errors.ModelError as error:
            reasons[strategy.name] = str(error)
    return Offer(cures=cures, reasons=reasons, plain=plain, filters=of_filters)


def _filter_supplies(
    choice: _Choice, values: FilterValues, scored: Indices, parts: Sequence[Indices]
) -> FilterSupplies:
    """What cures that freeze filters need; see `_offer`."""
    bench, objective, time = choice.bench, choice.wishes.objective, choice.time
    suite = bench.parts.selection
    looks = Looks(
        bench.working.game(suite, bench.metrics((objective.metric,))).evaluator,
        n_players=len(bench.roster),
        n_images=len(suite),
        parts=parts,
        rows_at_once=None if time is None else time.rows_at_once(len(suite)),
    )
    screen = Screening(bench, values, objective, looks.plain, scored)
    backdoor = choice.asked.known.backdoor
    return FilterSupplies(
        looks=looks,
        screen=replace(screen, further=most_suspect(bench)) if backdoor else screen,
        best_levels=choice.asked.level == "best",
        is_over=choice.is_over,
    )


def _cure_judge(choice: _Choice, within: Indices, *, n_folds: int) -> CureJudge:
    """What cures are judged by, on the selection images at the positions `within`."""
    bench, wishes = choice.bench, choice.wishes
    return CureJudge(
        wishes=wishes,
        metrics=bench.metrics,
        reported=wishes.told_names(bench.accuracy if bench.n_classes else None),
        form=bench.form,
        annotations=bench.parts.selection.annotations.take(within),
        n_folds=n_folds,
        seed=bench.settings.seed,
    )


def _finish(
    bench: Bench,
    chosen: ChosenPatch,
    asked: PatchSettings,
    objective: Objective,
    *,
    out: Path,
    on_progress: signs_of_life.OnProgress,
    after: tuple[Again, Planted | None],
) -> Patched:
    """Bake, prove, judge once on the test part, and write."""
    (again, planted), (draft, model) = after, _bake(bench, chosen.patch)
    refit_safe.check_edits(asked, draft.edits)
    patched = opened_beside(bench, model)
    verified = _prove(bench, draft, model, patched)
    final = judging.final_figures(bench, chosen, patched, objective.metric)
    name = None if bench.unjudged else objective.metric
    story = telling.patch_story(bench, asked, chosen, name, final, verified, model)
    story |= outcome.aims_story(bench, asked, objective, final, (model, patched))
    if asked.baselines:
        n_frozen = len(chosen.patch)
        rows, note = _beside_baselines(bench, asked, objective, final, n_frozen, on_progress)
        story |= {"baselines": rows, "notes": [*story["notes"], note]}
    if planted is not None:
        story |= {"backdoor": planted.story, "attacks": planted.rows(patched)}
    elif attacked.is_attacked(bench.dataset.annotations) and not bench.unjudged:
        story["attacks"] = judge_attacks(bench, patched, draft, asked.attacks)
    story = destination.Places.here().cleaned(story | {"again": again.to_json()})
    file = replace(draft, result_digest=digest_of(model), story=story)
    written = _write(bench, file, model, out)
    return Patched(
        out=out,
        patch_file=written.patch_file,
        report_file=written.report,
        patch=chosen.patch,
        verified=verified,
        promise=chosen.promise,
        objective=name,
        before=final.before,
        after=final.after,
        change=final.change,
        document=story,
    )


def _prove(
    bench: Bench, draft: patch_file.PatchFile, model: ModelProto, patched: OpenModel
) -> results.Verified:
    """The proof that the baked model computes what the masked original does."""
    calibration = bench.parts.calibration
    first = np.arange(min(_PROOF_IMAGES, len(calibration)))
    return verifying.prove_patch(
        bench.subject,
        bench.original,
        draft.patch,
        baking.Baked(model, draft.edits),
        opened=patched,
        images=calibration.batch(first) if len(calibration) else None,
        feeds=calibration.feeds(first),
    )


def _beside_baselines(
    bench: Bench,
    asked: PatchSettings,
    objective: Objective,
    final: FinalFigures,
    n_frozen: int,
    on_progress: signs_of_life.OnProgress,
) -> tuple[list[Story] | None, str]:
    """The rows of the report's `baselines`, None where no time is left, and a note on them."""
    time = PatchTime.of(asked.score, bench)
    if time is not None and time.is_over(baselines.RANDOM_DRAWS):
        return None, "baselines were left out: the time limit was reached"
    return baselines.with_baselines(
        bench,
        asked,
        objective,
        final,
        n_frozen=n_frozen,
        score_filters=partial(score_bench, on_progress=on_progress),
        conductance=conductance_by(asked.attacks.source, objective),
    )


@stage("baking")
def _bake(bench: Bench, patch: filters.Patch) -> tuple[patch_file.PatchFile, ModelProto]:
    """The patch file but for its result and story, and the model with its claim in it."""
    subject, settings = bench.subject, bench.settings
    baked = baking.bake(bench.original, patch)
    draft = patch_file.PatchFile(
        patch=patch,
        edits=baked.edits,
        source_digest=subject.file.digest,
        result_digest="",
        sites_at=settings.sites_at,
        include=settings.include,
        output=None if bench.all_outputs else subject.output,
        layout=verifying.layout_of(subject.file),
    )
    metadata.write_claims(
        baked.model, [*metadata.read_claims(subject.model), verifying.sign_claim(draft.claim())]
    )
    return draft, baked.model


@stage("writing")
def _write(
    bench: Bench, file: patch_file.PatchFile, model: ModelProto, out: Path
) -> destination.Companions:
    """The model, and all that tells of it."""
    source, places = bench.subject.file, destination.Companions.of(out)
    path_of = destination.Places.here().relative
    report = {
        "schema": 1,
        "kind": "repairkit report",
        **file.story,
        "patch": file.claim(),
        "patch_digest": file.digest,
        "source": {"path": path_of(source.path), "digest": source.digest},
        "result": {"path": path_of(out), "digest": file.result_digest},
    }
    texts = repair_report(bench, report, file.patch, places)
    # The user may have put something there meanwhile.
    destination.check_place(source, bench.settings.data_file, out)
    beside.write_repair(model, out, source=source, file=file, report=report, texts=texts)
    return places
