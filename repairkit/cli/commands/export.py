"""`repairkit export`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from repairkit.cli.options import options
from repairkit.cli.shown import show
from repairkit.core.errors import SettingsError
from repairkit.core.framework import LoadOptions
from repairkit.jobs.export.adapters import load_framework_model
from repairkit.jobs.export.exporting import Exported, export


def export_command(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="module:factory, a .pt2 program or TorchScript of PyTorch; a saved Keras model.",
            metavar="SOURCE",
        ),
    ],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Result; SOURCE.onnx.")] = None,
    framework: Annotated[
        str | None, typer.Option("--framework", help="pytorch, keras or another adapter's name.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="State dict for a factory (safetensors or torch.save)."),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option("--input-shape", help="Of one image as the model takes it, as 3,224,224."),
    ] = None,
    trust: options.Trust = False,
    opset: Annotated[int | None, typer.Option("--opset", min=7, help="Of the ONNX file.")] = None,
    data: options.Data = None,
    output: options.Output = None,
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
    """Write a model of PyTorch or Keras as ONNX, with a proven map of its layers."""
    target = out or Path(f"{_stem(source)}.onnx")
    settings = options.settle_without_model(context.params, target)
    given = LoadOptions(weights, read_shape(input_shape), trust, opset)
    model = load_framework_model(source, given, framework=framework)
    done = export(model, target, settings=settings, source=source)
    if as_json:
        show.print_json(done.to_json())
    elif not quiet:
        _print(done)


def read_shape(text: str | None) -> tuple[int, ...] | None:
    """`3,224,224` or `3x224x224` as three numbers; None stays None.

    Raises:
        SettingsError: it is neither.
    """
    if text is None:
        return None
    parts = [part.strip() for part in re.split("[,x]", text)]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise SettingsError(
            f"--input-shape {text!r} is no shape; give the sizes of one image, such as 3,224,224"
        )
    return tuple(map(int, parts))


def _stem(source: str) -> str:
    path, colon, name = source.rpartition(":")
    return name.rpartition(".")[2] if colon and path else Path(source).stem


def _print(done: Exported) -> None:
    layers = done.layers
    show.table(
        f"{len(layers.layers)} layers of {layers.framework} and the sites that they became",
        ["layer", "kind", "filters", "site", "proven"],
        [
            [
                m.layer.name,
                m.layer.kind,
                str(m.layer.n_channels),
                m.site or f"none: {m.note}",
                "" if m.site is None else str(m.layer.n_channels - len(m.unproven)),
            ]
            for m in layers.layers
        ],
    )
    show.say(
        f"outputs on {done.n_images} images ({done.images}) equal {layers.framework}'s within "
        f"{done.relative:.1e} of the greatest"
    )
    show.say(
        f"{done.n_mapped} of {done.n_filters} filters have a layer and channel, {done.n_proven} of "
        "them proven by freezing them in both"
    )
    if not done.n_filters:
        show.say("note: the model has no filters that can be frozen; repairkit inspect tells why")
    if done.without_layer:
        show.say(f"note: sites without a layer: {', '.join(done.without_layer)}")
    if done.images != "given images":
        show.say("note: name real images with --data to prove it on those")
    show.say(f"model  {done.out}")
    show.say(f"map    {done.map_file}")
