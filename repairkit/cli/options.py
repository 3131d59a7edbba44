"""Options that several commands share: the job, the search, a framework's model, the answer."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import typer

from repairkit.cli import streams
from repairkit.cli.option_groups import argument, flag, option
from repairkit.core.errors import SettingsError
from repairkit.core.process.trust import TRUST_HELP

if TYPE_CHECKING:
    from repairkit.core.framework import Source

PREPARATION = ("resize", "crop", "color", "scale", "mean", "std", "layout")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Images, what they are judged by, and what is known of them."""

    title: ClassVar = "Data"
    data: Path | None = option("Folder of class folders, CSV or Parquet manifest, or .npz.")
    metric: list[str] | None = option("What filters are worth for; may repeat, the first steers.")
    group: str | None = option("Columns that make the groups, comma-separated; label is one.")
    classes: str | None = option("Class names in the order of the outputs.")
    features: str | None = option("Columns of a table that the model takes, in its order.")


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """Which images serve for what."""

    title: ClassVar = "Parts of the data"
    calibration: str | None = option("Images for means: all, a name or a share (all but test).")
    selection: str | None = option("Images to score and choose on: all, a name or a share (0.7).")
    test: str | None = option("Images that only report: all, none, a name or a share (0.3).")
    seed: int | None = option("Seed of parts, search and intervals.", min=0)


@dataclass(frozen=True, kw_only=True)
class PreparationOptions:
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
class PortOptions:
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
class FilterOptions:
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
class DeviceOptions:
    """Where coalitions are evaluated."""

    title: ClassVar = "Device"
    device: str = option("auto, cpu or cuda.", default="auto")
    batch: int = option("Images in one batch.", default=128, min=1)
    tf32: bool = flag("Let a GPU evaluate coalitions in TF32.", "--tf32/--no-tf32")
    half: bool = flag("Evaluate coalitions in half precision.")
    workers: int | None = option("Threads; all cores if left out.", min=1)
    cache_memory: str | None = option("For what is kept between coalitions, such as 512M or 2G.")


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """All that becomes the model and the settings of a job; commands take what concerns them."""

    model: Path | None = argument(
        "The ONNX file; the model of repairkit.toml if left out.", "MODEL"
    )
    trust: bool = flag(TRUST_HELP)
    data: DataOptions
    parts: PartOptions
    preparation: PreparationOptions
    ports: PortOptions
    filters: FilterOptions
    device: DeviceOptions

    def words(self) -> dict[str, object]:
        """The options by the names of `Settings`; None or empty where not given."""
        data, ports, filters = self.data, self.ports, self.filters
        device, parts = self.device, self.parts
        shares = {
            "calibration": parts.calibration,
            "selection": parts.selection,
            "test": parts.test,
        }
        return {
            "trust": self.trust,
            "data": data.data,
            "metrics": tuple(data.metric or ()),
            "groups": split_names(data.group),
            "class_names": split_names(data.classes),
            "features": split_names(data.features),
            "seed": parts.seed,
            "parts": {name: share for name, share in shares.items() if share is not None},
            "preprocessing": _image_words(self.preparation),
            "accept_preprocessing": self.preparation.accept_preprocessing or None,
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


def _image_words(given: PreparationOptions) -> dict[str, object]:
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


# Written out, for importing the estimators would load numpy.
METHODS = (
    "auto", "exact", "permutation", "tmab", "regression", "repair", "marginals", "leave-one-out",
    "random", "weight-norm", "activation-norm",
)  # fmt: skip
METHOD_HELP = f"{', '.join(METHODS)}, or module:object."


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How values are estimated, and where that ends."""

    title: ClassVar = "Search"
    top_k: int | None = option("How many filters to tell apart.", min=1)
    side: str | None = option("highest, lowest or both.")
    epsilon: float | None = option("Tolerance of the top set.")
    delta: float | None = option("Probability of a wrong top set.")
    truncate_at: float | None = option("Accuracy at which a walk is cut (v_T).")
    setting: list[str] | None = option(
        "A setting of the method; may repeat.", "--set", metavar="NAME=VALUE"
    )
    max_evaluations: int | None = option("Coalitions tried at the most.", min=1)
    time_limit: float | None = option("Seconds that the command may take.", min=0.0)

    def of_method(self) -> dict[str, object]:
        """Those settings of the method that were given.

        Raises:
            SettingsError: a further one is no NAME=VALUE.
        """
        named = {
            "top_k": self.top_k,
            "side": self.side,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "truncate_at": self.truncate_at,
        }
        return {k: v for k, v in named.items() if v is not None} | _parse(self.setting or ())


def _parse(texts: Sequence[str]) -> dict[str, object]:
    """NAME=VALUE: numbers, true, false and null as in JSON, all else as text."""
    settings: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise SettingsError(f"--set {text!r} is no setting; write NAME=VALUE, as in lanes=4")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        if isinstance(parsed, float) and not math.isfinite(parsed):
            raise SettingsError(f"--set {text!r} is not a finite number; give one such as 0.5")
        settings[name.replace("-", "_")] = parsed
    return settings


_STAT = Path("/proc/self/stat")
_START_TIME = 19  # of the fields behind the process's name (proc(5))
_MOST_SECONDS = 600.0  # an older process did not begin with this command


def process_began() -> float:
    """When this process began, by `time.monotonic`; now where the system does not tell."""
    now = time.monotonic()
    try:
        fields = _STAT.read_text().rpartition(")")[2].split()
        ticks = int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks
    except (OSError, AttributeError, ValueError, IndexError):  # no Linux
        return now
    return now - age if 0 <= age <= _MOST_SECONDS else now


def began(context: typer.Context) -> float:
    """When the command began: with its process, or now where a program called it."""
    known = context.obj
    return known if isinstance(known, float) else time.monotonic()


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The model of a framework that the ONNX model came from, or another one."""

    title: ClassVar = "Framework's model"
    source: str | None = option("The framework's model that gives gradients: module:factory.")
    weights: Path | None = option("State dict of the source, if it is a factory.")
    framework: str | None = option("Whose the source is, if that is not clear.")
    input_shape: str | None = option("Of one image of the source, if not the ONNX model's.")

    def named(self) -> Source | None:
        """The model that the options name; None where they name none.

        Raises:
            SettingsError: an option makes no sense, or is given without a source.
        """
        if self.source is None:
            for name in ("weights", "framework", "input_shape"):
                if getattr(self, name) is not None:
                    given = "--" + name.replace("_", "-")
                    raise SettingsError(f"{given} is of a source, and none was given; add --source")
            return None
        from repairkit.core.framework import Source

        return Source(
            self.source,
            weights=self.weights,
            framework=self.framework,
            input_shape=read_shape(self.input_shape),
        )


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


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What is printed."""

    title: ClassVar = "Output"
    as_json: bool = flag("Print one JSON document and nothing else.", "--json")
    quiet: bool = flag("Print no progress and no table.")

    def give(self, document: Callable[[], object], tell: Callable[[], None]) -> None:
        """Print the document, or tell people, or neither."""
        if self.as_json:
            streams.print_json(document())
        elif not self.quiet:
            tell()
