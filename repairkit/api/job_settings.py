"""What all functions share: the model, its settings, a framework's model, keyword checks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repairkit.core import errors, framework
from repairkit.core.process.trust import GivenName
from repairkit.data.given import GivenAs, GivenData, as_data
from repairkit.data.project import find_project
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


def _parsed(given: Mapping[str, object]) -> dict[str, object]:
    settings = dict(given)
    if isinstance(given.get("columns"), str):
        settings["columns"] = read_columns(str(given["columns"]))
    inputs = given.get("inputs")
    if isinstance(inputs, (list, tuple)):
        settings["inputs"] = read_inputs(inputs) or None
    return settings


def open_job(
    model: str | Path,
    data: GivenAs | None,
    settings: Settings | None,
    more: Mapping[str, object] | None = None,
) -> tuple[Subject, Settings]:
    """The model, and its settings from arguments and `repairkit.toml`.

    Args:
        model: an ONNX file.
        data: replaces that of the settings, unless None; see `data.given.as_data`.
        settings: read from `repairkit.toml` if None.
        more: keywords of the calling function; only `trust` and `accept_preprocessing` are read.
    """
    path = Path(model)
    job = find_settings(path) if settings is None else settings
    if data is not None:
        job = with_data(job, data)
    if more is not None and more.get("trust"):
        job = replace(job, trust=True)
    if more is not None and more.get("accept_preprocessing"):
        job = replace(job, accept_preprocessing=True)
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
