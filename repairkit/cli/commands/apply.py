"""`repairkit apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repairkit.api import apply
from repairkit.cli.options import options
from repairkit.cli.shown import show
from repairkit.core.process.text import counted


def apply_command(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(help="The model that the patch was made for.", metavar="MODEL")
    ],
    patch: Annotated[Path, typer.Argument(help="The patch file (*.patch.json).", metavar="PATCH")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The patched model; MODEL.patched.onnx.")
    ] = None,
    data: options.Data = None,
    image_input: options.ImageInput = None,
    inputs: options.Inputs = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    color: options.Color = None,
    scale: options.Scale = None,
    mean: options.Mean = None,
    std: options.Std = None,
    layout: options.Layout = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Apply a patch file to the exact model it was made for, and prove the result."""
    subject, settings = options.settle_job(context.params)
    target = out or Path(f"{model.stem}.patched.onnx")
    done = apply(model, patch, out=target, settings=settings)
    if as_json:
        show.print_json(done.to_json())
    elif not quiet:
        patch_made = done.verified.patch
        show.say(f"applied: {show.changes(patch_made)}")
        show.frozen("frozen filters", patch_made, subject.layer_map)
        show.say(
            f"verified on {counted(done.verified.proof.n_images, 'image')} "
            f"({done.verified.images}); the digest is the one that the patch file promises"
        )
        show.say(f"patched model  {done.out}")
