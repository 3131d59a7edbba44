"""Choose filters, bake them, prove the result and write it with its patch file and report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from repairkit.core.errors import SettingsError, TargetNotMetError
from repairkit.core.patch import Evaluation, Figure, Patch
from repairkit.core.process.stages import stage
from repairkit.core.process.trust import without
from repairkit.engine.runner import OpenModel
from repairkit.formats.documents import outputs
from repairkit.formats.patch_file import PatchFile, patch_file_text
from repairkit.formats.run_file import RunFolder
from repairkit.graph.patch.bake import bake
from repairkit.graph.patch.revert import read_claims, write_claims
from repairkit.graph.stored.files import add_model, digest_of
from repairkit.jobs.attack.attack_story import check_attacks, judge_attacks
from repairkit.jobs.look.reporting import repair_report
from repairkit.jobs.output.destination import Companions, check_place
from repairkit.jobs.output.places import Places
from repairkit.jobs.output.progress import Progress
from repairkit.jobs.proof.layout import layout_of
from repairkit.jobs.proof.verifying import Verified, prove_patch, sign_claim
from repairkit.jobs.repair.confirm.without_test import (
    has_test,
    judge_cross_fitted,
    judge_on_selection,
    with_hint,
)
from repairkit.jobs.repair.deciding import Made, make_choice
from repairkit.jobs.repair.judge.baselines import RANDOM_DRAWS, with_baselines
from repairkit.jobs.repair.judge.judging import Judged, judge_on_test, not_judged
from repairkit.jobs.repair.objective import Objective, metric_names, plain_values
from repairkit.jobs.repair.patch_story import filters_named, patch_story
from repairkit.jobs.repair.patch_time import PatchTime
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.repair.values.first_order import GRADIENT
from repairkit.jobs.repair.values.idle import without_idle
from repairkit.jobs.runs.again import Again, said_again
from repairkit.jobs.setup.bench import Bench, opened_beside, outputs_of, prepare
from repairkit.jobs.setup.faults import judging_the_model
from repairkit.jobs.setup.looking import looked_at
from repairkit.jobs.setup.settings import Settings, check_metrics, named_in
from repairkit.jobs.setup.subject import Subject
from repairkit.jobs.setup.told_reading import tell_reading
from repairkit.jobs.setup.unjudged import prepare_unjudged
from repairkit.metrics import check_defined, is_attacked
from repairkit.repairs import make_patch

__all__ = ["PatchSettings", "Patched", "patch"]

_PROOF_IMAGES = 64
_CACHE_BYTES = 2**28  # searches ask for sets that share little; more does not make them faster


@dataclass(frozen=True)
class Patched:
    """A patch that was made, proven and written."""

    out: Path
    patch_file: Path
    report_file: Path
    patch: Patch
    verified: Verified
    promise: Figure | None
    objective: str | None
    before: Evaluation
    after: Evaluation
    change: dict[str, Figure]
    document: dict[str, Any]


@judging_the_model
def patch(
    subject: Subject,
    settings: Settings,
    how: PatchSettings,
    *,
    out: Path,
    on_progress: Callable[[Progress], None] | None = None,
) -> Patched:
    """Repair a model, or say why not and write nothing.

    Raises:
        TargetNotMetError: freezing nothing is best on the selection images.
        VerificationError: the result could not be proven; nothing is written.
        RepairkitError: anything else that the user can mend.
    """
    again = patch_again(subject.file.path, settings, how)
    how = replace(how, score=how.score.begun())
    check_place(subject, settings, out)
    settings = _with_the_runs_code(how, settings)
    objective = how.objective_of(_metric_at_hand(how, settings))
    check_metrics(settings, objective.values)
    if not settings.groups and any(name.startswith("group_") for name in objective.values):
        what = "--fairness" if how.fairness else objective.metric
        raise SettingsError(
            f"{what} needs groups; name the columns with --group, or in repairkit.toml"
        )
    if settings.cache_memory is None:
        settings = replace(settings, cache_memory=_CACHE_BYTES)
    if how.level not in (None, "best"):
        settings = replace(settings, absent=how.level)
    if not how.remove:
        plainly = how.choose == "plain"
        settings = replace(
            settings, metrics=plain_values(objective) if plainly else objective.values
        )
    if how.remove:
        bench = prepare_unjudged(subject, settings, sites={f.site for f in how.remove})
    else:
        bench = prepare(subject, settings)
    objective = _check_wishes(bench, how, objective)
    other_use = how.baselines or how.score.method == GRADIENT
    check_attacks(bench, how.attacks, baselines=other_use)
    bench = looked_at(
        bench,
        how.score.deadline,
        thorough="told" if how.remove else "doubt",
        go_on=bool(how.remove),
    )
    if how.remove:
        named = dict.fromkeys(filters_named(bench, how.remove))  # one named twice is frozen once
        players = np.array([bench.roster.column(f) for f in named], np.intp)
        tell_reading(bench.reading)
        made = without_idle(bench, Made(make_patch(players, bench.roster, bench.working.levels)))
    else:
        try:
            made = make_choice(bench, how, objective, on_progress)
        except TargetNotMetError as error:
            raise with_hint(bench, how, error) from None
    return _finish(bench, made, how, objective, out, on_progress, again=again)


def patch_again(model: Path, settings: Settings, how: PatchSettings) -> Again:
    """The command that makes the same repair."""
    # Only with values by gradients does the source affect what is chosen.
    lacks = ("--source",) if how.score.method == GRADIENT else ()
    return said_again(
        "patch",
        model,
        settings,
        how,
        usual=PatchSettings(fairness=True),
        budget=how.score.budget,
        lacks=lacks,
    )


def _check_wishes(bench: Bench, how: PatchSettings, objective: Objective) -> Objective:
    """Before anything is scored: all that is wished for exists; the objective with its direction.

    Raises:
        SettingsError: a metric is unknown or does not fit the data, or a target says nothing.
    """
    known = bench.dataset.annotations.group_names
    if how.fairness and len(known) == 1:
        raise SettingsError(
            f"--fairness compares groups and there is only {known[0]!r}; choose a column with two "
            "or more values with --group"
        )
    if how.baselines and not has_test(bench) and not bench.unjudged:
        raise SettingsError(
            "--baselines judges every cure by test images, and --test none leaves none; give a "
            "test part, such as --test 0.3, or leave --baselines out"
        )
    if bench.unjudged and how.baselines:
        raise SettingsError(
            f"--baselines compares figures and no metric can be computed ({bench.unjudged})"
        )
    if how.remove:
        return objective
    names = metric_names(objective, (), how.targets)
    metrics = dict(zip(names, bench.metrics(names), strict=True))
    for target in how.targets:
        target.check(metrics[target.metric])
    for part in (bench.parts.selection, bench.parts.test):
        for metric in metrics.values() if len(part) else ():
            check_defined(metric, part.annotations, part.name)
    return objective.fitted(metrics[objective.metric])


def _with_the_runs_code(how: PatchSettings, settings: Settings) -> Settings:
    """The settings, with what only files name by now: the run's metrics too."""
    named_by = dict(settings.named_by)
    if how.scores is not None:
        folder = RunFolder(how.scores)
        named_by |= named_in(folder.run_file, folder.read_metrics())
        own = () if settings.named_by else settings.metrics  # these are the keyboard's
        named_by = without(named_by, own)
    chosen = [how.objective or "", *(target.metric for target in how.targets)]
    return replace(settings, named_by=without(named_by, chosen))


def _metric_at_hand(how: PatchSettings, settings: Settings) -> str:
    """The metric of the run that is there, else that of the settings."""
    if how.scores is not None:
        return RunFolder(how.scores).read_metrics()[0]
    return settings.metrics[0]


def _finish(
    bench: Bench,
    made: Made,
    how: PatchSettings,
    aim: Objective,
    out: Path,
    on_progress: Callable[[Progress], None] | None,
    *,
    again: Again,
) -> Patched:
    """Bake, prove, judge once on the test part, and write."""
    chosen, objective = made.patch, aim.metric
    draft, model = _bake(bench, chosen)
    calibration = bench.parts.calibration
    first = np.arange(min(_PROOF_IMAGES, len(calibration)))
    patched = opened_beside(bench, model)
    verified = prove_patch(
        bench.subject,
        bench.original,
        chosen,
        model,
        draft.edits,
        opened=patched,
        images=calibration.batch(first) if len(calibration) else None,
        feeds=calibration.feeds(first),
    )
    judged = _judge(bench, made, patched, objective)
    told = None if bench.unjudged else objective
    story = patch_story(bench, how.to_json(), made, told, judged, verified)
    time = PatchTime.of(how.score, bench) if how.baselines else None
    if time is not None and time.is_over(RANDOM_DRAWS):
        story["notes"] = [*story["notes"], "baselines were left out: the time limit was reached"]
    elif how.baselines:
        story |= with_baselines(bench, made, how, aim, judged, story, on_progress)
    if is_attacked(bench.dataset.annotations) and not bench.unjudged:
        story["attacks"] = judge_attacks(bench, patched, draft, how.attacks)
    story["again"] = again.to_json()
    story = Places.here().cleaned(story)
    file = replace(draft, result_digest=digest_of(model), story=story)
    places = _write(bench, file, model, out)
    return Patched(
        out,
        places.patch_file,
        places.report,
        chosen,
        verified,
        made.promise,
        told,
        judged.before,
        judged.after,
        judged.change,
        story,
    )


def _judge(bench: Bench, made: Made, patched: OpenModel, objective: str) -> Judged:
    """The figures to report: of the test part, else of images that did not choose their cure."""
    if bench.unjudged:
        return not_judged(bench)
    if has_test(bench):
        return judge_on_test(bench, patched, objective)
    if made.selection is None:  # filters that were named
        suite = bench.parts.selection
        return judge_on_selection(
            bench, (bench.working.run_plain(suite), outputs_of(bench, patched, suite)), objective
        )
    assert made.outputs is not None
    n_folds = made.selection["parts"]["folds"]
    return judge_cross_fitted(bench, made.outputs, objective, n_folds=n_folds)


@stage("baking")
def _bake(bench: Bench, chosen: Patch) -> tuple[PatchFile, ModelProto]:
    """The patch file but for its result and story, and the model with its claim in it."""
    subject, settings = bench.subject, bench.settings
    baked = bake(subject.model, chosen, found=bench.original)
    draft = PatchFile(
        patch=chosen,
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
    subject, places, told = bench.subject, Companions.of(out), Places.here().told
    report = {
        "schema": 1,
        "kind": "repairkit report",
        **file.story,
        "patch": file.claim(),
        "patch_digest": file.digest,
        "source": {"path": told(subject.file.path), "digest": subject.file.digest},
        "result": {"path": told(out), "digest": file.result_digest},
    }
    texts = repair_report(bench, report, file.patch, places)
    check_place(subject, bench.settings, out)  # the user may have put something there meanwhile
    with outputs(out) as drafts:
        for path, text in {**texts, places.patch_file: patch_file_text(file)}.items():
            drafts.write(path, text.encode())
        add_model(drafts, model, out)
    return places
