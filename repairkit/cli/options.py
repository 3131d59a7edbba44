"""Options that several commands share: the job, the search, a framework's model, the answer."""

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

DEBUG_HELP = "Log what is done, and show where an error arose."
PREPARATION = ("resize", "crop", "color", "scale", "mean", "std", "layout")


Offer = tuple[str, str]
"""A value, and what it means."""
Complete = Callable[[str], list[Offer]]


def one_of(*words: str) -> Complete:
    """Offer those of some words that begin as what is typed."""

    def complete(incomplete: str) -> list[Offer]:
        return [(word, "") for word in words if word.startswith(incomplete)]

    return complete


def offer_metrics(incomplete: str) -> list[Offer]:
    """Offer the metrics with their meaning; a class, a group or a number is typed after a colon."""
    from repairkit.api.listings import list_metrics

    names = {m.name.partition(":")[0] + ":" * (":" in m.name): m.meaning for m in list_metrics()}
    return [(name, meaning) for name, meaning in names.items() if name.startswith(incomplete)]


def offer_methods(incomplete: str) -> list[Offer]:
    """Offer the methods with what they estimate."""
    from repairkit.api.listings import list_methods

    return [(m.name, m.estimates) for m in list_methods() if m.name.startswith(incomplete)]


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Images, metrics, and the names of groups and classes."""

    title: ClassVar = "Data"
    data: Path | None = option("Folder of class folders, CSV or Parquet manifest, or .npz.")
    label: str | None = option("Column that holds the labels, if not label (in an .npz: y).")
    metric: list[str] | None = option(
        "Metric that values filters; may repeat, the first one steers.",
        autocompletion=offer_metrics,
    )
    group: str | None = option(
        "Columns that define groups, comma-separated, label among them; or auto, to find groups."
    )
    classes: str | None = option("Class names in the order of the outputs.")
    features: str | None = option("Table columns that the model takes, in its order.")
    corruptions: str | None = option(
        "Add spoiled copies of images: common, or names such as gaussian_noise,jpeg_compression:5.",
        metavar="NAMES",
    )


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """Which images are used for what."""

    title: ClassVar = "Parts of the data"
    calibration: str | None = option("Images for means: all, a name or a share (all but test).")
    selection: str | None = option("Images to score and choose on: all, a name or a share (0.7).")
    test: str | None = option("Images used only to report: all, none, a name or a share (0.3).")
    seed: int | None = option("Seed of parts, search and intervals.", min=0)


@dataclass(frozen=True, kw_only=True)
class PreparationOptions:
    """How stored images become the model's input."""

    title: ClassVar = "Preprocessing"
    resize: str | None = option("Resize to HEIGHT,WIDTH, or the shorter side to SIZE.")
    crop: str | None = option("Centre crop to HEIGHT,WIDTH.")
    color: str | None = option("rgb, bgr or gray.", autocompletion=one_of("rgb", "bgr", "gray"))
    scale: str | None = option("Factor for pixels, such as 1/255.")
    mean: str | None = option("Mean to subtract after scaling, one per channel.")
    std: str | None = option("Standard deviation to divide by, one per channel.")
    layout: str | None = option(
        "Input layout: nchw or nhwc.", autocompletion=one_of("nchw", "nhwc")
    )
    accept_preprocessing: bool = flag(
        "Continue although images or classes look unlike what the model expects."
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
    threshold: float | None = option("From this number on, a single column means class 1.")
    outputs_are: str | None = option(
        "logits, probabilities or log-probabilities; else detected.",
        autocompletion=one_of("logits", "probabilities", "log-probabilities"),
    )


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """Which filters to look at, and what they yield when absent."""

    title: ClassVar = "Filters"
    sites: list[str] | None = option("Only these sites (patterns; may repeat).")
    sites_at: str = option(
        "Read filters at pre-activation or activation.",
        default="pre-activation",
        autocompletion=one_of("pre-activation", "activation"),
    )
    include: list[str] | None = option(
        "Also these kinds of sites: dense, or heads and mlp of transformers.",
        autocompletion=one_of("dense", "heads", "mlp"),
    )
    absent: str = option(
        "What an absent filter yields: mean, zero or bias.",
        default="mean",
        autocompletion=one_of("mean", "zero", "bias"),
    )
    means: Path | None = option("File of common means for absent filters.")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where coalitions are evaluated."""

    title: ClassVar = "Device"
    device: str = option(
        "auto, cpu or cuda.",
        default="auto",
        autocompletion=one_of("auto", "cpu", "cuda"),
    )
    batch: int = option("Images in one batch.", default=128, min=1)
    tf32: bool = flag("Let a GPU evaluate coalitions in TF32.", "--tf32/--no-tf32")
    half: bool = flag("Evaluate coalitions in half precision.")
    workers: int | None = option("Threads; all cores if left out.", min=1)
    cache_memory: str | None = option(
        "Memory for results kept between coalitions, such as 512M or 2G."
    )


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """The model and the settings of a job; each command takes the options that it needs."""

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
        shares = {name: getattr(parts, name) for name in ("calibration", "selection", "test")}
        return {
            "trust": self.trust,
            "data": data.data,
            "label": data.label,
            "metrics": tuple(data.metric or ()),
            "groups": split_names(data.group),
            "class_names": split_names(data.classes),
            "features": split_names(data.features),
            "corruptions": split_names(data.corruptions),
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
            "include": tuple(
                name for words in filters.include or () for name in split_names(words) or ()
            ),
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
    """Preprocessing as `repairkit.toml` has it; only the options that were given."""
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


def read_fraction(option: str, text: str) -> float:
    """A number or a fraction such as 16/255; SettingsError where it is none."""
    numerator, slash, denominator = text.partition("/")
    try:
        number = float(numerator) / float(denominator) if slash else float(text)
        if not math.isfinite(number):
            raise ValueError
        return number
    except (ValueError, ZeroDivisionError):
        raise SettingsError(
            f"{option} {text!r} is not a number; give one such as 16/255 or 0.06"
        ) from None


def read_ends(text: str | None) -> tuple[float, float] | None:
    """A range of pixels as `--range` has it; SettingsError where it is none."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2:
        raise SettingsError(f"--range {text!r} is not a range; give LOW,HIGH such as 0,1")
    return read_fraction("--range", parts[0]), read_fraction("--range", parts[1])


def split_names(text: str | None) -> tuple[str, ...] | None:
    """A comma-separated list; None stays None. A name with a comma must be quoted: "a,b".

    Raises:
        SettingsError: an empty name.
    """
    if text is None:
        return None
    names = tuple(_names(text))
    if not all(names):
        raise SettingsError(f"{text!r} has an empty name; separate names by single commas")
    return names


def _names(text: str) -> Iterator[str]:
    """The names between commas, without quotes; any character is allowed, line breaks too."""
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
        raise SettingsError(
            f"{option} {text!r} is not a size; give HEIGHT,WIDTH in pixels"
        ) from None
    return sizes[0] if len(sizes) == 1 else sizes


def read_score_size(text: str | None) -> dict[str, tuple[int, int]]:
    """`128` or `96x128` as the argument of `api.score`; nothing where it was not given.

    Raises:
        SettingsError: the text is neither.
    """
    if text is None:
        return {}
    sides = text.lower().split("x")
    if len(sides) not in (1, 2) or not all(s.isdecimal() and int(s) > 0 for s in sides):
        raise SettingsError(
            f"--score-size {text!r} is not a size; give one side in pixels, such as 128, or "
            "HEIGHTxWIDTH, such as 96x128"
        )
    return {"score_size": (int(sides[0]), int(sides[-1]))}


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    factors = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
    if unit not in factors or not number.isdecimal():
        raise SettingsError(
            f"--cache-memory {text!r} is not an amount; give one such as 512M or 2G"
        )
    return int(number) * factors[unit]


# Written out because importing the estimators would load numpy.
METHODS = (
    "auto", "exact", "permutation", "tmab", "regression", "repair", "marginals", "stars",
    "leave-one-out", "random", "weight-norm", "activation-norm",
)  # fmt: skip
METHOD_HELP = f"{', '.join(METHODS)}, or module:object."


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to estimate values, and when to stop."""

    title: ClassVar = "Search"
    top_k: int | None = option("How many top filters to separate from the rest.", min=1)
    side: str | None = option(
        "highest, lowest or both.", autocompletion=one_of("highest", "lowest", "both")
    )
    epsilon: float | None = option("Tolerance of the top set.")
    delta: float | None = option("Allowed probability of a wrong top set.")
    truncate_at: float | None = option("Accuracy below which a walk is cut (v_T).")
    setting: list[str] | None = option(
        "A setting of the method; may repeat.", "--set", metavar="NAME=VALUE"
    )
    max_evaluations: int | None = option("Largest number of evaluated coalitions.", min=1)
    time_limit: float | None = option("Seconds that the command may take.", min=0.0)

    def of_method(self) -> dict[str, object]:
        """The settings of the method that were given.

        Raises:
            SettingsError: one of `--set` is not NAME=VALUE.
        """
        names = ("top_k", "side", "epsilon", "delta", "truncate_at")
        named = {name: getattr(self, name) for name in names}
        return {k: v for k, v in named.items() if v is not None} | _parse(self.setting or ())


def _parse(texts: Sequence[str]) -> dict[str, object]:
    """NAME=VALUE: numbers, true, false and null as in JSON, anything else as text."""
    settings: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise SettingsError(f"--set {text!r} is not a setting; write NAME=VALUE, as in lanes=4")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        if isinstance(parsed, float) and not math.isfinite(parsed):
            raise SettingsError(f"--set {text!r} is not a finite number; give one such as 0.5")
        settings[name.replace("-", "_")] = parsed
    return settings


_STAT = Path("/proc/self/stat")
_START_TIME = 19  # index among the fields after the process's name (proc(5))
_MOST_SECONDS = 600.0  # an older process began before this command


def process_began() -> float:
    """When this process began, by `time.monotonic`; now where the system does not say."""
    now = time.monotonic()
    try:
        fields = _STAT.read_text().rpartition(")")[2].split()
        ticks = int(fields[_START_TIME]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks
    except (OSError, AttributeError, ValueError, IndexError):  # not Linux
        return now
    return now - age if 0 <= age <= _MOST_SECONDS else now


def began(context: typer.Context) -> float:
    """When the command began: with its process, or now if a program called it."""
    known = context.obj
    return known if isinstance(known, float) else time.monotonic()


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """A framework's model: the one that the ONNX model came from, or another."""

    title: ClassVar = "Framework's model"
    source: str | None = option("Framework's model for gradients: module:factory.")
    weights: Path | None = option("State dict for the source, if it is a factory.")
    framework: str | None = option("Framework of the source, if its name does not show it.")
    input_shape: str | None = option("Image shape of the source, if not that of the ONNX model.")

    def named(self) -> "Source | None":
        """The model that the options name; None if they name none.

        Raises:
            SettingsError: an option is invalid, or is given without a source.
        """
        if self.source is None:
            for name in ("weights", "framework", "input_shape"):
                if getattr(self, name) is not None:
                    given = "--" + name.replace("_", "-")
                    raise SettingsError(f"{given} needs a source, and none was given; add --source")
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
        SettingsError: the text is neither.
    """
    if text is None:
        return None
    parts = [part.strip() for part in re.split("[,x]", text)]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise SettingsError(
            f"--input-shape {text!r} is not a shape; give the sizes of one image, such as 3,224,224"
        )
    return tuple(map(int, parts))


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What to print."""

    title: ClassVar = "Output"
    as_json: bool = flag("Print one JSON document and nothing else.", "--json")
    quiet: bool = flag("Print no progress and no table.")
    debug: bool = flag(DEBUG_HELP)

    def give(self, document: Callable[[], object], tell: Callable[[], None]) -> None:
        """Print the JSON document, or call `tell` to print tables, or print nothing."""
        if self.as_json:
            streams.print_json(document())
        elif not self.quiet:
            tell()
