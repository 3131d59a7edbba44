"""`repairkit attack`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from repairkit.attacks import Pgd, Square
from repairkit.cli.options import options, source_options
from repairkit.cli.shown import show
from repairkit.core.errors import SettingsError
from repairkit.core.patch import Figure
from repairkit.jobs.attack.attacking import Attacked, AttackSettings, attack


def attack_command(
    context: typer.Context,
    model: options.Model = None,
    data: options.Data = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The images, .npz; MODEL.attacked.npz.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="pgd (with --source) or square (by the ONNX file alone)."),
    ] = None,
    source: source_options.Source = None,
    weights: source_options.Weights = None,
    framework: source_options.Framework = None,
    input_shape: source_options.InputShape = None,
    trust: options.Trust = False,
    epsilon: Annotated[
        str, typer.Option("--epsilon", help="How far a pixel may move, of a range of 0 to 1.")
    ] = "16/255",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Gradients taken (pgd).")] = 30,
    step_size: Annotated[
        str, typer.Option("--step-size", help="How far a pixel moves in a step (pgd).")
    ] = "0.8/255",
    random_start: Annotated[
        bool, typer.Option("--random-start/--no-random-start", help="Start beside the image (pgd).")
    ] = True,
    queries: Annotated[
        int, typer.Option("--queries", min=1, help="Times an image is tried at the most (square).")
    ] = 1000,
    pixel_range: Annotated[
        str | None,
        typer.Option("--range", help="Pixel range in the model's input, LOW,HIGH, if not known."),
    ] = None,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Images attacked of each part; all.")
    ] = None,
    group: options.Groups = None,
    classes: options.Classes = None,
    output: options.Output = None,
    image_input: options.ImageInput = None,
    inputs: options.Inputs = None,
    columns: options.Columns = None,
    threshold: options.Threshold = None,
    outputs_are: options.OutputsAre = None,
    batch: options.Batch = 128,
    device: options.Device = "auto",
    seed: options.Seed = None,
    calibration: options.Calibration = None,
    selection: options.Selection = None,
    test: options.Test = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    color: options.Color = None,
    scale: options.Scale = None,
    mean: options.Mean = None,
    std: options.Std = None,
    layout: options.Layout = None,
    accept_preprocessing: options.AcceptPreprocessing = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make images that fool a model: each is moved a little, towards a class drawn at random."""
    if method is None:
        method = "square" if source is None else "pgd"
    reach = _fraction("--epsilon", epsilon)
    if method == "pgd":
        chosen: Pgd | Square = Pgd(reach, steps, _fraction("--step-size", step_size), random_start)
    elif method == "square":
        chosen = Square(reach, queries)
    else:
        raise SettingsError(f"there is no attack {method!r}; choose pgd or square")
    how = AttackSettings(chosen, _ends(pixel_range), images)
    subject, settings = options.settle_job(context.params)
    loaded = source_options.load_source(context.params, subject)
    done = attack(
        subject,
        settings,
        how,
        out=out or Path(f"{subject.file.path.stem}.attacked.npz"),
        source=loaded,
    )
    if as_json:
        show.print_json({"out": str(done.out), **done.document})
    elif not quiet:
        _print(done)


def _fraction(option: str, text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    try:
        number = float(numerator) / float(denominator) if slash else float(text)
        if not math.isfinite(number):
            raise ValueError
        return number
    except (ValueError, ZeroDivisionError):
        raise SettingsError(
            f"{option} {text!r} is no number; give one such as 16/255 or 0.06"
        ) from None


def _ends(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2:
        raise SettingsError(f"--range {text!r} is no range; give LOW,HIGH such as 0,1")
    return _fraction("--range", parts[0]), _fraction("--range", parts[1])


def _print(done: Attacked) -> None:
    document = done.document
    show.say(_in_words(document))
    rows = []
    for part in ("selection", "test"):
        if part not in document["figures"]:  # no test part was wanted
            continue
        found: Mapping[str, Any] = document["figures"][part]
        shares = ("clean_accuracy", "attack_success", "fooled")
        rows.append(
            [part, str(found["n_images"]), *(show.figure(n, Figure(**found[n])) for n in shares)]
        )
    show.table(
        "How the model fares, with 95 % intervals",
        ["part", "images", "accuracy on clean ones", "taken for the target", "missed"],
        rows,
    )
    change = document["figures"]["largest_change"]
    show.say(
        f"largest change of a pixel: {255 * change:.2f} of 255; pixel range: "
        f"{document['pixel_range']['from']}"
    )
    for note in document["notes"]:
        show.say(f"note: {note}")
    show.say(f"written to {done.out}")


def _in_words(document: Mapping[str, Any]) -> str:
    source, reach = document["source"], f"{255 * document['epsilon']:.3g}/255"
    if source["knowledge"] == "black-box":
        return (
            f"black-box attack through ONNX Runtime: {document['method']}, at most "
            f"{document['n_queries']} queries an image, within {reach}"
        )
    step = f"{255 * document['step_size']:.3g}/255"
    settings = f"{document['n_steps']} steps of {step} within {reach}"
    if source["knowledge"] == "white-box":
        return (
            f"white-box attack, {settings}: gradients of {source['name']}, which answers as the "
            f"ONNX model does (greatest difference {source['parity']:.1e})"
        )
    return (
        f"transfer attack, {settings}: gradients of {source['name']}, which answers otherwise than "
        "the ONNX model; if it was to be the same model, look at --weights and at how images are "
        "prepared"
    )
