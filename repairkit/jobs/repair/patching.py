"""Repair a model: choose what to change, bake it, prove it, judge it and write it with its report.

This module composes the stages, which do not import each other. `CURES` lists every way to change a
model. A new one is a file in `cures` and an entry here.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from onnx import ModelProto

from repairkit.core import attacked, errors, results
from repairkit.core.filters import Patch
from repairkit.core.process.stages import stage
from repairkit.core.suite import Indices, Suite
from repairkit.data.parts import CONFIRMATION_SHARE, split_selection, strata_of
from repairkit.formats.documents import outputs
from repairkit.formats.patch_file import PatchFile, patch_file_text
from repairkit.graph.baking import Baked, bake
from repairkit.graph.metadata import read_claims, write_claims
from repairkit.graph.stored.model_files import add_model, digest_of
from repairkit.jobs.attack.adversary import check_attacks, judge_attacks
from repairkit.jobs.look.reporting import repair_report
from repairkit.jobs.output.destination import Companions, Places, check_place
from repairkit.jobs.output.signs_of_life import OnProgress
from repairkit.jobs.proof.verifying import layout_of, prove_patch, sign_claim
from repairkit.jobs.repair import confirming, filter_values, judging, patch_checks, telling
from repairkit.jobs.repair.comparison.baselines import RANDOM_DRAWS, with_baselines
from repairkit.jobs.repair.comparison.plain_recipe import choose_by_ranking
from repairkit.jobs.repair.cures.freezing import FreezeFilters
from repairkit.jobs.repair.cures.last_layer import MoveBiases, RefitLastLayer
from repairkit.jobs.repair.cures.supplies import FilterSupplies, Looks, Offer, Supplies
from repairkit.jobs.repair.filter_values import FilterValues, Screening
from repairkit.jobs.repair.ladder import CureJudge
from repairkit.jobs.repair.objective import ChoosingCriterion, Limit, Objective, Wishes
from repairkit.jobs.repair.repair_settings import GRADIENT, PatchSettings, PatchTime, check_word
from repairkit.jobs.score.scoring import score_bench
from repairkit.jobs.setup.looking import looked_at
from repairkit.jobs.setup.preparing import opened_beside, prepare
from repairkit.jobs.setup.settings import Again
from repairkit.jobs.setup.subject import judging_the_model
from repairkit.jobs.setup.unjudged import prepare_unjudged
from repairkit.jobs.setup.workbench import Bench, Settings, Subject
from repairkit.repairs.crossfit import Folds
from repairkit.repairs.cure import BEST, ChosenPatch, Cure, Remembered

_PROOF_IMAGES = 64


class Strategy(Protocol):
    """A way to change models."""

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
        raise errors.SettingsError(
            f"--repair {asked.repair} freezes no filter; leave out --scores and --level best"
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
    on_progress: OnProgress = None,
) -> results.Patched:
    """Repair a model, or say why not and write nothing.

    Raises:
        TargetNotMetError: no change of the model is surely better than none.
        VerificationError: the result could not be proven; nothing is written.
        RepairkitError: anything else that the user can mend.
    """
    check_repair(asked)
    again = patch_checks.patch_again(subject.file.path, settings, asked)
    asked = replace(asked, score=asked.score.begun())
    check_place(subject.file, settings.data, out)
    settings = patch_checks.with_the_runs_code(asked, settings)
    objective = asked.objective_of(patch_checks.metric_at_hand(asked, settings))
    settings = patch_checks.settled(settings, asked, objective)
    if asked.remove:
        bench = prepare_unjudged(subject, settings, sites={f.site for f in asked.remove})
    else:
        bench = prepare(subject, settings)
    objective = patch_checks.check_wishes(bench, asked, objective)
    source_is_used = asked.baselines or asked.score.method == GRADIENT
    check_attacks(bench, asked.attacks, baselines=source_is_used)
    bench = looked_at(
        bench,
        asked.score.deadline,
        thorough="told" if asked.remove else "doubt",
        go_on=bool(asked.remove),
    )
    if asked.remove:
        chosen = patch_checks.named_patch(bench, asked.remove)
    else:
        try:
            chosen = choose_patch(bench, asked, objective, on_progress)
        except errors.TargetNotMetError as error:
            raise telling.with_hint(bench, asked, error) from None
    return _finish(bench, chosen, asked, objective, out=out, on_progress=on_progress, again=again)


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
    why_part = patch_checks.why_a_part_confirms(
        bench, asked, needs_values=_needs_values(asked.repair)
    )
    given = "" if asked.confirm_share is None else "--confirm-share keeps images to confirm alone"
    plainly = "--choose plain judges by the images that chose" if asked.choose == "plain" else ""
    judging.require_test(bench, plainly or given or why_part)
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
        judging.require_test(bench, why_part)
    share = CONFIRMATION_SHARE if wishes.share is None else wishes.share
    chosen = _choose_by_part(bench, asked, replace(wishes, share=share), share, on_progress)
    if not why_part:
        return chosen
    note = (
        f"{share:.0%} of the selection images confirmed and the others chose ({why_part}); "
        "with --method repair every image does both"
    )
    return replace(chosen, notes=(*chosen.notes, note))


def _choose_by_all(
    bench: Bench, asked: PatchSettings, wishes: Wishes, on_progress: OnProgress, compare: bool
) -> ChosenPatch | None:
    """Every image chooses and confirms; None where values cannot be solved for some images."""
    suite = bench.parts.selection
    everyone = np.arange(len(suite))
    folds = confirming.draw_folds(suite.annotations, wishes.n_folds, bench.settings.seed)
    time, values = PatchTime.of(asked.score, bench), None
    if _needs_values(asked.repair):
        values = _values(bench, asked, wishes.objective, suite, time, on_progress)
        if values.on(everyone) is None:
            return None
    offer = _offer(
        bench, asked, wishes, values, time=time, scored=everyone, parts=folds.parts, folds=folds
    )
    judge = _cure_judge(bench, wishes, everyone, n_folds=folds.n_folds)
    cure = offer.wanted(asked.repair)
    chosen = confirming.confirm_by_all(judge, folds, cure, offer.plain, repair=asked.repair)
    selection = dict(chosen.selection or {})
    if compare and (time is None or not time.is_over(1)):
        with stage("judging simpler cures"):
            selection["cures"] = confirming.compare_cures(
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
    judge = _cure_judge(bench, wishes, others, n_folds=0)
    cure = offer.wanted(asked.repair)
    chosen = confirming.confirm_by_part(
        judge, halves.positions, cure, offer.plain, repair=asked.repair
    )
    # A run may have been scored on all selection images, those that confirm among them.
    part = None if values is None else values.run.get("scored_on", {}).get("part")
    saw = part not in (None, "choosing")
    selection = {**(chosen.selection or {}), "scores_saw_confirmation": saw}
    scoring = None if values is None else values.run
    return replace(chosen, scoring=scoring, selection=selection, saw_confirmation=saw)


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
        is_over=_is_over(time),
    )
    return replace(chosen, scoring=values.run)


def _values(
    bench: Bench,
    asked: PatchSettings,
    objective: Objective,
    suite: Suite,
    time: PatchTime | None,
    on_progress: OnProgress,
) -> FilterValues:
    return filter_values.find_values(
        bench,
        objective,
        suite,
        run=asked.scores,
        score=asked.score if time is None else time.for_scoring(asked.score),
        source=asked.attacks.source,
        score_filters=partial(score_bench, on_progress=on_progress),
    )


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
            is_over=_is_over(time),
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
        twins=attacked.twins_of(suite.annotations),
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
        except errors.ModelError as error:
            reasons[strategy.name] = str(error)
    return Offer(cures=cures, reasons=reasons, plain=plain, filters=filters)


def _looks(
    bench: Bench, objective: Objective, time: PatchTime | None, parts: Sequence[Indices]
) -> Looks:
    suite = bench.parts.selection
    return Looks(
        bench.working.game(suite, bench.metrics((objective.metric,))).evaluator,
        n_players=len(bench.roster),
        n_images=len(suite),
        parts=parts,
        rows_at_once=None if time is None else time.rows_at_once(len(suite)),
    )


def _is_over(time: PatchTime | None) -> Callable[[], bool]:
    return (lambda: False) if time is None else partial(time.is_over, 1)


def _cure_judge(bench: Bench, wishes: Wishes, within: Indices, *, n_folds: int) -> CureJudge:
    """What cures are judged by, on the selection images at the positions `within`."""
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
    on_progress: OnProgress,
    again: Again,
) -> results.Patched:
    """Bake, prove, judge once on the test part, and write."""
    patch = chosen.patch
    draft, model = _bake(bench, patch)
    calibration = bench.parts.calibration
    first = np.arange(min(_PROOF_IMAGES, len(calibration)))
    patched = opened_beside(bench, model)
    verified = prove_patch(
        bench.subject,
        bench.original,
        patch,
        Baked(model, draft.edits),
        opened=patched,
        images=calibration.batch(first) if len(calibration) else None,
        feeds=calibration.feeds(first),
    )
    final = judging.final_figures(bench, chosen, patched, objective.metric)
    name = None if bench.unjudged else objective.metric
    story = telling.patch_story(bench, asked, chosen, name, final, verified)
    time = PatchTime.of(asked.score, bench) if asked.baselines else None
    if time is not None and time.is_over(RANDOM_DRAWS):
        story["notes"] = [*story["notes"], "baselines were left out: the time limit was reached"]
    elif asked.baselines:
        story["baselines"], note = with_baselines(
            bench,
            asked,
            objective,
            final,
            n_frozen=len(patch),
            score_filters=partial(score_bench, on_progress=on_progress),
            conductance=filter_values.conductance_by(asked.attacks.source, objective),
        )
        story["notes"] = [*story["notes"], note]
    if attacked.is_attacked(bench.dataset.annotations) and not bench.unjudged:
        story["attacks"] = judge_attacks(bench, patched, draft, asked.attacks)
    story["again"] = again.to_json()
    story = Places.here().cleaned(story)
    file = replace(draft, result_digest=digest_of(model), story=story)
    places = _write(bench, file, model, out)
    return results.Patched(
        out=out,
        patch_file=places.patch_file,
        report_file=places.report,
        patch=patch,
        verified=verified,
        promise=chosen.promise,
        objective=name,
        before=final.before,
        after=final.after,
        change=final.change,
        document=story,
    )


@stage("baking")
def _bake(bench: Bench, patch: Patch) -> tuple[PatchFile, ModelProto]:
    """The patch file but for its result and story, and the model with its claim in it."""
    subject, settings = bench.subject, bench.settings
    baked = bake(bench.original, patch)
    draft = PatchFile(
        patch=patch,
        edits=baked.edits,
        source_digest=subject.file.digest,
        result_digest="",
        sites_at=settings.sites_at,
        include=settings.include,
        output=None if bench.all_outputs else subject.output,
        layout=layout_of(subject.file),
    )
    write_claims(baked.model, [*read_claims(subject.model), sign_claim(draft.claim())])
    return draft, baked.model


@stage("writing")
def _write(bench: Bench, file: PatchFile, model: ModelProto, out: Path) -> Companions:
    """All files together, the model last: where it lies, its patch file and report lie too."""
    subject, places, path_of = bench.subject, Companions.of(out), Places.here().relative
    report = {
        "schema": 1,
        "kind": "repairkit report",
        **file.story,
        "patch": file.claim(),
        "patch_digest": file.digest,
        "source": {"path": path_of(subject.file.path), "digest": subject.file.digest},
        "result": {"path": path_of(out), "digest": file.result_digest},
    }
    texts = repair_report(bench, report, file.patch, places)
    check_place(
        subject.file, bench.settings.data, out
    )  # the user may have put something there meanwhile
    with outputs(out) as drafts:
        for path, text in {**texts, places.patch_file: patch_file_text(file)}.items():
            drafts.write(path, text.encode())
        add_model(drafts, model, out)
    return places
