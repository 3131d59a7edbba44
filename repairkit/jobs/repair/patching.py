"""Choose filters, bake them, prove the result and write it with its patch file and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from onnx import ModelProto

from repairkit.core.attacked import is_attacked
from repairkit.core.errors import SettingsError, TargetNotMetError
from repairkit.core.filters import Filter
from repairkit.core.patch import Patch, Patched, constant_text
from repairkit.core.process.stages import stage
from repairkit.core.process.trust import without
from repairkit.engine.runner import OpenModel
from repairkit.formats.documents import outputs
from repairkit.formats.patch_file import PatchFile, patch_file_text
from repairkit.formats.run_file import RunFolder
from repairkit.graph.baking import Baked, bake, is_idle
from repairkit.graph.metadata import read_claims, write_claims
from repairkit.graph.stored.model_files import add_model, digest_of
from repairkit.jobs.attack.attack_story import check_attacks, judge_attacks
from repairkit.jobs.look.reporting import repair_report
from repairkit.jobs.output.destination import Companions, check_place
from repairkit.jobs.output.places import Places
from repairkit.jobs.output.signs_of_life import OnProgress
from repairkit.jobs.proof.layout import layout_of
from repairkit.jobs.proof.verifying import prove_patch, sign_claim
from repairkit.jobs.repair.choosing import check_repair, choose_patch
from repairkit.jobs.repair.comparison.baselines import RANDOM_DRAWS, with_baselines
from repairkit.jobs.repair.filter_values import GRADIENT
from repairkit.jobs.repair.judging import (
    ENOUGH_IMAGES,
    FinalFigures,
    has_test,
    judge_cross_fitted,
    judge_on_selection,
    judge_on_test,
    not_judged,
)
from repairkit.jobs.repair.objective import Objective, metric_names, plain_values
from repairkit.jobs.repair.repair_settings import PatchSettings, PatchTime
from repairkit.jobs.repair.telling import patch_story
from repairkit.jobs.setup.looking import looked_at, tell_reading
from repairkit.jobs.setup.preparing import opened_beside, outputs_of, prepare
from repairkit.jobs.setup.settings import Again, named_in, said_again
from repairkit.jobs.setup.subject import judging_the_model
from repairkit.jobs.setup.unjudged import prepare_unjudged
from repairkit.jobs.setup.workbench import Bench, Settings, Subject, check_metrics
from repairkit.metrics.definition import check_defined
from repairkit.repairs.cure import ChosenPatch
from repairkit.repairs.propose import make_patch

__all__ = ["PatchSettings", "Patched", "patch"]

_PROOF_IMAGES = 64
_CACHE_BYTES = 2**28  # searches ask for sets that share little; more does not make them faster
_MOST_NAMED = 8
_NOTHING_WRITTEN = "; nothing was written"


@judging_the_model
def patch(
    subject: Subject,
    settings: Settings,
    asked: PatchSettings,
    *,
    out: Path,
    on_progress: OnProgress = None,
) -> Patched:
    """Repair a model, or say why not and write nothing.

    Raises:
        TargetNotMetError: no change of the model is surely better than none.
        VerificationError: the result could not be proven; nothing is written.
        RepairkitError: anything else that the user can mend.
    """
    check_repair(asked)
    again = patch_again(subject.file.path, settings, asked)
    asked = replace(asked, score=asked.score.begun())
    check_place(subject, settings, out)
    settings = _with_the_runs_code(asked, settings)
    objective = asked.objective_of(_metric_at_hand(asked, settings))
    bench = _bench(subject, _settled(settings, asked, objective), asked)
    objective = _check_wishes(bench, asked, objective)
    source_is_used = asked.baselines or asked.score.method == GRADIENT
    check_attacks(bench, asked.attacks, baselines=source_is_used)
    bench = looked_at(
        bench,
        asked.score.deadline,
        thorough="told" if asked.remove else "doubt",
        go_on=bool(asked.remove),
    )
    if asked.remove:
        chosen = _named(bench, asked.remove)
    else:
        try:
            chosen = choose_patch(bench, asked, objective, on_progress)
        except TargetNotMetError as error:
            raise _with_hint(bench, asked, error) from None
    return _finish(bench, chosen, asked, objective, out=out, on_progress=on_progress, again=again)


def _settled(settings: Settings, asked: PatchSettings, objective: Objective) -> Settings:
    """The job's settings with those that follow from what was asked.

    Raises:
        SettingsError: a metric is code that only a file named, or needs groups.
    """
    check_metrics(settings, objective.values)
    if not settings.groups and any(name.startswith("group_") for name in objective.values):
        needing = "--fairness" if asked.fairness else objective.metric
        raise SettingsError(
            f"{needing} needs groups; name the columns with --group, or in repairkit.toml"
        )
    if settings.cache_memory is None:
        settings = replace(settings, cache_memory=_CACHE_BYTES)
    if asked.level not in (None, "best"):
        settings = replace(settings, absent=asked.level)
    if asked.remove:
        return settings
    metrics = plain_values(objective) if asked.choose == "plain" else objective.values
    return replace(settings, metrics=metrics)


def _bench(subject: Subject, settings: Settings, asked: PatchSettings) -> Bench:
    if asked.remove:
        return prepare_unjudged(subject, settings, sites={f.site for f in asked.remove})
    return prepare(subject, settings)


def _named(bench: Bench, filters: Sequence[Filter]) -> ChosenPatch:
    """A patch of just the filters that were named, at the levels of absent ones."""
    named = dict.fromkeys(_filters_named(bench, filters))  # one named twice is frozen once
    players = np.array([bench.roster.column(f) for f in named], np.intp)
    tell_reading(bench.reading)
    return _without_idle(bench, make_patch(players, bench.roster, bench.working.levels))


def _filters_named(bench: Bench, wanted: Sequence[Filter]) -> tuple[Filter, ...]:
    """Filters by their ids, or by `LAYER:CHANNEL` of the framework that the model came from."""
    layers = bench.subject.layer_map
    if layers is None:
        return tuple(wanted)
    sites = {site.name for site in bench.roster.sites}
    return tuple(f if f.site in sites else layers.filter_named(f) for f in wanted)


def _without_idle(bench: Bench, patch: Patch) -> ChosenPatch:
    """The patch without filters that hold their constant already, each of them named in a note.

    Raises:
        SettingsError: no filter is left.
    """
    idle = [f for f in patch.frozen if is_idle(bench.original, f)]
    if not idle:
        return ChosenPatch(patch=patch)
    left = tuple(f for f in patch.frozen if f not in idle)
    if not left:
        shown = ", ".join(f"{f.filter.id} at {constant_text(f)}" for f in idle[:_MOST_NAMED])
        more = f" and {len(idle) - _MOST_NAMED} more" if len(idle) > _MOST_NAMED else ""
        holders = (
            "the filter holds its" if len(idle) == 1 else f"all {len(idle)} filters hold their"
        )
        raise SettingsError(
            f"nothing to freeze: {holders} constant already ({shown}{more}); nothing was written"
        )
    notes = [
        f"{f.filter.id} holds the constant {constant_text(f)} already; it was left as it is"
        for f in idle
    ]
    return ChosenPatch(patch=Patch(left), notes=tuple(notes))


def patch_again(model: Path, settings: Settings, asked: PatchSettings) -> Again:
    """The command that makes the same repair."""
    # Only with values by gradients does the source affect what is chosen.
    lacks = ("--source",) if asked.score.method == GRADIENT else ()
    return said_again(
        "patch",
        model,
        settings,
        asked,
        usual=PatchSettings(fairness=True),
        budget=asked.score.budget,
        lacks=lacks,
    )


def _check_wishes(bench: Bench, asked: PatchSettings, objective: Objective) -> Objective:
    """Check all that is asked for before anything is scored; the objective with its direction.

    Raises:
        SettingsError: a metric is unknown or does not fit the data, or a target says nothing.
    """
    known = bench.dataset.annotations.group_names
    if asked.fairness and len(known) == 1:
        raise SettingsError(
            f"--fairness compares groups and there is only {known[0]!r}; choose a column with two "
            "or more values with --group"
        )
    if asked.baselines and not has_test(bench) and not bench.unjudged:
        raise SettingsError(
            "--baselines judges every cure by test images, and --test none leaves none; give a "
            "test part, such as --test 0.3, or leave --baselines out"
        )
    if bench.unjudged and asked.baselines:
        raise SettingsError(
            f"--baselines compares figures and no metric can be computed ({bench.unjudged})"
        )
    if asked.remove:
        return objective
    names = metric_names(objective, (), asked.targets)
    metrics = dict(zip(names, bench.metrics(names), strict=True))
    for target in asked.targets:
        target.check(metrics[target.metric])
    for part in (bench.parts.selection, bench.parts.test):
        for metric in metrics.values() if len(part) else ():
            check_defined(metric, part.annotations, part.name)
    return objective.fitted(metrics[objective.metric])


def _with_the_runs_code(asked: PatchSettings, settings: Settings) -> Settings:
    """The settings, with the code that only files name: the run's metrics too."""
    named_by = dict(settings.named_by)
    if asked.scores is not None:
        folder = RunFolder(asked.scores)
        named_by |= named_in(folder.run_file, folder.read_metrics())
        # Without a project file the settings' metrics were given as options.
        named_by = without(named_by, () if settings.named_by else settings.metrics)
    given = [asked.objective or "", *(target.metric for target in asked.targets)]
    return replace(settings, named_by=without(named_by, given))


def _metric_at_hand(asked: PatchSettings, settings: Settings) -> str:
    """The metric of the run that is there, else that of the settings."""
    if asked.scores is not None:
        return RunFolder(asked.scores).read_metrics()[0]
    return settings.metrics[0]


def _with_hint(bench: Bench, asked: PatchSettings, error: TargetNotMetError) -> TargetNotMetError:
    """The error, with how many images `--test none` would add where they may be what is missing."""
    if asked.choose == "plain" or asked.confirm_share is not None or asked.scores is not None:
        return error  # these need a test part
    parts = bench.parts
    n_images = len(bench.dataset.annotations)
    if not has_test(bench) or n_images >= ENOUGH_IMAGES or "selection" not in parts.left_open:
        return error
    promise = error.found.get("promise")
    if promise is not None and promise["reached"] is not None:  # a limit or a target stands against
        return error
    hint = f"; --test none would add {len(parts.test):,} images to choose on"
    reason = str(error).removesuffix(_NOTHING_WRITTEN)
    story = dict(error.found)
    if story.get("declined"):
        story["declined"] += hint
    return TargetNotMetError(f"{reason}{hint}{_NOTHING_WRITTEN}", story)


def _finish(
    bench: Bench,
    chosen: ChosenPatch,
    asked: PatchSettings,
    objective: Objective,
    *,
    out: Path,
    on_progress: OnProgress,
    again: Again,
) -> Patched:
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
    final = _judge(bench, chosen, patched, objective.metric)
    name = None if bench.unjudged else objective.metric
    story = patch_story(bench, asked, chosen, name, final, verified)
    time = PatchTime.of(asked.score, bench) if asked.baselines else None
    if time is not None and time.is_over(RANDOM_DRAWS):
        story["notes"] = [*story["notes"], "baselines were left out: the time limit was reached"]
    elif asked.baselines:
        story["baselines"], note = with_baselines(
            bench, asked, objective, final, n_frozen=len(patch), on_progress=on_progress
        )
        story["notes"] = [*story["notes"], note]
    if is_attacked(bench.dataset.annotations) and not bench.unjudged:
        story["attacks"] = judge_attacks(bench, patched, draft, asked.attacks)
    story["again"] = again.to_json()
    story = Places.here().cleaned(story)
    file = replace(draft, result_digest=digest_of(model), story=story)
    places = _write(bench, file, model, out)
    return Patched(
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


def _judge(bench: Bench, chosen: ChosenPatch, patched: OpenModel, objective: str) -> FinalFigures:
    """The figures to report: of the test part, else of images that did not choose their cure."""
    if bench.unjudged:
        return not_judged(bench)
    if has_test(bench):
        return judge_on_test(bench, patched, objective)
    if chosen.selection is None:  # filters that were named
        suite = bench.parts.selection
        return judge_on_selection(
            bench, (bench.working.run_plain(suite), outputs_of(bench, patched, suite)), objective
        )
    assert chosen.outputs is not None
    return judge_cross_fitted(bench, chosen.outputs, objective, n_folds=chosen.n_folds)


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
    check_place(subject, bench.settings, out)  # the user may have put something there meanwhile
    with outputs(out) as drafts:
        for path, text in {**texts, places.patch_file: patch_file_text(file)}.items():
            drafts.write(path, text.encode())
        add_model(drafts, model, out)
    return places
