"""Repairs: made, proven, applied and taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from repairkit.api.jobs import open_job
from repairkit.core.arrays import Array
from repairkit.core.attacked import FreshAttacks
from repairkit.core.filters import Filter
from repairkit.core.framework import FrameworkModel
from repairkit.formats.patch_file import read_patch_file
from repairkit.graph.stored.files import read_model
from repairkit.jobs.output.destination import Companions
from repairkit.jobs.output.progress import Progress
from repairkit.jobs.proof import verifying
from repairkit.jobs.proof.undoing import Applied, Reverted, apply_patch, revert_patch
from repairkit.jobs.proof.verifying import Verified
from repairkit.jobs.repair import patching
from repairkit.jobs.repair.objective import Target
from repairkit.jobs.repair.patching import Patched, PatchSettings
from repairkit.jobs.score.methods import ScoreSettings
from repairkit.jobs.setup.inputs import with_inputs
from repairkit.jobs.setup.reading import read_any
from repairkit.jobs.setup.settings import Settings
from repairkit.jobs.setup.subject import Subject

_PROOF_IMAGES = 64


def patch(
    model: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path,
    fairness: bool = False,
    remove: Sequence[str] = (),
    scores: str | Path | None = None,
    at_most: int = 8,
    max_drop: float = 0.01,
    max_group_drop: float = 0.05,
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
    trust: bool = False,
    accept_preprocessing: bool = False,
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
        max_group_drop: what the accuracy of a group may lose, in [0, 1].
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
        trust: run code that `repairkit.toml` or the run in `scores` names; what is named in this
            call runs anyway.
        accept_preprocessing: go on where images or classes are hardly as the model expects
            (docs/guide/data.md).

    Raises:
        TargetNotMetError: freezing nothing is best; nothing is written.
        RepairkitError: anything else that the user can mend.
    """
    subject, job = open_job(
        model, data, settings, trust=trust, accept_preprocessing=accept_preprocessing
    )
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
        max_group_drop=max_group_drop,
    )
    return patching.patch(subject, job, plan, out=Path(out), on_progress=on_progress)


def verify(
    original: str | Path,
    patched: str | Path,
    *,
    patch_file: str | Path | None = None,
    settings: Settings | None = None,
) -> Verified:
    """Prove that `patched` is `original` with just the claimed changes.

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
    subject, job = open_job(original, None, settings)
    subject, images, feeds = _for_proof(subject, job)
    file = None if patch_file is None else read_patch_file(Path(patch_file))
    return verifying.verify(
        subject, read_model(Path(patched)), file=file, images=images, feeds=feeds
    )


def _for_proof(subject: Subject, job: Settings) -> tuple[Subject, Array | None, dict[str, Array]]:
    """The first images of the data, if there is any, and what the model takes beside them."""
    if job.data is None:
        return with_inputs(subject, job, None), None, {}
    dataset = read_any(subject, job)
    first = np.arange(min(_PROOF_IMAGES, len(dataset.images)))
    feeds = {name: rows.batch(first) for name, rows in dataset.further.items()}
    return with_inputs(subject, job, dataset), dataset.images.batch(first), feeds


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
    subject, job = open_job(model, None, settings)
    subject, images, feeds = _for_proof(subject, job)
    return apply_patch(subject, file, out=Path(out), images=images, feeds=feeds)


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
    file = read_patch_file(
        Companions.of(path).patch_file if patch_file is None else Path(patch_file)
    )
    return revert_patch(read_model(path), file, out=Path(out))
