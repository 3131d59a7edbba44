"""`repairkit inspect`."""

from __future__ import annotations

import typer

from repairkit.cli import options, show
from repairkit.core.text import counted
from repairkit.data.spec import describe_shape
from repairkit.workflows.inspection import Inspection, inspect
from repairkit.workflows.timing import PASSES_PER_FILTER, PassTime


def inspect_command(
    context: typer.Context,
    model: options.Model = None,
    output: options.Output = None,
    image_input: options.ImageInput = None,
    inputs: options.Inputs = None,
    sites_at: options.SitesAt = "pre-activation",
    include: options.Include = None,
    layout: options.Layout = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """List inputs, outputs, sites and filters, and what is left out and why."""
    subject, settings = options.settle_job(context.params)
    found = inspect(subject, settings)
    if as_json:
        show.print_json(found.to_json())
    elif not quiet:
        _print(found)


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
