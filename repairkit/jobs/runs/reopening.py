"""Open the model and the data of a finished run again, as they were when it was scored."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from repairkit.core import errors
from repairkit.core.process.trust import without
from repairkit.data.given import NAMES, Data, GivenAs, as_data
from repairkit.formats.means_file import read_means
from repairkit.formats.run_file import RunDocument, RunFolder
from repairkit.jobs.runs.run_document import restored
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.settings import named_in
from repairkit.jobs.setup.subject import judging_the_model, read_subject
from repairkit.jobs.setup.workbench import Bench, Settings, Subject, check_metrics

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Whereabouts:
    """Where the model, the data and the common means of a run are; where it says so if None.

    `trust` lets code run that the run names, such as a metric of the user's. `without` is what to
    do where they cannot be found, for messages. `metrics` come with their functions, for runs whose
    metrics were given in Python.
    """

    model: Path | None = None
    data: Data | None = None
    means: Path | None = None
    trust: bool = False
    without: str = ""
    metrics: tuple[str, ...] = ()


def places_of(
    model: str | Path | None,
    data: GivenAs | None,
    means: str | Path | None,
    *,
    trust: bool,
    metrics: tuple[str, ...],
) -> Whereabouts:
    """Where the files of a run are now, from the arguments of a function."""
    return Whereabouts(
        model=None if model is None else Path(model),
        data=None if data is None else as_data(data),
        means=None if means is None else Path(means),
        trust=trust,
        metrics=metrics,
    )


def looked_at_again(
    folder: RunFolder, run: RunDocument, places: Whereabouts, look: Callable[[Bench], T]
) -> T:
    """What `look` finds on the bench of a run.

    Args:
        folder: of the run.
        run: what `run.json` says.
        places: of model, data and means.
        look: is given the bench.

    Raises:
        SettingsError: the run names code that is not trusted, or takes no means.
        RunFolderError: model or data have changed, do not exist, or cannot be run.
    """
    settings = _settings(folder, run, places)
    path = Path(run["model"]["path"]) if places.model is None else places.model
    try:
        subject = read_subject(
            path,
            output=settings.output,
            layout=settings.preprocessing.layout,
            image_input=settings.image_input,
        )
        if subject.file.digest != run["model"]["digest"]:
            raise errors.RunFolderError(f"{path}: is not the model that {folder.path} scored")
        return _look(subject, settings, run, look)
    except (OSError, errors.RepairkitError) as error:
        advice = f"name where they lie with --model and --data{_or(places)}"
        raise errors.RunFolderError(
            f"{folder.path}: its model or data: {error}; {advice}"
        ) from error


@judging_the_model
def _look(subject: Subject, settings: Settings, run: RunDocument, look: Callable[[Bench], T]) -> T:
    bench = prepare(subject, settings)
    if bench.dataset.digest != run["data"]["digest"]:
        raise errors.RunFolderError(f"{settings.data}: are not the data that were scored on")
    return look(bench)


def _settings(folder: RunFolder, run: RunDocument, places: Whereabouts) -> Settings:
    if places.data is None and run["data"]["path"] in NAMES:
        raise errors.RunFolderError(
            f"{folder.path}: was scored on {run['data']['path']}, which no file holds; give the "
            f"same data again, with data= in Python{_or(places)}"
        )
    data = Path(run["data"]["path"]) if places.data is None else places.data
    settings = restored(run, data=data, means=_means_file(folder.path, run, places))
    named_by = without(named_in(folder.run_file, settings.metrics), places.metrics)
    given = {name: name for name in places.metrics}
    metrics = tuple(given.get(name, name) for name in settings.metrics)
    settings = replace(settings, metrics=metrics, named_by=named_by, trust=places.trust)
    check_metrics(settings, settings.metrics)
    return settings


def _or(places: Whereabouts) -> str:
    return f", or {places.without}" if places.without else ""


def _means_file(folder: Path, run: RunDocument, places: Whereabouts) -> Path | None:
    """The common means that a run was scored with; None if it measured its own.

    Raises:
        SettingsError: means are given, but the run measured its own.
        RunFolderError: the recorded file does not exist, or now holds other means.
    """
    digest, given = run.get("means"), places.means
    if digest is None:
        if given is not None:
            raise errors.SettingsError(
                f"{folder}: was scored with the means of its calibration part; leave --means out"
            )
        return None
    path = _recorded_means(run) if given is None else given
    advice = f"name the file with --means{_or(places)}"
    if path is None or not path.is_file():
        place = "the run does not say where they lie" if path is None else f"{path} is no file"
        raise errors.RunFolderError(
            f"{folder}: was scored with common means (digest {digest[:12]}), and {place}; {advice}"
        )
    other = read_means(path).digest
    if other != digest:
        raise errors.RunFolderError(
            f"{path}: holds other means (digest {other[:12]}) than {folder} was scored with "
            f"({digest[:12]}); {advice}"
        )
    return path


def _recorded_means(run: RunDocument) -> Path | None:
    """Where the common means lay, from the options that score again."""
    words = iter(run.get("again", {}).get("words", []))
    for word in words:
        name, _, value = word.partition("=")
        if name == "--means":
            return Path(value or next(words, "")).expanduser()
    return None
