"""Repair models; apply and revert patches."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Unpack

from repairkit.api.job_settings import (
    JobKeywords,
    Metric,
    Metrics,
    check_keywords,
    for_proof,
    load_source,
    metric_names,
    open_job,
)
from repairkit.backdoors import Backdoor
from repairkit.core import errors, filters, framework, results
from repairkit.core.scores import Budget, Progress
from repairkit.data.given import GivenAs
from repairkit.formats.documents import write_bytes
from repairkit.formats.patch_file import read_patch_file
from repairkit.graph.stored.model_files import read_model
from repairkit.jobs.output.destination import Companions
from repairkit.jobs.proof import undoing
from repairkit.jobs.repair import objective, patching, repair_settings
from repairkit.jobs.repair.aims import marking
from repairkit.jobs.repair.patched import Patched
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.setup.workbench import Settings
from repairkit.notebook.progress import shown_in_cell

_SAMPLE = "repairkit_samples.digits"
_SAMPLE_FILES = ("model.onnx", "digits.npz", "repairkit.toml")
SCORING = ("method", "options", "max_evaluations", "time_limit")
KNOWN = ("backdoor", "triggered", "trigger", "mask", "target_class")
# Keywords that `PatchSettings` does not take as they are.
_CONVERTED = {
    "remove",
    "scores",
    "targets",
    "transfers",
    "trust",
    "accept_preprocessing",
    "progress",
    "metric",
    *KNOWN,
    *SCORING,
}


class PatchKeywords(JobKeywords, total=False):
    """Further arguments of `patch`, beside those of any job: what to freeze, and what it may cost.

    Attributes:
        metric: one or several, names or functions, that value filters; the first one steers.
        method: how to score where no run is given; `repair` if left out.
        options: settings of the estimator, such as `{"top_k": 20}`.
        max_evaluations: largest number of evaluated coalitions.
        time_limit: seconds for everything, reading and preparation included.
        fairness: freeze what harms the worst group (needs groups).
        robustness: freeze what helps an adversary; `data` is what `attack` wrote.
        backdoor: freeze what a backdoor lives on; say by what it is known with `triggered`, or with
            `trigger` and `mask`; else a trigger is reversed for each class.
        triggered: the column that marks images with the trigger.
        trigger: an image file of the trigger, to be put on clean images.
        mask: an image file, white where the trigger lies; its transparency if left out.
        target_class: the class that the trigger gives; the one most often given if left out.
        fix: images that the model gets wrong: a column, "COLUMN=VALUE", or a list of images.
        mend: share of the wrong images of `fix` that must be mended; 0.6 if left out.
        forget: a class that is to be recognised no longer.
        remove: ids of filters to freeze, whatever their values.
        remove_top: how many filters of highest value of the run in `scores` to freeze.
        scores: a run folder whose values rank the candidates.
        at_most: largest number of frozen filters; 8 if left out, with `forget` 24.
        max_drop: overall accuracy that may be lost, or with `fix` or `forget` that of all other
            images, in [0, 1]; 0.01 if left out, with `fix` 0.005, with `backdoor` 0.05.
        max_group_drop: accuracy that a group may lose, in [0, 1]; 0.05 if left out.
        objective: the metric to improve, in place of `fairness`: a name or a function.
        targets: figures to reach, such as "worst_group_accuracy>=0.8".
        choose: `joint`, or `plain`: as many of the lowest-ranked filters as look best.
        beam: beam width: sets of each size kept for the next step; 1 if left out.
        level: freeze at `mean`, `zero`, `bias`, or the `best` level on the selection images.
        baselines: also judge simpler repairs (`document["baselines"]`).
        confirm_share: share of the selection images used only to confirm; if None, all images
            choose and confirm, by cross-fitting.
        promise: weakest promise to accept: `objective`, `smooth` or `likelihood`.
        repair: `freeze` filters, change the class `bias` or the `last-layer`, or the `best` of
            these; if None, `best` with `backdoor` or `forget`, else `freeze`.
        refit_safe: change only what a compiled model can take as new weights: no tensor is added.
        transfers: attacks on other models, as `attack` wrote them, to judge too.
        trust: run code that `repairkit.toml` or the run in `scores` names; code named in this call
            always runs.
        accept_preprocessing: continue although images or classes look unlike what the model expects
            (docs/guide/data.md).
        progress: in a notebook, show a bar while the job runs; True if left out.
    """

    metric: Metrics | None
    method: str
    options: Mapping[str, object]
    max_evaluations: int | None
    time_limit: float | None
    fairness: bool
    robustness: bool
    backdoor: bool
    triggered: str | None
    trigger: str | Path | None
    mask: str | Path | None
    target_class: str | int | None
    fix: str | Path | None
    mend: float
    forget: str | None
    remove: Sequence[str]
    remove_top: int | None
    scores: str | Path | None
    at_most: int | None
    max_drop: float | None
    max_group_drop: float
    objective: Metric | None
    targets: Sequence[str]
    choose: str
    beam: int
    level: str | None
    baselines: bool
    confirm_share: float | None
    promise: str
    repair: str | None
    refit_safe: bool
    transfers: Sequence[str | Path]
    progress: bool
    trust: bool
    accept_preprocessing: bool


@shown_in_cell
def patch(
    model: str | Path,
    data: GivenAs | None = None,
    *,
    out: str | Path,
    score: ScoreSettings | None = None,
    source: framework.FrameworkModel | framework.Source | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    **more: Unpack[PatchKeywords],
) -> Patched:
    """Choose filters, freeze them, prove the result and write it, as `repairkit patch` does.

    Args:
        model: an ONNX file.
        data: images; see `score`.
        out: the patched model; its patch file, report and provenance are written beside it.
        score: how to score if no run is given, in one object; else the words `method`, `options`,
            `max_evaluations` and `time_limit` say it.
        source: the framework's model of the ONNX file, for a fresh white-box attack.
        settings: groups, preprocessing, parts, sites, device, seed; see `score`.
        on_progress: called from time to time while scoring.
        more: see `PatchKeywords`.

    Raises:
        TargetNotMetError: freezing nothing is best; nothing is written.
        RepairkitError: anything else that the user can correct.
        TypeError: `score` is given, and words that say the same.
    """
    check_keywords("patch", more, PatchKeywords)
    scoring = _scoring(score, more)
    subject, job = open_job(model, data, settings, more)
    if more.get("metric") is not None:
        job = replace(job, metrics=metric_names(more["metric"]))
    choices: dict[str, Any] = {
        k: v for k, v in more.items() if k not in _CONVERTED | JobKeywords.__annotations__.keys()
    }
    fix = more.get("fix")
    choices["fix"] = None if fix is None else marking.images_to_fix(fix)
    choices["objective"] = next(iter(metric_names(more.get("objective"))), None)
    scores, transfers = more.get("scores"), more.get("transfers", ())
    plan = repair_settings.PatchSettings(
        remove=tuple(filters.Filter.parse(name) for name in more.get("remove", ())),
        scores=None if scores is None else Path(scores),
        score=scoring,
        known=_backdoor(more),
        targets=tuple(objective.Target.parse(text) for text in more.get("targets", ())),
        attacks=framework.FreshAttacks(
            load_source(source, subject, trust=job.trust), tuple(map(Path, transfers))
        ),
        **choices,
    )
    done = patching.patch(subject, job, plan, out=Path(out), on_progress=on_progress)
    return replace(done, verified=replace(done.verified, layers=subject.layer_map))


def _backdoor(given: PatchKeywords) -> Backdoor:
    """What keywords tell of a backdoor."""
    trigger, mask, target = (given.get(name) for name in KNOWN[2:])
    return Backdoor(
        backdoor=given.get("backdoor", False),
        triggered=given.get("triggered"),
        trigger=None if trigger is None else Path(str(trigger)),
        mask=None if mask is None else Path(str(mask)),
        target_class=None if target is None else str(target),
    )


def _scoring(score: ScoreSettings | None, given: PatchKeywords) -> ScoreSettings:
    words = [name for name in SCORING if name in given]
    if score is not None:
        if words:
            raise TypeError(f"patch() got score and {', '.join(words)}; give one or the other")
        return score
    return score_settings(
        given.get("method", "repair"),
        given.get("options", {}),
        max_evaluations=given.get("max_evaluations"),
        time_limit=given.get("time_limit"),
        began=time.monotonic(),
    )


def score_settings(
    method: str,
    options: Mapping[str, object],
    *,
    max_evaluations: int | None,
    time_limit: float | None,
    began: float,
) -> ScoreSettings:
    """How `patch` scores; `began` is the start of the time limit, by `time.monotonic`."""
    budget = Budget(max_evaluations, time_limit)
    return ScoreSettings(method, options=options, budget=budget, began=began)


def patch_document(patched: Patched) -> dict[str, Any]:
    """What `repairkit patch --json` prints."""
    places = Companions.of(patched.out)
    return {
        "patched_model": str(patched.out),
        "patch_file": str(patched.patch_file),
        "report": str(patched.report_file),
        "page": str(places.page),
        "model_card": str(places.card),
        "change_record": str(places.change),
        "bill_of_materials": str(places.bill),
        "statement": str(places.statement),
        "verdict": patched.verdict,
        "frozen": [
            results.frozen_entry(frozen, patched.verified.layers) for frozen in patched.patch.frozen
        ],
        **patched.document,
    }


def copy_sample(folder: str | Path) -> Path:
    """Copy the packaged sample (a model that reads digits, images, a project file).

    Returns:
        The path of the model.

    Raises:
        RunFolderError: the folder has other files of these names, or cannot be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.RunFolderError(
            f"{folder}: cannot be made ({error.strerror}); choose another folder with -o"
        ) from error
    for name in _SAMPLE_FILES:
        content, target = (files(_SAMPLE) / name).read_bytes(), folder / name
        if target.exists() and target.read_bytes() != content:
            raise errors.RunFolderError(
                f"{target}: exists and is not the sample's; choose another folder with -o"
            )
        write_bytes(target, content)
    return folder / _SAMPLE_FILES[0]


def apply(
    model: str | Path,
    patch_file: str | Path,
    data: GivenAs | None = None,
    *,
    out: str | Path,
    settings: Settings | None = None,
    **words: Unpack[JobKeywords],
) -> results.Applied:
    """Apply a patch file to the exact model it was made for, as `repairkit apply` does.

    Args:
        model: an ONNX file.
        patch_file: what `patch` wrote.
        data: the result is proven on the first of these images; those of the settings if None, or
            noise without any.
        out: the patched model.
        settings: preprocessing, inputs and outputs; see `score`.
        words: see `JobKeywords`.

    Raises:
        VerificationError: the patch is for another model, was altered, changes nothing, or gives
            another result than it promises; nothing is written.
        RepairkitError: anything else that the user can correct.
    """
    check_keywords("apply", words, JobKeywords)
    file = read_patch_file(Path(patch_file))
    subject, job = open_job(model, data, settings, words)
    subject, images, feeds = for_proof(subject, job)
    applied = undoing.apply_patch(
        subject, file, out=Path(out), place=Path(patch_file), images=images, feeds=feeds
    )
    return replace(applied, verified=replace(applied.verified, layers=subject.layer_map))


def overlay(
    model: str | Path,
    patch_file: str | Path,
    data: GivenAs | None = None,
    *,
    out: str | Path,
    settings: Settings | None = None,
    **words: Unpack[JobKeywords],
) -> undoing.Overlaid:
    """Write only the tensors that a patch changes, as `repairkit overlay` does.

    Args:
        model: the model that the patch was made for.
        patch_file: what `patch` wrote.
        data: the result is proven on the first of these images; those of the settings if None, or
            noise without any.
        out: the overlay, a safetensors file.
        settings: preprocessing, inputs and outputs; see `score`.
        words: see `JobKeywords`.

    Raises:
        ModelError: the patch changes more than tensors of the model.
        VerificationError: the patch is for another model, was altered, or gives another result than
            it promises; nothing is written.
        SettingsError: the library safetensors is missing; it comes with `repairkit[overlay]`.
        RepairkitError: anything else that the user can correct.
    """
    check_keywords("overlay", words, JobKeywords)
    file = read_patch_file(Path(patch_file))
    subject, job = open_job(model, data, settings, words)
    subject, images, feeds = for_proof(subject, job)
    made = undoing.make_overlay(
        subject, file, out=Path(out), place=Path(patch_file), images=images, feeds=feeds
    )
    return replace(made, verified=replace(made.verified, layers=subject.layer_map))


def revert(
    model: str | Path, patch_file: str | Path | None = None, *, out: str | Path
) -> results.Reverted:
    """Restore the model before a patch byte for byte, as `repairkit revert` does.

    Args:
        model: the patched model; the latest of several patches must be reverted first.
        patch_file: what `patch` wrote; the one beside the model if None.
        out: the model before.

    Raises:
        VerificationError: the model is not what the patch made, or has a later patch; nothing is
            written.
        RepairkitError: anything else that the user can correct.
    """
    patched = read_model(Path(model))
    place = undoing.patch_file_beside(patched) if patch_file is None else Path(patch_file)
    return undoing.revert_patch(patched, read_patch_file(place), out=Path(out))
