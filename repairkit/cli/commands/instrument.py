"""`repairkit instrument`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repairkit.cli.options import options
from repairkit.cli.shown import show
from repairkit.graph.coalitions.instrument import mask_name
from repairkit.jobs.look.instrumenting import write_instrumented


def instrument_command(
    context: typer.Context,
    model: options.Model = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Result; MODEL.instrumented.onnx.")
    ] = None,
    data: options.Data = None,
    features: options.Features = None,
    image_input: options.ImageInput = None,
    inputs: options.Inputs = None,
    output: options.Output = None,
    sites: options.Sites = None,
    sites_at: options.SitesAt = "pre-activation",
    include: options.Include = None,
    absent: options.Absent = "mean",
    seed: options.Seed = None,
    calibration: options.Calibration = None,
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
    """Write the model with a run-time mask input per site."""
    subject, settings = options.settle_job(context.params)
    target = out or Path(f"{subject.file.path.stem}.instrumented.onnx")
    masked = write_instrumented(subject, settings, target)
    if as_json:
        masks = [{"input": mask_name(s), "filters": s.n_channels} for s in masked]
        show.print_json({"instrumented_model": str(target), "masks": masks})
    elif not quiet:
        show.say(f"{len(masked)} mask inputs, such as {mask_name(masked[0])}: written to {target}")
