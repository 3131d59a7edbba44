"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from repairkit.core.errors import SettingsError
from repairkit.core.process.trust import TRUST_HELP
from repairkit.data import find_project
from repairkit.jobs.setup.settings import Settings, read_columns, read_inputs, settle
from repairkit.jobs.setup.subject import Subject, read_subject

Model = Annotated[
    Path | None,
    typer.Argument(help="The ONNX file; the model of repairkit.toml if left out.", metavar="MODEL"),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of class folders, CSV or Parquet manifest, or .npz."),
]
Groups = Annotated[
    str | None,
    typer.Option("--group", help="Columns that make the groups, comma-separated; label is one."),
]
Classes = Annotated[
    str | None, typer.Option("--classes", help="Class names in the order of the outputs.")
]
Features = Annotated[
    str | None,
    typer.Option("--features", help="Columns of a table that the model takes, in its order."),
]
ImageInput = Annotated[
    str | None, typer.Option("--image-input", help="The input that takes the images.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NAME=VALUE", help="A constant for another input; may repeat."),
]
Sites = Annotated[
    list[str] | None, typer.Option("--sites", help="Only these sites (patterns; may repeat).")
]
SitesAt = Annotated[
    str, typer.Option("--sites-at", help="Read filters at pre-activation or activation.")
]
Include = Annotated[
    list[str] | None, typer.Option("--include", help="Further kinds of sites: dense.")
]
Absent = Annotated[
    str, typer.Option("--absent", help="What an absent filter yields: mean, zero or bias.")
]
Output = Annotated[str | None, typer.Option("--output", help="The output that is judged.")]
Columns = Annotated[
    str | None,
    typer.Option("--columns", help="Columns of the output that are judged, such as 0:2 or 3."),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", help="Number from which on a single column says class 1."),
]
OutputsAre = Annotated[
    str | None,
    typer.Option("--outputs-are", help="logits, probabilities or log-probabilities; else told."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Tf32 = Annotated[
    bool,
    typer.Option("--tf32/--no-tf32", help="Let a GPU evaluate coalitions in TF32."),
]
Half = Annotated[bool, typer.Option("--half", help="Evaluate coalitions in half precision.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Threads; all cores if left out.")
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images in one batch.")]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of parts, search and intervals.")
]
Calibration = Annotated[
    str | None,
    typer.Option("--calibration", help="Images for means: all, a name or a share (all but test)."),
]
Selection = Annotated[
    str | None,
    typer.Option(
        "--selection", help="Images to score and choose on: all, a name or a share (0.7)."
    ),
]
Test = Annotated[
    str | None,
    typer.Option("--test", help="Images that only report: all, none, a name or a share (0.3)."),
]
Resize = Annotated[
    str | None, typer.Option("--resize", help="Resize to HEIGHT,WIDTH or to a shorter side.")
]
Crop = Annotated[str | None, typer.Option("--crop", help="Centre crop to HEIGHT,WIDTH.")]
Color = Annotated[str | None, typer.Option("--color", help="rgb, bgr or gray.")]
Scale = Annotated[str | None, typer.Option("--scale", help="Factor for pixels, such as 1/255.")]
Mean = Annotated[
    str | None, typer.Option("--mean", help="Subtracted after scaling, one per channel.")
]
Std = Annotated[str | None, typer.Option("--std", help="Divides at last, one per channel.")]
Layout = Annotated[str | None, typer.Option("--layout", help="Input layout: nchw or nhwc.")]
CacheMemory = Annotated[
    str | None,
    typer.Option("--cache-memory", help="For what is kept between coalitions, such as 512M or 2G."),
]
Means = Annotated[
    Path | None,
    typer.Option("--means", help="File of common means that absent filters yield."),
]
Share = Annotated[
    Path | None,
    typer.Option("--share", help="Also write a run folder that may leave the data's owner."),
]
Trust = Annotated[bool, typer.Option("--trust", help=TRUST_HELP)]
AcceptPreprocessing = Annotated[
    bool,
    typer.Option(
        "--accept-preprocessing",
        help="Go on where images or classes are hardly as the model expects.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print no progress and no table.")]


_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"\s*|([^,]*))(,|\Z)')


def split_names(text: str | None) -> tuple[str, ...] | None:
    """A comma-separated list; None stays None. A name that holds a comma stands in quotes, "a,b".

    Raises:
        SettingsError: an empty name.
    """
    if text is None:
        return None
    names = tuple(_parts_of(text))
    if not all(names):
        raise SettingsError(f"{text!r} holds an empty name; separate names by single commas")
    return names


def _parts_of(text: str) -> Iterator[str]:
    """The names between commas, of any characters, line breaks too; quotes are taken off."""
    start, more = 0, True
    while more:
        found = _NAME.match(text, start)
        assert found is not None  # it matches nothing at all too
        quoted, bare, end = found.groups()
        yield bare.strip() if quoted is None else quoted.replace('""', '"').strip()
        start, more = found.end(), end == ","


def _image_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing as it would stand in `repairkit.toml`; only what was given."""
    options: dict[str, Any] = {
        "resize": _sizes(given.get("resize"), "--resize"),
        "crop": _sizes(given.get("crop"), "--crop"),
        "color": given.get("color"),
        "scale": given.get("scale"),
        "mean": split_names(given.get("mean")),
        "std": split_names(given.get("std")),
        "layout": given.get("layout"),
    }
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in options.items()
        if value is not None
    }


def _sizes(text: str | None, option: str) -> int | list[int] | None:
    if text is None:
        return None
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"{option} {text!r} is no size; give HEIGHT,WIDTH in pixels") from None
    return sizes[0] if len(sizes) == 1 else sizes


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    factors = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    if unit not in factors or not number.isdecimal():
        raise SettingsError(f"--cache-memory {text!r} is no amount; give one such as 512M or 2G")
    return int(number) * factors[unit]


def settle_job(given: Mapping[str, Any]) -> tuple[Subject, Settings]:
    """The model and the settings of a job, from a command's options and `repairkit.toml`.

    Args:
        given: options by name as typer parsed them (`Context.params`); a command that lacks an
            option leaves it to the project file and the defaults.

    Raises:
        SettingsError: no model was named, or an option makes no sense.
        RepairkitError: the project file or the model cannot be read.
    """
    model = given.get("model")
    project = find_project(model, Path.cwd())
    path = model or (project.model if project is not None else None)
    if path is None:
        raise SettingsError(
            'no model was given; name an ONNX file, or write model = "model.onnx" into a '
            "repairkit.toml in this folder"
        )
    settings = settle(_settings_options(given), project)
    subject = read_subject(
        path,
        output=settings.output,
        layout=settings.preprocessing.layout,
        image_input=settings.image_input,
    )
    return subject, settings


def settle_without_model(given: Mapping[str, Any], place: Path) -> Settings:
    """The settings of a job whose model is yet to be made, with `repairkit.toml` where that goes.

    Raises:
        SettingsError: an option makes no sense.
        RepairkitError: the project file cannot be read.
    """
    return settle(_settings_options(given), find_project(place, Path.cwd()))


def _settings_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options under the names that `Settings` has for them; None or empty where not given."""
    parts = ("calibration", "selection", "test")
    same = (
        "data", "output", "threshold", "outputs_are", "sites_at", "absent", "device", "tf32",
        "half", "workers", "seed", "means", "trust", "image_input",
    )  # fmt: skip
    return {
        **{name: given.get(name) for name in same},
        "columns": read_columns(given.get("columns")),
        "metrics": tuple(given.get("metric") or ()),
        "inputs": read_inputs(given.get("inputs") or ()) or None,
        "sites": tuple(given.get("sites") or ()),
        "include": tuple(given.get("include") or ()),
        "groups": split_names(given.get("group")),
        "class_names": split_names(given.get("classes")),
        "features": split_names(given.get("features")),
        "batch_size": given.get("batch"),
        "cache_memory": _bytes(given.get("cache_memory")),
        "parts": {name: given[name] for name in parts if given.get(name) is not None},
        "preprocessing": _image_options(given),
        "accept_preprocessing": given.get("accept_preprocessing") or None,
    }
