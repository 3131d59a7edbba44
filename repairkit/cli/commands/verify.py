"""`repairkit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repairkit.api import verify
from repairkit.cli.options import options
from repairkit.cli.shown import show
from repairkit.core.process.text import counted

_SHOWN = 30
_LONGEST = 40


def verify_command(
    context: typer.Context,
    original: Annotated[Path, typer.Argument(help="The model before.", metavar="ORIGINAL")],
    patched: Annotated[Path, typer.Argument(help="The model after.", metavar="PATCHED")],
    patch: Annotated[
        Path | None,
        typer.Option("--patch", help="The patch file; what PATCHED claims or shows if left out."),
    ] = None,
    data: options.Data = None,
    features: options.Features = None,
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
    """Prove that PATCHED is ORIGINAL with just the claimed changes."""
    subject, settings = options.settle_job({**context.params, "model": original})
    found = verify(original, patched, patch_file=patch, settings=settings)
    if as_json:
        show.print_json(found.to_json())
    elif not quiet:
        show.say(f"verified: {patched} is {original} with {show.changes(found.patch)}")
        if found.inferred:
            show.say(
                "it claims no patch; what was changed was inferred from the tensors that differ"
            )
        show.frozen("frozen filters", found.patch, subject.layer_map)
        show.say(
            f"bytes: {counted(len(found.edits), 'tensor')} changed and no other; "
            "undoing the patch gives the original back"
        )
        show.say(
            f"outputs on {counted(found.proof.n_images, 'image')} ({found.images}): "
            f"{show.agreement(found.proof)}"
        )
        if found.unproven:
            names = [name[:_LONGEST] for name in found.unproven[:_SHOWN]]
            more = len(found.unproven) - len(names)
            show.say(
                f"unproven: what the patch file says of {', '.join(names)}"
                f"{f' and {more} more' if more else ''}; two models cannot tell whether it is true"
            )
