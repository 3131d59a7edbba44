"""Options of a job on a model and images, and how they become its settings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from repairkit import api
from repairkit.cli.options.groups import argument, flag, option
from repairkit.core.errors import SettingsError
from repairkit.core.process.trust import TRUST_HELP

if TYPE_CHECKING:
    from repairkit.api import Settings

PREPARATION = ("resize", "crop", "color", "scale", "mean", "std", "layout")


@dataclass(frozen=True, kw_only=True)
class Data:
    """Images, what they are judged by, and what is known of them."""

    title: ClassVar = "Data"
    data: Path | None = option("Folder of class folders, CSV or Parquet manifest, or .npz.")
    metric: list[str] | None = option("What filters are worth for; may repeat, the first steers.")
    group: str | None = option("Columns that make the groups, comma-separated; label is one.")
    classes: str | None = option("Class names in the order of the outputs.")
    features: str | None = option("Columns of a table that the model takes, in its order.")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which images serve for what."""

    title: ClassVar = "Parts of the data"
    calibration: str | None = option("Images for means: all, a name or a share (all but test).")
    selection: str | None = option("Images to score and choose on: all, a name or a share (0.7).")
    test: str | None = option("Images that only report: all, none, a name or a share (0.3).")
    seed: int | None = option("Seed of parts, search and intervals.", min=0)


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How stored images become the model's input."""

    title: ClassVar = "Preprocessing"
    resize: str | None = option("Resize to HEIGHT,WIDTH or to a shorter side.")
    crop: str | None = option("Centre crop to HEIGHT,WIDTH.")
    color: str | None = option("rgb, bgr or gray.")
    scale: str | None = option("Factor for pixels, such as 1/255.")
    mean: str | None = option("Subtracted after scaling, one per channel.")
    std: str | None = option("Divides at last, one per channel.")
    layout: str | None = option("Input layout: nchw or nhwc.")
    accept_preprocessing: bool = flag(
        "Go on where images or classes are hardly as the model expects."
    )


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The inputs and outputs of the model."""

    title: ClassVar = "Inputs and outputs"
    image_input: str | None = option("The input that takes the images.")
    inputs: list[str] | None = option(
        "A constant for another input; may repeat.", "--input", metavar="NAME=VALUE"
    )
    output: str | None = option("The output that is judged.")
    columns: str | None = option("Columns of the output that are judged, such as 0:2 or 3.")
    threshold: float | None = option("Number from which on a single column says class 1.")
    outputs_are: str | None = option("logits, probabilities or log-probabilities; else told.")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which filters there are, and what they yield when absent."""

    title: ClassVar = "Filters"
    sites: list[str] | None = option("Only these sites (patterns; may repeat).")
    sites_at: str = option(
        "Read filters at pre-activation or activation.", default="pre-activation"
    )
    include: list[str] | None = option("Further kinds of sites: dense.")
    absent: str = option("What an absent filter yields: mean, zero or bias.", default="mean")
    means: Path | None = option("File of common means that absent filters yield.")


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where coalitions are evaluated."""

    title: ClassVar = "Device"
    device: str = option("auto, cpu or cuda.", default="auto")
    batch: int = option("Images in one batch.", default=128, min=1)
    tf32: bool = flag("Let a GPU evaluate coalitions in TF32.", "--tf32/--no-tf32")
    half: bool = flag("Evaluate coalitions in half precision.")
    workers: int | None = option("Threads; all cores if left out.", min=1)
    cache_memory: str | None = option("For what is kept between coalitions, such as 512M or 2G.")


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that becomes the model and the settings of a job; commands take what concerns them."""

    model: Path | None = argument(
        "The ONNX file; the model of repairkit.toml if left out.", "MODEL"
    )
    trust: bool = flag(TRUST_HELP)
    data: Data
    parts: Parts
    preparation: Preparation
    ports: Ports
    filters: Filters
    device: Device


def settle_job(job: Job) -> tuple[Path, Settings]:
    """The model's file and the settings: options first, then `repairkit.toml`, then defaults.

    Raises:
        SettingsError: no model was named, or an option makes no sense.
        RepairkitError: the project file cannot be read.
    """
    return api.find_job(job.model, _words(job))


def settle_without_model(job: Job, place: Path) -> Settings:
    """The settings of a job whose model is yet to be made, with `repairkit.toml` where that goes.

    Raises:
        SettingsError: an option makes no sense.
        RepairkitError: the project file cannot be read.
    """
    return api.find_settings(place, _words(job))


def _words(job: Job) -> dict[str, object]:
    """Options under the names that `Settings` has for them; None or empty where not given."""
    data, ports, filters, device, parts = job.data, job.ports, job.filters, job.device, job.parts
    shares = {"calibration": parts.calibration, "selection": parts.selection, "test": parts.test}
    return {
        "trust": job.trust,
        "data": data.data,
        "metrics": tuple(data.metric or ()),
        "groups": split_names(data.group),
        "class_names": split_names(data.classes),
        "features": split_names(data.features),
        "seed": parts.seed,
        "parts": {name: share for name, share in shares.items() if share is not None},
        "preprocessing": _image_words(job.preparation),
        "accept_preprocessing": job.preparation.accept_preprocessing or None,
        "image_input": ports.image_input,
        "inputs": tuple(ports.inputs or ()),
        "output": ports.output,
        "columns": ports.columns,
        "threshold": ports.threshold,
        "outputs_are": ports.outputs_are,
        "sites": tuple(filters.sites or ()),
        "sites_at": filters.sites_at,
        "include": tuple(filters.include or ()),
        "absent": filters.absent,
        "means": filters.means,
        "device": device.device,
        "batch_size": device.batch,
        "tf32": device.tf32,
        "half": device.half,
        "workers": device.workers,
        "cache_memory": _bytes(device.cache_memory),
    }


def _image_words(given: Preparation) -> dict[str, object]:
    """Preprocessing as it would stand in `repairkit.toml`; only what was given."""
    words: dict[str, object] = {
        "resize": _sizes(given.resize, "--resize"),
        "crop": _sizes(given.crop, "--crop"),
        "color": given.color,
        "scale": given.scale,
        "mean": _list(given.mean),
        "std": _list(given.std),
        "layout": given.layout,
    }
    return {name: value for name, value in words.items() if value is not None}


_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"\s*|([^,]*))(,|\Z)')


def split_names(text: str | None) -> tuple[str, ...] | None:
    """A comma-separated list; None stays None. A name that holds a comma stands in quotes, "a,b".

    Raises:
        SettingsError: an empty name.
    """
    if text is None:
        return None
    names = tuple(_names(text))
    if not all(names):
        raise SettingsError(f"{text!r} holds an empty name; separate names by single commas")
    return names


def _names(text: str) -> Iterator[str]:
    """The names between commas, of any characters, line breaks too; quotes are taken off."""
    start, more = 0, True
    while more:
        match = _NAME.match(text, start)
        assert match is not None  # the pattern also matches an empty text
        quoted, bare, end = match.groups()
        yield bare.strip() if quoted is None else quoted.replace('""', '"').strip()
        start, more = match.end(), end == ","


def _list(text: str | None) -> list[str] | None:
    names = split_names(text)
    return None if names is None else list(names)


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
