"""Look at later images of a repaired model: do its promises hold?

A look takes labelled images, leaves out those that were counted before, runs the model on the new
ones, and adds their outcomes to the state. Which images count, and in which order, must not depend
on how they come out: an image that is left out because it came out wrong would break the bounds. So
nothing here looks at answers before a look is written, and the usual check of the preprocessing,
which stops a job where a model does badly, is not made.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.process.stages import stage
from repairkit.core.process.text import listing
from repairkit.data.annotations import AUTO, HOW_NUMBERED, columns_to_group, cross_groups
from repairkit.data.dataset import Dataset
from repairkit.data.parts import NO_IMAGES, PartPlan
from repairkit.formats import documents
from repairkit.formats.looks import monitor_file
from repairkit.graph.stored.model_files import ModelFile, read_model
from repairkit.jobs.monitor import promised
from repairkit.jobs.monitor.monitored import Monitored, prometheus_text, standings_of
from repairkit.jobs.output import destination, signs_of_life
from repairkit.jobs.runs import claiming, run_document
from repairkit.jobs.setup.preparing import opened_beside, outputs_of, prepare, read_dataset
from repairkit.jobs.setup.subject import judging_the_model
from repairkit.jobs.setup.workbench import Bench, Settings, Subject

_HASHED = 256
_READ_AS = (
    "label", "features", "image_input", "output", "columns", "threshold", "outputs_are",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """How a promise is watched.

    Attributes:
        state: the file of the images so far; `NAME.monitor.json` beside the model if None.
        promise: the patch file; the one beside the model if None.
        floors: given by hand, in place of those that the patch file tells.
        original: the model before, to watch gains too.
        confidence: with which an alarm is true, over all looks and figures together.
        in_order: count the images of a look in the order of the data, else by their digests.
        prometheus: a file for Prometheus's textfile collector.
    """

    state: Path | None = None
    promise: Path | None = None
    floors: tuple[promised.PromisedFigure, ...] = ()
    original: Path | None = None
    confidence: float = 0.95
    in_order: bool = False
    prometheus: Path | None = None

    def __post_init__(self) -> None:
        if not 0.5 <= self.confidence < 1.0:
            raise errors.SettingsError(
                f"a confidence of {self.confidence:g} makes no sense; give one from 0.5 to below 1"
            )
        if self.original is None and any(each.is_gain for each in self.floors):
            raise errors.SettingsError(
                "a gain is watched by comparing with the original; name it with --original"
            )


@judging_the_model
def monitor(subject: Subject, settings: Settings, asked: MonitorSettings) -> Monitored:
    """Look at images that came since, and say whether the promises hold.

    Raises:
        SettingsError: nothing was promised, or the state watches something else.
        VerificationError: the patch file, the original or the state is not what it claims to be.
        RunFolderError: another process writes the state, or it cannot be written.
        DataError: the images cannot be read, or have no labels.
    """
    path = subject.file.path
    place = asked.state or path.with_name(f"{path.stem}.monitor.json")
    library = None
    destination.is_file(place)  # refuses what no file may replace
    if asked.prometheus is not None and asked.prometheus.absolute() == place.absolute():
        raise errors.SettingsError(f"{place}: is the state, too; give another --prometheus-file")
    if asked.prometheus is not None:
        library = signs_of_life.prometheus_library(asked.prometheus)
    with claiming.locked_file(place, "--state"):
        known = monitor_file.read_monitor(place) if place.exists() else None
        promise = _promise(subject.file, asked)
        original = _original(asked, promise)
        settings = _settings(settings, promise)
        ungrouped = replace(settings, groups=())
        dataset = read_dataset(subject, ungrouped, regression=False)
        _check_later(dataset, promise)
        groups, about, notes = _grouped(dataset, settings, promise, known)
        bench = prepare(subject, ungrouped, dataset=replace(dataset, annotations=about))
        _check_names(bench)
        figures = _figures(asked, promise, known, about if groups else None)
        document = _begun(bench, asked, promise, original, groups, figures)
        if known is not None:
            _check_same(place, known, document)
            document = {**document, "figures": known["figures"], "looks": known["looks"]}
        notes = (*(promise.notes if promise else ()), *notes, *_unwatched(document, about))
        new, names, n_seen = _new_images(bench, document, in_order=asked.in_order)
        if len(new):
            look = _look(bench, document, original, new, names)
            look["in_order"] = asked.in_order
            document = {**document, "looks": [*document["looks"], look]}
        standings = standings_of(document)
        with documents.outputs(place) as drafts:
            if len(new) or known is None:
                drafts.write(place, monitor_file.monitor_text(document).encode())
            if library is not None and asked.prometheus is not None:
                last = document["looks"][-1]["time"] if document["looks"] else _now()
                seconds = datetime.fromisoformat(last).timestamp()
                text = prometheus_text(library, standings, path.name, seconds)
                drafts.write(asked.prometheus, text)
    return Monitored(
        model=path,
        state=place,
        document=document,
        standings=standings,
        n_new=len(new),
        n_seen=n_seen,
        notes=tuple(dict.fromkeys(notes)),
    )


def _promise(model: ModelFile, asked: MonitorSettings) -> promised.Promise | None:
    """What the patch file promises; None without one, where floors are given by hand.

    Raises:
        SettingsError: nothing was promised.
    """
    path = asked.promise or destination.Companions.of(model.path).patch_file
    promise = None
    if asked.promise is not None or path.exists():
        promise = promised.read_promise(path, model.digest, with_gains=asked.original is not None)
    if asked.floors:
        return None if promise is None else replace(promise, notes=())
    if promise is None:
        raise errors.SettingsError(
            f"{model.path}: nothing tells what was promised: {path.name} is not beside it; name "
            "the patch file with --promise, or a floor with --floor, such as --floor accuracy=0.9"
        )
    if not promise.floors:
        raise errors.SettingsError(
            f"{path}: promises no share of right answers ({'; '.join(promise.notes) or 'it has '}"
            f"{'' if promise.notes else 'no figures'}); name a floor with --floor, such as "
            "--floor accuracy=0.9"
        )
    return promise


def _original(asked: MonitorSettings, promise: promised.Promise | None) -> ModelFile | None:
    """The model before, if gains are watched.

    Raises:
        VerificationError: it is not the model that the patch was made for.
    """
    if asked.original is None:
        return None
    file = read_model(asked.original)
    if promise is not None and file.digest != promise.source_digest:
        raise errors.VerificationError(
            f"{asked.original}: is not the model that was repaired ({promise.path} names "
            f"{promise.source_digest[:16]}, and this one has {file.digest[:16]}); give that one"
        )
    return file


def _settings(settings: Settings, promise: promised.Promise | None) -> Settings:
    """The settings of a look: every image counts, and each once."""
    known = settings if promise is None else promise.settings(settings)
    every = PartPlan(calibration="all", selection="all", test=NO_IMAGES)
    return replace(known, metrics=("accuracy",), parts=every, corruptions=(), named_by={})


def _check_later(dataset: Dataset, promise: promised.Promise | None) -> None:
    """Refuse the images that made the promise.

    Raises:
        SettingsError: they are these.
    """
    if promise is not None and dataset.digest == promise.data_digest:
        raise errors.SettingsError(
            "these are the images on which the repair was chosen and confirmed; a promise is "
            "watched on images that came later: name them with --data"
        )


def _check_names(bench: Bench) -> None:
    """Refuse names of classes that are numbered by sorting where some classes have no image.

    Raises:
        SettingsError: labels are such names.
    """
    names = bench.dataset.annotations.class_names
    if bench.dataset.reading == HOW_NUMBERED and len(names) < bench.n_classes:
        raise errors.SettingsError(
            f"the images are of {len(names)} classes ({listing(names)}), the model has "
            f"{bench.n_classes}, and nothing tells which is which; name all in the model's order "
            "with --classes"
        )


def _grouped(
    dataset: Dataset,
    settings: Settings,
    promise: promised.Promise | None,
    known: monitor_file.MonitorDocument | None,
) -> tuple[list[str], suite.Annotations, tuple[str, ...]]:
    """The columns of the groups, the annotations with these groups, and what to know of them.

    Columns that only the promise names may be missing at the first look; then no group is watched.
    """
    about = dataset.annotations
    told = promise.columns if promise is not None else ()
    by_hand = bool(settings.groups) and settings.groups != told
    columns = settings.groups if by_hand else told
    if known is not None and not by_hand:
        columns = tuple(known["groups"])
    about = replace(about, groups=None, group_names=())
    if not columns:
        return [], about, ()
    attributes = columns_to_group(about, columns)
    if AUTO in columns and AUTO not in attributes:
        return [], about, (promised.FOUND,)
    missing = [name for name in columns if name not in attributes]
    if missing and known is None and not by_hand:
        why = f"groups are not watched: the images have no column {listing(missing)}"
        return [], about, (why,)
    groups, names = cross_groups(attributes, columns, lambda row: f"image {row + 1}")
    return list(columns), replace(about, groups=groups, group_names=names), ()


def _figures(
    asked: MonitorSettings,
    promise: promised.Promise | None,
    known: monitor_file.MonitorDocument | None,
    grouped: suite.Annotations | None,
) -> tuple[promised.PromisedFigure, ...]:
    """The figures to watch: by hand, else as promised; groups are those known beforehand, if any.

    Args:
        asked: the settings.
        promise: of the patch file.
        known: the state so far.
        grouped: the annotations of the images; None without groups.
    """
    floors = asked.floors or (promise.floors if promise is not None else ())
    if grouped is None and not asked.floors:
        floors = tuple(each for each in floors if not each.of_group)
    told = promise.floors if promise is not None else ()
    if known is not None:
        told = tuple(map(promised.PromisedFigure.of_state, known["figures"]))
    named = tuple(each.of[1] for each in told if each.of_group and not each.is_gain)
    return promised.for_each_group(floors, () if grouped is None else named or grouped.group_names)


def _begun(
    bench: Bench,
    asked: MonitorSettings,
    promise: promised.Promise | None,
    original: ModelFile | None,
    groups: list[str],
    figures: Sequence[promised.PromisedFigure],
) -> monitor_file.MonitorDocument:
    """A state without looks."""
    settings = bench.settings
    assert bench.form is not None
    return {
        "schema": monitor_file.SCHEMA,
        "kind": monitor_file.KIND,
        "model": _named(bench.subject.file),
        "original": None if original is None else _named(original),
        "promise": promise.digest if promise is not None and not asked.floors else None,
        "confidence": asked.confidence,
        "groups": groups,
        "read_as": {
            **{name: run_document.plain(getattr(settings, name)) for name in _READ_AS},
            # As they were read: names that are numbered by sorting depend on the images.
            "class_names": list(bench.dataset.annotations.class_names),
            "inputs": dict(settings.inputs),
            "preprocessing": run_document.plain(settings.preprocessing),
            "outputs": bench.form.kind,
        },
        "figures": [each.to_json() for each in figures],
        "looks": [],
        "seal": "",
    }


def _named(file: ModelFile) -> monitor_file.MonitoredModel:
    return {"name": file.path.name, "digest": file.digest}


def _check_same(
    place: Path, known: monitor_file.MonitorDocument, asked: monitor_file.MonitorDocument
) -> None:
    """Refuse to go on with a state that watches something else: floors are fixed beforehand.

    Raises:
        SettingsError: it does.
    """
    begin = "begin another state with --state, or take up this one as it was begun"
    for name in ("model", "original"):
        before, now = known[name], asked[name]
        if (before and before["digest"]) != (now and now["digest"]):
            told = [one["digest"][:16] if one else "none" for one in (before, now)]
            raise errors.SettingsError(
                f"{place}: the {name} was {told[0]}, and now it is {told[1]}; {begin}"
            )
    rows = [
        *((name, known[name], asked[name]) for name in ("confidence", "groups")),
        *((n, known["read_as"].get(n), value) for n, value in asked["read_as"].items()),
        ("floors", _told(known), _told(asked)),
    ]
    for name, was, is_now in rows:
        if was != is_now:
            hint = " (name all classes with --classes)" if name == "class_names" else ""
            raise errors.SettingsError(
                f"{place}: {name} was {was}, and now it is {is_now}{hint}; what is watched is "
                f"fixed before the first look: {begin}"
            )


def _told(document: monitor_file.MonitorDocument) -> str:
    return ", ".join(f"{one['figure']}={one['floor']:.6g}" for one in document["figures"])


def _unwatched(document: monitor_file.MonitorDocument, about: suite.Annotations) -> list[str]:
    """A note on groups that no figure counts."""
    floors = {one["figure"] for one in document["figures"]}
    if not any(name.startswith("accuracy:") for name in floors):
        return []
    others = [name for name in about.group_names if f"accuracy:{name}" not in floors]
    if not others:
        return []
    return [f"nothing was promised of {listing(others)}: only overall figures count these images"]


def _new_images(
    bench: Bench, document: monitor_file.MonitorDocument, *, in_order: bool
) -> tuple[NDArray[np.intp], list[bytes], int]:
    """Positions of the images that were not counted yet, in the order in which they count.

    Returns:
        The positions, the images' names, and how many images are not new.
    """
    seen = {name for look in document["looks"] for name in monitor_file.named_images(look)}
    whole = _everyone(bench)
    first: dict[bytes, int] = {}
    with stage("naming images", total=len(whole)) as tell:
        for start in range(0, len(whole), _HASHED):
            rows = np.arange(start, min(start + _HASHED, len(whole)))
            for position, name in zip(rows.tolist(), _names(whole, rows), strict=True):
                if name not in seen:
                    first.setdefault(name, position)
            tell(int(rows[-1]) + 1)
    # A digest knows nothing of how its image comes out, and nothing of the order of the data.
    names = list(first) if in_order else sorted(first)
    positions = np.array([first[name] for name in names], np.intp)
    return positions, names, len(whole) - len(names)


def _names(whole: suite.Suite, rows: NDArray[np.intp]) -> list[bytes]:
    """The names of images by their content, as the model takes it."""
    arrays = [whole.batch(rows), *(whole.feeds(rows)[name] for name in sorted(whole.further))]
    return [
        monitor_file.name_of(
            hashlib.sha256(b"".join(_content(array[row]) for array in arrays)).digest()
        )
        for row in range(len(rows))
    ]


def _content(array: suite.Array) -> bytes:
    numbers = array if array.dtype.kind != "O" else array.astype(np.str_)
    return f"{numbers.dtype.str} {numbers.shape}\n".encode() + numbers.tobytes()


def _everyone(bench: Bench) -> suite.Suite:
    dataset = bench.dataset
    return suite.Suite.whole("new", dataset.images, dataset.annotations, dataset.further)


@stage("judging")
def _look(
    bench: Bench,
    document: monitor_file.MonitorDocument,
    original: ModelFile | None,
    new: NDArray[np.intp],
    names: list[bytes],
) -> monitor_file.MonitorLook:
    """The outcomes of new images."""
    images = _everyone(bench).take(new)
    assert bench.form is not None
    labels = images.annotations.labels
    right = bench.form.predictions(bench.working.run_plain(images)) == labels
    before = np.zeros_like(right)
    if original is not None:
        outputs = outputs_of(bench, opened_beside(bench, original.model), images)
        before = bench.form.predictions(outputs) == labels
    return {
        "time": _now(),
        "data": bench.dataset.digest,
        "n_read": len(bench.dataset.images),
        "in_order": False,
        "images": monitor_file.names_text(names),
        "outcomes": _outcomes(document["figures"], images.annotations, right, before),
    }


def _outcomes(
    figures: Sequence[monitor_file.WatchedFigure],
    about: suite.Annotations,
    right: NDArray[np.bool_],
    before: NDArray[np.bool_],
) -> dict[str, str]:
    """A character per image for each figure; see `MonitorLook`."""
    texts = {}
    for one in figures:
        watched = promised.PromisedFigure.of_state(one)
        rates = np.where(right, "1", "0")
        gains = np.where(right == before, "=", np.where(right, "+", "-"))
        marks = np.where(watched.counts(about), gains if watched.is_gain else rates, ".")
        texts[watched.name] = "".join(marks.tolist())
    return texts


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
