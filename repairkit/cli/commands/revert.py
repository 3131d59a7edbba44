"""`repairkit revert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repairkit.api import revert
from repairkit.cli.options import options
from repairkit.cli.shown import show
from repairkit.core.process.text import counted


def revert_command(
    model: Annotated[Path, typer.Argument(help="The patched model.", metavar="MODEL")],
    patch: Annotated[
        Path | None,
        typer.Argument(
            help="The patch file to undo; the one beside MODEL if left out.", metavar="[PATCH]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The model before; MODEL.reverted.onnx.")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Undo a patch: give back, byte for byte, the model it was made to."""
    done = revert(model, patch, out=out or Path(f"{model.stem}.reverted.onnx"))
    if as_json:
        show.print_json(done.to_json())
    elif not quiet:
        back = [counted(len(done.patch), "filter")] if done.patch.frozen else []
        back += [] if done.patch.head is None else [f"the last layer {done.patch.head.layer!r}"]
        show.say(f"{' and '.join(back)} back as before, and the file byte for byte: {done.out}")
        if done.left:
            many = done.left != 1
            show.say(f"{done.left} earlier patch{'es are' if many else ' is'} still in the model")
