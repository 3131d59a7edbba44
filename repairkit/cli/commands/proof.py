"""`repairkit verify`, `repairkit apply` and `repairkit revert`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from repairkit import api
from repairkit.cli.options.answer import Answer
from repairkit.cli.options.groups import argument, only, option
from repairkit.cli.options.job import PREPARATION, Job, settle_job


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The two models, and the patch between them."""

    original: Path = argument("The model before.", "ORIGINAL", default=...)
    patched: Path = argument("The model after.", "PATCHED", default=...)
    patch: Path | None = option("The patch file; what PATCHED claims or shows if left out.")


@dataclass(frozen=True, kw_only=True)
class ToApply:
    """A model, the patch that was made for it, and where the result goes."""

    model: Path = argument("The model that the patch was made for.", "MODEL", default=...)
    patch: Path = argument("The patch file (*.patch.json).", "PATCH", default=...)
    out: Path | None = option("The patched model; MODEL.patched.onnx.", "-o", "--out")


@dataclass(frozen=True, kw_only=True)
class ToRevert:
    """A patched model, the patch to undo, and where the result goes."""

    model: Path = argument("The patched model.", "MODEL", default=...)
    patch: Path | None = argument(
        "The patch file to undo; the one beside MODEL if left out.", "[PATCH]"
    )
    out: Path | None = option("The model before; MODEL.reverted.onnx.", "-o", "--out")


def verify_command(
    pair: Pair,
    job: Annotated[Job, only("data", "features", "image_input", "inputs", *PREPARATION)],
    answer: Answer,
) -> None:
    """Prove that PATCHED is ORIGINAL with just the claimed changes."""
    from repairkit.cli.shown.results import print_verified

    _, settings = settle_job(replace(job, model=pair.original))
    verified = api.verify(pair.original, pair.patched, patch_file=pair.patch, settings=settings)
    answer.give(
        verified.to_json,
        lambda: print_verified(verified, original=pair.original, patched=pair.patched),
    )


def apply_command(
    files: ToApply,
    job: Annotated[Job, only("data", "image_input", "inputs", *PREPARATION)],
    answer: Answer,
) -> None:
    """Apply a patch file to the exact model it was made for, and prove the result."""
    from repairkit.cli.shown.results import print_applied

    _, settings = settle_job(replace(job, model=files.model))
    out = files.out or Path(f"{files.model.stem}.patched.onnx")
    applied = api.apply(files.model, files.patch, out=out, settings=settings)
    answer.give(applied.to_json, lambda: print_applied(applied))


def revert_command(files: ToRevert, answer: Answer) -> None:
    """Undo a patch: give back, byte for byte, the model it was made to."""
    from repairkit.cli.shown.results import print_reverted

    out = files.out or Path(f"{files.model.stem}.reverted.onnx")
    reverted = api.revert(files.model, files.patch, out=out)
    answer.give(reverted.to_json, lambda: print_reverted(reverted))
