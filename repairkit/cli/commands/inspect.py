"""`repairkit inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repairkit.cli.options import options
from repairkit.cli.shown import show
from repairkit.core.process.text import counted
from repairkit.data.pixels.spec import describe_shape
from repairkit.jobs.look.inspection import Inspection, inspect
from repairkit.jobs.look.timing import PASSES_PER_FILTER, PassTime
from repairkit.jobs.setup.first_look import ErrorLook, FirstLook, first_look_lines
from repairkit.jobs.setup.looking import look_thoroughly


def inspect_command(
    context: typer.Context,
    model: options.Model = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Also try the usual preprocessings on these labelled images."),
    ] = None,
    group: options.Groups = None,
    classes: options.Classes = None,
    features: options.Features = None,
    output: options.Output = None,
    columns: options.Columns = None,
    threshold: options.Threshold = None,
    outputs_are: options.OutputsAre = None,
    image_input: options.ImageInput = None,
    inputs: options.Inputs = None,
    sites_at: options.SitesAt = "pre-activation",
    include: options.Include = None,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", help="mean_absolute_error for a regressor."),
    ] = None,
    seed: options.Seed = None,
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
    """List inputs, outputs, sites and filters, and what is left out and why."""
    subject, settings = options.settle_job(context.params)
    found = inspect(subject, settings)
    look = None if data is None else look_thoroughly(subject, settings)
    if as_json:
        show.print_json({**found.to_json(), **_look_to_json(look)})
    elif not quiet:
        _print(found)
        if look is not None:
            _print_look(look)


def _look_to_json(look: FirstLook | ErrorLook | str | None) -> dict[str, Any]:
    if look is None:
        return {}
    if isinstance(look, str):
        return {"first_look": None, "first_look_note": look}
    return {"first_look": look.to_json()}


def _print_look(look: FirstLook | ErrorLook | str) -> None:
    if isinstance(look, str):
        show.say(f"preprocessings were not tried: {look}")
        return
    for line in first_look_lines(look.to_json()):
        show.say(line)
    if isinstance(look, ErrorLook):
        return
    for title, found in (("preprocessing", look.ways), ("class order", look.orders)):
        if not found:
            continue
        n = len(found[0].right)
        best = max(found, key=lambda tried: tried.rank)
        marks = {look.ways[0].name: "in use"}
        if title == "preprocessing":
            marks[best.name] = "in use, best" if best is look.ways[0] else "best"
        show.table(
            f"{counted(len(found), title)} on {n} {look.part} images",
            [title, "accuracy", "commonest answer", "mean likelihood", ""],
            [
                [
                    tried.name,
                    f"{100 * tried.accuracy:.1f} %",
                    f"{100 * tried.share:.1f} %",
                    f"{tried.likelihood:.3f}",
                    marks.get(tried.name, ""),
                ]
                for tried in found
            ],
        )
    if look.doubt:
        show.say(f"doubtful: {look.doubt}; {look.remedy}")


def _print(found: Inspection) -> None:
    spec = found.subject.spec
    shape = " x ".join("?" if s is None else str(s) for s in spec.shape)
    show.say(f"model   {found.subject.file.path}")
    show.say(
        f"input   {found.subject.input_name}: {shape} {spec.dtype.name}, {spec.layout}, "
        f"batch {found.batch}"
    )
    for other in found.subject.further:
        each = ", a row per image" if other.per_image else ""
        show.say(f"beside  {other.name}: {describe_shape(other.shape)} {other.dtype.name}{each}")
    show.say(f"outputs {', '.join(found.outputs)} (judged: {found.subject.output})")
    layers = found.subject.layer_map
    rows = [
        [
            s.site.name,
            *([] if layers is None else [layers.layer_at(s.site.name)]),
            s.site.kind,
            str(s.site.n_channels),
            "" if s.share is None else f"{100 * s.share:.1f} %",
        ]
        for s in found.sites
    ]
    n_filters = sum(s.site.n_channels for s in found.sites)
    show.table(
        f"{counted(len(rows), 'site')} with {counted(n_filters, 'filter')}",
        ["site", *([] if layers is None else ["layer"]), "kind", "filters", "multiplications"],
        rows,
    )
    if found.left_out:
        show.table(
            f"{counted(len(found.left_out), 'layer')} left out",
            ["layer", "kind", "why"],
            [[x.name, x.kind, x.reason] for x in found.left_out],
        )
    if found.note:
        show.say(found.note)
    _print_passes(found.passes)


def _print_passes(passes: PassTime) -> None:
    if passes.seconds is None:
        show.say(passes.reason)
        return
    shape = " x ".join(map(str, passes.shape))
    show.say(
        f"one pass (an image of {shape}, {passes.batch} at a time, one core): "
        f"{show.short_duration(passes.seconds)}"
    )
    if passes.n_filters:
        told = ", ".join(
            f"{n} take {show.duration(passes.seconds_of(n) or 0.0)}" for n in PASSES_PER_FILTER
        )
        show.say(f"passes for each of the {passes.n_filters} filters, on one core: {told}")
