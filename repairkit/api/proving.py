"""Patches proven, applied and taken back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from repairkit.api.job_settings import open_job
from repairkit.core.arrays import Array
from repairkit.core.results import Applied, Reverted, Verified
from repairkit.formats.patch_file import read_patch_file
from repairkit.graph.stored.files import read_model
from repairkit.jobs.output.destination import Companions
from repairkit.jobs.proof import verifying
from repairkit.jobs.proof.undoing import apply_patch, revert_patch
from repairkit.jobs.setup.inputs import with_inputs
from repairkit.jobs.setup.reading import read_any
from repairkit.jobs.setup.settings import Settings
from repairkit.jobs.setup.subject import Subject

_PROOF_IMAGES = 64


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
    verified = verifying.verify(
        subject, read_model(Path(patched)), file=file, images=images, feeds=feeds
    )
    return replace(verified, layers=subject.layer_map)


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
    applied = apply_patch(subject, file, out=Path(out), images=images, feeds=feeds)
    return replace(applied, verified=replace(applied.verified, layers=subject.layer_map))


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
