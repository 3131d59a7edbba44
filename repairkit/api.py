"""repairkit from Python: what the commands do, as functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.attacks import Pgd, Square
from repairkit.core.filters import Filter
from repairkit.core.framework import FrameworkModel, LoadOptions
from repairkit.core.scores import Budget
from repairkit.data import find_project
from repairkit.graph.files import read_model
from repairkit.workflows import attacking, exporting, merging, patching, scoring, verifying
from repairkit.workflows.adapters import load_framework_model
from repairkit.workflows.attack_story import FreshAttacks
from repairkit.workflows.attacking import Attacked, AttackSettings
from repairkit.workflows.clusters import ClusterOptions, find_cluster
from repairkit.workflows.common_means import CommonMeans, write_means
from repairkit.workflows.destination import companions
from repairkit.workflows.excluding import Exclusion
from repairkit.workflows.exporting import Exported
from repairkit.workflows.measuring import compute_means
from repairkit.workflows.methods import ScoreSettings
from repairkit.workflows.objective import Target
from repairkit.workflows.patch_file import read_patch_file
from repairkit.workflows.patching import Patched, PatchSettings
from repairkit.workflows.progress import Progress
from repairkit.workflows.reading import read_images
from repairkit.workflows.scoring import Scored
from repairkit.workflows.settings import Settings, settle
from repairkit.workflows.subject import Subject, read_subject
from repairkit.workflows.undoing import Applied, Reverted, apply_patch, revert_patch
from repairkit.workflows.verifying import Verified

_PROOF_IMAGES = 64


def score(
    model: str | Path,
    data: str | Path | None = None,
    *,
    metric: str | Sequence[str] | None = None,
    method: str = "auto",
    options: Mapping[str, Any] | None = None,
    max_evaluations: int | None = None,
    time_limit: float | None = None,
    settings: Settings | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    paper: bool = False,
    statistics: bool = False,
    exclude_top_of: str | Path | None = None,
    exclude_share: float = 0.2,
    on_progress: Callable[[Progress], None] | None = None,
    ray: str | None = None,
) -> Scored:
    """Estimate the value of every filter, as `repairkit score` does.

    Args:
        model: an ONNX file.
        data: a folder of class folders, a manifest or an `.npz`; that of the settings if None.
        metric: one or several, the first of which steers; those of the settings if None.
        method: an estimator's name, a norm's, or `module:object`.
        options: settings of the estimator, such as `{"top_k": 20, "side": "lowest"}`.
        max_evaluations: coalitions tried at the most.
        time_limit: seconds at the most.
        settings: everything else: groups, preprocessing, parts, sites, device, seed. If None, what
            `repairkit.toml` says, beside the model or in the working folder.
        out: a run folder; nothing is written if None.
        resume: go on with the unfinished run in `out`.
        paper: the letter of the paper's Algorithm 1, with the method `tmab`.
        statistics: tell in detail how far the estimate has come (`Scored.details`).
        exclude_top_of: leave out of the ranking the top of this finished run of the same model.
        exclude_share: how much of that run is its top, in (0, 1).
        on_progress: called now and then.
        ray: `local`, `auto` or the address of a Ray cluster, to evaluate there.

    Raises:
        RepairkitError: anything that the user can mend.
    """
    names = (metric,) if isinstance(metric, str) else tuple(metric or ())
    subject, job = _job(model, data, settings)
    job = replace(job, metrics=names or job.metrics)
    budget = Budget(max_evaluations, time_limit)
    how = ScoreSettings(
        method,
        dict(options or {}),
        budget,
        paper=paper,
        statistics=statistics,
        exclude=None if exclude_top_of is None else Exclusion(Path(exclude_top_of), exclude_share),
    )
    place = None if out is None else Path(out)
    cluster = None if ray is None else find_cluster("ray", ClusterOptions(ray, job.workers))
    return scoring.score(
        subject, job, how, out=place, resume=resume, on_progress=on_progress, cluster=cluster
    )


def means(
    model: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path,
    settings: Settings | None = None,
) -> CommonMeans:
    """Compute what absent filters yield over all images, as `repairkit means` does.

    Args:
        model: an ONNX file.
        data: images; see `score`.
        out: a file that `Settings.means` can name.
        settings: preprocessing, sites, device; see `score`.

    Raises:
        RepairkitError: anything that the user can mend.
    """
    found = compute_means(*_job(model, data, settings))
    write_means(Path(out), found)
    return found


def merge(
    runs: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    by: merging.By = "images",
    weights: Sequence[float] | None = None,
) -> merging.Merged:
    """Add up values over data that could not leave its owners; see `workflows.merging.merge`.

    Raises:
        RepairkitError: the runs do not add up, or cannot be read.
    """
    place = None if out is None else Path(out)
    return merging.merge([Path(run) for run in runs], out=place, by=by, weights=weights)


def attack(
    model: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path,
    source: FrameworkModel | None = None,
    method: Pgd | Square | None = None,
    pixel_range: tuple[float, float] | None = None,
    at_most: int | None = None,
    settings: Settings | None = None,
) -> Attacked:
    """Make images that fool a model, as `repairkit attack` does.

    Args:
        model: an ONNX file.
        data: images; see `score`.
        out: the `.npz` that clean and adversarial images go to.
        source: the framework's model that gives gradients, as an adapter makes it.
        method: `Pgd` where there is a source and `Square` where there is none, if None.
        pixel_range: what the darkest and the brightest pixel are in the model's input, where the
            data does not tell.
        at_most: images attacked of each part; all if None.
        settings: preprocessing, parts, seed; see `score`.

    Raises:
        RepairkitError: anything that the user can mend.
    """
    subject, job = _job(model, data, settings)
    if method is None:
        method = Square() if source is None else Pgd()
    how = AttackSettings(method, pixel_range, at_most)
    named = None if source is None else (type(source).__name__, source)
    return attacking.attack(subject, job, how, out=Path(out), source=named)


def patch(
    model: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path,
    fairness: bool = False,
    remove: Sequence[str] = (),
    scores: str | Path | None = None,
    at_most: int = 16,
    max_drop: float = 0.01,
    objective: str | None = None,
    targets: Sequence[str] = (),
    choose: str = "joint",
    beam: int = 1,
    level: str | None = None,
    baselines: bool = False,
    score: ScoreSettings | None = None,
    robustness: bool = False,
    source: FrameworkModel | None = None,
    transfers: Sequence[str | Path] = (),
    settings: Settings | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Patched:
    """Choose filters, freeze them, prove the result and write it, as `repairkit patch` does.

    Args:
        model: an ONNX file.
        data: images; see `score`.
        out: the patched model; its patch file and report are written beside it.
        fairness: freeze what harms the worst group (needs `settings.groups`).
        remove: filter ids to freeze whatever they are worth.
        scores: a run folder whose values rank the candidates.
        at_most: filters frozen together at the most.
        max_drop: overall accuracy that may be lost, in [0, 1].
        objective: the metric to improve, in place of `fairness`.
        targets: figures that must be reached, such as "worst_group_accuracy>=0.8".
        choose: `joint`, or `plain` for the lowest-ranked filters, as many as look best.
        beam: sets of each size that the joint search goes on from.
        level: freeze at `mean`, `zero`, `bias`, or `best` for what the selection images like best.
        baselines: judge simpler cures beside the chosen one (`document["baselines"]`).
        score: how to score where no run is given; in the repair regime (`repair`) if None.
        robustness: freeze what serves an adversary; `data` is what `attack` wrote.
        source: the framework's model that the ONNX file came from, for a fresh white-box attack.
        transfers: what `attack` wrote with other models as sources, to be judged too.
        settings: groups, preprocessing, parts, sites, device, seed; see `score`.
        on_progress: called now and then while scoring.

    Raises:
        TargetNotMetError: freezing nothing is best; nothing is written.
        RepairkitError: anything else that the user can mend.
    """
    subject, job = _job(model, data, settings)
    plan = PatchSettings(
        tuple(Filter.parse(name) for name in remove),
        None if scores is None else Path(scores),
        fairness,
        at_most,
        max_drop,
        score or ScoreSettings("repair"),
        objective,
        tuple(Target.parse(text) for text in targets),
        choose,
        beam,
        level,
        baselines=baselines,
        robustness=robustness,
        attacks=FreshAttacks(
            None if source is None else (type(source).__name__, source), tuple(map(Path, transfers))
        ),
    )
    return patching.patch(subject, job, plan, out=Path(out), on_progress=on_progress)


def verify(
    original: str | Path,
    patched: str | Path,
    *,
    patch_file: str | Path | None = None,
    settings: Settings | None = None,
) -> Verified:
    """Prove that `patched` is `original` with just the claimed filters frozen.

    Args:
        original: the model before.
        patched: the model after.
        patch_file: its patch file; if None, the claims inside `patched` are proven, or where it
            makes none, what its tensors show to be frozen.
        settings: where they name data, outputs are compared on its first images, else on noise;
            see `score`.

    Raises:
        VerificationError: anything is not as claimed.
        RepairkitError: a file cannot be read.
    """
    subject, job = _job(original, None, settings)
    images = _proof_images(subject, job)
    file = None if patch_file is None else read_patch_file(Path(patch_file))
    return verifying.verify(subject, read_model(Path(patched)), file=file, images=images)


def _proof_images(subject: Subject, job: Settings) -> NDArray[Any] | None:
    if job.data is None:
        return None
    suite = read_images(subject, job)
    return suite.batch(np.arange(min(_PROOF_IMAGES, len(suite))))


def apply(
    model: str | Path,
    patch_file: str | Path,
    *,
    out: str | Path,
    settings: Settings | None = None,
) -> Applied:
    """Apply a patch file to the very model that it was made for, as `repairkit apply` does.

    Args:
        model: an ONNX file.
        patch_file: what `patch` wrote.
        out: the patched model.
        settings: where they name data, the result is proven on its first images, else on noise; see
            `score`.

    Raises:
        VerificationError: the patch is not for this model, was altered, changes nothing, or its
            result is not what it promises; nothing is written.
        RepairkitError: anything else that the user can mend.
    """
    file = read_patch_file(Path(patch_file))
    subject, job = _job(model, None, settings)
    return apply_patch(subject, file, out=Path(out), images=_proof_images(subject, job))


def revert(model: str | Path, patch_file: str | Path | None = None, *, out: str | Path) -> Reverted:
    """Give back, byte for byte, the model that a patch was made to, as `repairkit revert` does.

    Args:
        model: the patched model; of several patches the last one made comes off first.
        patch_file: what `patch` wrote; the one beside the model if None.
        out: the model before.

    Raises:
        VerificationError: the model is not what the patch made, or another patch lies upon it;
            nothing is written.
        RepairkitError: anything else that the user can mend.
    """
    path = Path(model)
    file = read_patch_file(companions(path)[0] if patch_file is None else Path(patch_file))
    return revert_patch(read_model(path), file, out=Path(out))


def export(
    source: str | Path | FrameworkModel,
    *,
    out: str | Path,
    data: str | Path | None = None,
    framework: str | None = None,
    weights: str | Path | None = None,
    input_shape: Sequence[int] | None = None,
    trust: bool = False,
    opset: int | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write a model of PyTorch or Keras as ONNX with a map of its layers, as `repairkit export`.

    Args:
        source: see `repairkit export --help`; or a model that an adapter holds, such as
            `repairkit_adapters.pytorch.wrap(module, (3, 224, 224))`.
        out: the ONNX file; the map goes beside it, and into its metadata.
        data: images on which outputs are compared; those of the settings if None, else noise.
        framework: an adapter's name; whoever takes the source if None.
        weights: a state dict for a factory.
        input_shape: of one image as the model takes it, where it does not tell itself.
        trust: run code that the source holds, such as Lambda layers.
        opset: of the ONNX file; the exporter's own choice if None.
        settings: preprocessing and more; what `repairkit.toml` says if None.
        on_progress: told how many filters are mapped, and of how many.

    Raises:
        AdapterError: the source, its weights or the framework is missing or unfit.
        ExportError: a layer cannot be exported, or the ONNX file computes something else.
        RepairkitError: anything else that the user can mend.
    """
    place = Path(out)
    job = settle({}, find_project(place, Path.cwd())) if settings is None else settings
    if data is not None:
        job = replace(job, data=Path(data))
    name = "model"
    if isinstance(source, str | Path):
        name = str(source)
        given = LoadOptions(
            None if weights is None else Path(weights),
            None if input_shape is None else tuple(input_shape),
            trust,
            opset,
        )
        source = load_framework_model(name, given, framework=framework)
    return exporting.export(source, place, settings=job, source=name, on_progress=on_progress)


def _job(
    model: str | Path, data: str | Path | None, settings: Settings | None
) -> tuple[Subject, Settings]:
    path = Path(model)
    job = settle({}, find_project(path, Path.cwd())) if settings is None else settings
    if data is not None:
        job = replace(job, data=Path(data))
    return read_subject(path, output=job.output, layout=job.preprocessing.layout), job
