"""What all functions share: the model, its settings, a framework's model, keyword checks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np

from repairkit.core import errors, framework, suite
from repairkit.core.process.trust import GivenName
from repairkit.data.given import GivenAs, GivenData, as_data
from repairkit.data.preprocessing import Preprocessing
from repairkit.data.project import find_project
from repairkit.jobs.setup.preparing import read_any, with_inputs
from repairkit.jobs.setup.settings import read_columns, read_inputs, settle
from repairkit.jobs.setup.subject import load_framework_model, read_subject
from repairkit.jobs.setup.workbench import Settings, Subject


def find_job(model: Path | None, given: Mapping[str, object]) -> tuple[Path, Settings]:
    """The model's file and the settings of a job, from options and `repairkit.toml`.

    Args:
        model: an ONNX file; that of `repairkit.toml` if None.
        given: see `find_settings`.

    Raises:
        SettingsError: no model is named, or an option is invalid.
        RepairkitError: the project file cannot be read.
    """
    project = find_project(model, Path.cwd())
    path = model or (project.model if project is not None else None)
    if path is None:
        raise errors.SettingsError(
            'no model was given; name an ONNX file, or write model = "model.onnx" into a '
            "repairkit.toml in this folder"
        )
    return path, settle(_parsed(given), project)


def find_settings(place: str | Path, given: Mapping[str, object] | None = None) -> Settings:
    """Settings from values, then `repairkit.toml` beside a file or in the working folder.

    Args:
        place: the model, or the file to write it to.
        given: values by the names of `Settings`; None or empty if not given. `columns` and
            `inputs` may be texts as on the command line; `preprocessing` and `parts` are mappings
            as in `repairkit.toml`.

    Raises:
        SettingsError: a value is invalid.
        RepairkitError: the project file cannot be read.
    """
    return settle(_parsed(given or {}), find_project(Path(place), Path.cwd()))


def plain_settings(given: Mapping[str, object]) -> Settings:
    """Settings from values alone, whatever `repairkit.toml` says; see `find_settings`.

    Raises:
        SettingsError: a value is invalid.
    """
    return settle(_parsed(given), None)


def _parsed(given: Mapping[str, object]) -> dict[str, object]:
    settings = dict(given)
    if isinstance(given.get("columns"), str):
        settings["columns"] = read_columns(str(given["columns"]))
    inputs = given.get("inputs")
    if isinstance(inputs, (list, tuple)):
        settings["inputs"] = read_inputs(inputs) or None
    return settings


_PROOF_IMAGES = 64


class JobKeywords(TypedDict, total=False):
    """Words of the command line that any job on images takes; they come before `settings`.

    Attributes:
        groups: columns that are crossed into groups: one name, or several; `auto` finds groups.
        class_names: the classes in the order of the model's outputs.
        label: the column of the data that holds the labels.
        calibration: images for means: all, a name or a share.
        selection: images to score and choose on.
        test: images used only to report.
        seed: of parts, search and intervals.
        scale: factor for pixels, such as `1/255`.
        mean: to subtract after scaling, one per channel.
        std: to divide by, one per channel.
        resize: height and width in pixels, or the shorter side.
        crop: height and width of a centre crop.
        color: `rgb`, `bgr` or `gray`.
        layout: `nchw` or `nhwc`.
        output: the output that is judged.
        columns: a range of its columns, as (first, behind) or as text such as `0:2`.
        threshold: from which a single output means the second class.
        outputs_are: `scores`, `probabilities`, `numbers` and so on.
        features: columns of a table that the model takes, in their order.
        corruptions: by which each image gets a spoiled copy: `common`, or several names.
        image_input: the input that takes the images.
        inputs: what further inputs are fed with, by their names.
        sites: patterns of sites; all if left out.
        sites_at: `pre-activation` or `post-activation`.
        include: further kinds of sites: `dense`, or `heads` and `mlp`.
        absent: what an absent filter yields: `mean`, `zero` or `bias`.
        device: `auto`, `cpu` or `cuda`.
        tf32: evaluate coalitions in fewer bits on a GPU.
        half: evaluate coalitions in half precision on a GPU.
        workers: threads; all cores if left out.
        batch_size: images of a coalition.
        cache_memory: bytes for what passes share.
        means: a file of means, as `repairkit.means` writes it.
    """

    groups: str | Sequence[str]
    class_names: Sequence[str]
    label: str
    calibration: str | float
    selection: str | float
    test: str | float
    seed: int
    scale: str | float
    mean: Sequence[float]
    std: Sequence[float]
    resize: int | Sequence[int]
    crop: int | Sequence[int]
    color: str
    layout: str
    output: str
    columns: str | tuple[int, int]
    threshold: float
    outputs_are: str
    features: Sequence[str]
    corruptions: str | Sequence[str]
    image_input: str
    inputs: Mapping[str, str]
    sites: Sequence[str]
    sites_at: str
    include: Sequence[str]
    absent: str
    device: str
    tf32: bool
    half: bool
    workers: int
    batch_size: int
    cache_memory: int
    means: str | Path


_PARTS = ("calibration", "selection", "test")
_PREPARATION = ("scale", "mean", "std", "resize", "crop", "color", "layout")
_NAMES = ("groups", "class_names", "features", "corruptions", "sites", "include")


def _of_words(words: Mapping[str, object]) -> dict[str, Any]:
    """Keywords by the names of `Settings`, as options have them."""
    said: dict[str, Any] = {}
    parts: dict[str, object] = {}
    preparation: dict[str, object] = {}
    for name in JobKeywords.__annotations__.keys() & words.keys():
        value = words[name]
        if name in _NAMES:
            several = (value,) if isinstance(value, str) else cast("Sequence[object]", value)
            value = tuple(map(str, several))
        elif name == "columns":
            value = (
                read_columns(value) if isinstance(value, str) else cast("tuple[int, int]", value)
            )
        elif name == "means":
            value = Path(cast("str | Path", value))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = list(value)
        if name in _PARTS:
            parts[name] = str(value)
        elif name in _PREPARATION:
            preparation[name] = value
        else:
            said[name] = value
    return (
        said
        | ({"parts": parts} if parts else {})
        | ({"preprocessing": preparation} if preparation else {})
    )


def _with_words(settings: Settings, said: Mapping[str, Any]) -> Settings:
    """The settings, with what keywords say in place of theirs."""
    given = dict(said)
    if "parts" in given:
        given["parts"] = replace(settings.parts, **given["parts"])
    if "preprocessing" in given:
        known = Preprocessing.from_mapping(given["preprocessing"], "the keywords")
        changed = {name: getattr(known, name) for name in given["preprocessing"]}
        given["preprocessing"] = replace(settings.preprocessing, **changed)
    return replace(settings, **given)


def job_settings(
    place: Path,
    data: GivenAs | None,
    settings: Settings | None,
    more: Mapping[str, object] | None = None,
) -> Settings:
    """The settings of a job, from arguments and `repairkit.toml`.

    Args:
        place: the model, or a file beside which `repairkit.toml` would stand.
        data: replaces that of the settings, unless None; see `data.given.as_data`.
        settings: read from `repairkit.toml` if None.
        more: keywords of the calling function; those of `JobKeywords`, `trust` and
            `accept_preprocessing` are read.

    Raises:
        SettingsError: a value makes no sense.
    """
    given = more or {}
    said = _of_words(given)
    job = find_settings(place, said) if settings is None else _with_words(settings, said)
    if data is not None:
        job = with_data(job, data)
    if given.get("trust"):
        job = replace(job, trust=True)
    if given.get("accept_preprocessing"):
        job = replace(job, accept_preprocessing=True)
    return job


def open_job(
    model: str | Path,
    data: GivenAs | None,
    settings: Settings | None,
    more: Mapping[str, object] | None = None,
) -> tuple[Subject, Settings]:
    """The model, and its settings from arguments and `repairkit.toml`.

    Args:
        model: an ONNX file.
        data: see `job_settings`.
        settings: see `job_settings`.
        more: see `job_settings`.

    Raises:
        SettingsError: a value makes no sense.
    """
    path = Path(model)
    job = job_settings(path, data, settings, more)
    subject = read_subject(
        path,
        output=job.output,
        layout=job.preprocessing.layout,
        image_input=job.image_input,
    )
    return subject, job


Metric = str | Callable[..., Any]
Metrics = Metric | Sequence[Metric]
"""Names of metrics, and functions of (outputs, labels, attributes)."""


def metric_names(metrics: Metrics | None) -> tuple[str, ...]:
    """The names of metrics; that of a function comes with it.

    Raises:
        SettingsError: two functions have one name.
    """
    if metrics is None:
        return ()
    several = [metrics] if isinstance(metrics, str) or callable(metrics) else list(metrics)
    names = tuple(each if isinstance(each, str) else GivenName.of(each) for each in several)
    twice = [name for name in names if isinstance(name, GivenName) and names.count(name) > 1]
    if twice:
        raise errors.SettingsError(
            f"two metrics have the name {twice[0]}; give one function another name (__qualname__)"
        )
    return names


def with_data(job: Settings, data: GivenAs) -> Settings:
    """The settings with other data; what was given as groups makes groups where none are named.

    Raises:
        DataError: it is nothing that can be data.
    """
    known = as_data(data)
    groups = known.groups if isinstance(known, GivenData) else ()
    return replace(job, data=known, groups=job.groups or groups)


def check_keywords(function: str, given: Mapping[str, object], known: type) -> None:
    """Refuse keywords that a function does not know.

    Raises:
        TypeError: there is an unknown keyword, as Python itself reports it.
    """
    for name in given.keys() - known.__annotations__.keys():
        raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")


def load_source(
    source: framework.FrameworkModel | framework.Source | None, subject: Subject, *, trust: bool
) -> tuple[str, framework.FrameworkModel] | None:
    """A framework's model with a name; a `Source` is loaded first.

    Raises:
        AdapterError: the model cannot be loaded.
    """
    if source is None:
        return None
    if not isinstance(source, framework.Source):
        return type(source).__name__, source
    options = framework.LoadOptions(
        source.weights, source.input_shape or _image_shape(subject), trust
    )
    return source.source, load_framework_model(source.source, options, framework=source.framework)


def _image_shape(subject: Subject) -> tuple[int, ...] | None:
    """The shape of one image of the ONNX model, channels first; None if a size is free."""
    spec = subject.spec
    sizes = [spec.channels, spec.height, spec.width]
    known = [size for size in sizes if size is not None]
    return tuple(known) if len(known) == len(sizes) else None


def for_proof(
    subject: Subject, job: Settings
) -> tuple[Subject, suite.Array | None, dict[str, suite.Array]]:
    """The first images of the data, if any, and the other inputs of the model."""
    if job.data is None:
        return with_inputs(subject, job, None), None, {}
    dataset = read_any(subject, job)
    first = np.arange(min(_PROOF_IMAGES, len(dataset.images)))
    feeds = {name: rows.batch(first) for name, rows in dataset.further.items()}
    return with_inputs(subject, job, dataset), dataset.images.batch(first), feeds
