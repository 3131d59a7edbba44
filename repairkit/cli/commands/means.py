"""`repairkit means`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repairkit.cli.options import options
from repairkit.cli.shown import show
from repairkit.core.errors import SettingsError
from repairkit.formats.means_file import CommonMeans
from repairkit.jobs.owners.measuring import (
    check_means_place,
    compute_means,
    merge_means,
    write_means,
)


def means_command(
    context: typer.Context,
    model: options.Model = None,
    data: options.Data = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File; MODEL.means.json.")] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option("--merge", help="Add up this file of means; repeat for each owner."),
    ] = None,
    features: options.Features = None,
    image_input: options.ImageInput = None,
    inputs: options.Inputs = None,
    output: options.Output = None,
    sites: options.Sites = None,
    sites_at: options.SitesAt = "pre-activation",
    include: options.Include = None,
    device: options.Device = "auto",
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
    """Compute what absent filters are to yield, over all images; or add up several owners' sums."""
    if merge:
        if model is not None or data is not None:
            raise SettingsError("--merge needs no model and no data; leave them out")
        if out is None:
            raise SettingsError("--merge needs a file to write; name it with -o")
        found, place = merge_means(merge), out
    else:
        subject, settings = options.settle_job(context.params)
        place = out or subject.file.path.with_suffix(".means.json")
        check_means_place(place)
        found = compute_means(subject, settings)
    write_means(place, found)
    if as_json:
        show.print_json({k: v for k, v in found.to_json().items() if k != "sites"})
    elif not quiet:
        _print(found, place)


def _print(found: CommonMeans, place: Path) -> None:
    n_filters = sum(len(sums.total) for sums in found.sums.values())
    show.say(f"means of {n_filters} filters over {found.n_images} images: {place}")
    show.say(f"digest {found.digest[:12]}; score with --means {place}")
