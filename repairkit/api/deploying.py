"""What serves a patched model needs: overlays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

from repairkit.api.job_settings import JobKeywords, check_keywords, open_job
from repairkit.api.repairing import for_proof
from repairkit.data.given import GivenAs
from repairkit.formats.patch_file import read_patch_file
from repairkit.jobs.proof.overlaying import Overlaid, make_overlay
from repairkit.jobs.setup.workbench import Settings


def overlay(
    model: str | Path,
    patch_file: str | Path,
    data: GivenAs | None = None,
    *,
    out: str | Path,
    settings: Settings | None = None,
    **words: Unpack[JobKeywords],
) -> Overlaid:
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
    made = make_overlay(subject, file, out=Path(out), images=images, feeds=feeds)
    return replace(made, verified=replace(made.verified, layers=subject.layer_map))
