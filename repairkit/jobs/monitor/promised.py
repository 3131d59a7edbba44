"""What a repaired model promises on later images, and which images each figure of it counts.

The floor that is watched is the lower end of the confirmed interval, and not the figure itself: the
figure was measured on some hundred images, and half of all true figures lie below the measured
ones. The promise of the worst group is kept where each group holds the floor of its own.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.process.text import did_you_mean, listing
from repairkit.data.annotations import CROSS, HOW_NUMBERED
from repairkit.data.preprocessing import Preprocessing
from repairkit.formats import documents, patch_file
from repairkit.formats.looks.monitor_file import GAIN, WatchedFigure
from repairkit.jobs.setup.workbench import Settings

ACCURACY, RECALL, WORST = "accuracy", "recall", "worst_group_accuracy"
FOUND = (
    "groups are not watched: they were found on the images that chose, and new images belong to "
    "none of them"
)
_OF = ":"
_SAME = {"clean_accuracy": ACCURACY}
_BY_GROUP = (WORST, "group_accuracy")
_FLOOR = re.compile(r"\s*(?P<figure>\S.*?)\s*>?=\s*(?P<floor>[-+.\deE]+)\s*\Z")


class _Confirmed(TypedDict):
    """A figure as the report has it; null where it is not defined."""

    value: float | None
    ci_low: float | None


class _After(TypedDict):
    metrics: dict[str, _Confirmed]
    groups: dict[str, _Confirmed]


class _Evaluations(TypedDict):
    after: _After
    difference: dict[str, _Confirmed]


class _ReadAs(TypedDict):
    class_names: NotRequired[list[str]]
    image_input: NotRequired[str | None]
    inputs: NotRequired[dict[str, str]]
    columns: NotRequired[list[int] | None]
    threshold: NotRequired[float | None]
    outputs_are: NotRequired[str | None]
    preprocessing: NotRequired[dict[str, Any]]


class _Scoring(TypedDict):
    settings: NotRequired[_ReadAs]


class _Read(TypedDict):
    labels: NotRequired[str]
    classes: NotRequired[dict[str, Any]]


class _Data(TypedDict):
    digest: str | None


class _GroupedBy(TypedDict):
    name: str


class _Fairness(TypedDict):
    columns: list[_GroupedBy]


class _Report(TypedDict):
    """What is read of the report in a patch file."""

    evaluations: NotRequired[_Evaluations]
    choice: NotRequired[_ReadAs]
    scoring: NotRequired[_Scoring | None]
    read: NotRequired[_Read]
    data: NotRequired[_Data]
    fairness: NotRequired[_Fairness | None]


@dataclass(frozen=True, kw_only=True)
class PromisedFigure:
    """A figure and the floor that it must hold.

    Attributes:
        name: see `WatchedFigure`.
        floor: a share; of a gain, a difference of shares.
        stated: the figure as it was measured; None where the floor was given by hand.
    """

    name: str
    floor: float
    stated: float | None = None

    @classmethod
    def of_state(cls, figure: WatchedFigure) -> "PromisedFigure":
        """The figure as the state has it."""
        return cls(name=figure["figure"], floor=figure["floor"], stated=figure["stated"])

    @property
    def is_gain(self) -> bool:
        """Whether it is the repaired model's figure less the original's."""
        return self.name.startswith(GAIN)

    @property
    def of(self) -> tuple[str, str]:
        """The figure without `gain:`, and the group or class whose images it counts, if any."""
        name, _, counted = self.name.removeprefix(GAIN).partition(_OF)
        return name, counted

    @property
    def of_group(self) -> bool:
        """Whether it counts the images of one group."""
        return self.of[0] == ACCURACY and bool(self.of[1])

    @property
    def scaled(self) -> float:
        """The floor on the scale of outcomes, from 0 to 1."""
        return self.on_scale(self.floor)

    def on_scale(self, value: float) -> float:
        """A figure on the scale of outcomes."""
        return (value + 1) / 2 if self.is_gain else value

    def off_scale(self, value: float) -> float:
        """A mean of outcomes as a figure."""
        return 2 * value - 1 if self.is_gain else value

    @property
    def words(self) -> str:
        """The figure for people."""
        name, counted = self.of
        words = f"{name} of {counted}" if counted else name
        return f"gain in {words}" if self.is_gain else words

    def counts(self, about: suite.Annotations) -> NDArray[np.bool_]:
        """Which images the figure counts, (n_images,)."""
        name, counted = self.of
        if not counted:
            return np.ones(len(about), bool)
        if name == RECALL:
            return np.asarray(about.labels == _class_number(counted, about))
        if about.groups is None or counted not in about.group_names:
            return np.zeros(len(about), bool)
        return np.asarray(about.groups == about.group_names.index(counted))

    def to_json(self) -> WatchedFigure:
        """As the state has it."""
        return {"figure": self.name, "floor": self.floor, "stated": self.stated}


def _class_number(name: str, about: suite.Annotations) -> int:
    """The class of that name, else of that number.

    Raises:
        SettingsError: there is none.
    """
    if name in about.class_names:
        return about.class_names.index(name)
    if name.isdecimal() and int(name) >= len(about.class_names):
        return int(name)
    known = list(about.class_names)
    raise errors.SettingsError(
        f"recall:{name}: there is no class {name!r} among {listing(known)}"
        f"{did_you_mean(name, known)}; name one of them"
    )


def read_floor(text: str) -> PromisedFigure:
    """A floor given by hand, `FIGURE=NUMBER` or `FIGURE>=NUMBER`.

    Raises:
        SettingsError: it is none, or of a figure that cannot be watched.
    """
    parts = _FLOOR.match(text)
    try:
        given = PromisedFigure(name=parts["figure"], floor=float(parts["floor"])) if parts else None
    except ValueError:
        given = None
    if given is None:
        raise errors.SettingsError(
            f"{text!r} is no floor; write FIGURE=NUMBER, such as accuracy=0.9 or "
            "worst_group_accuracy=0.75"
        )
    name, counted = given.of
    known = {ACCURACY, RECALL} if counted else {ACCURACY, *(() if given.is_gain else (WORST,))}
    if name not in known:
        raise errors.SettingsError(
            f"{text!r}: {given.name} cannot be watched; a floor is one of accuracy, "
            "accuracy:GROUP, worst_group_accuracy and recall:CLASS, or of gain:accuracy, "
            "gain:accuracy:GROUP and gain:recall:CLASS with the original beside"
        )
    if not 0.0 < given.scaled < 1.0:
        lowest = -1 if given.is_gain else 0
        raise errors.SettingsError(
            f"{text!r}: the floor must lie between {lowest} and 1: at {lowest} it always holds, "
            "and at 1 a single wrong answer breaks it"
        )
    return given


def for_each_group(
    floors: Sequence[PromisedFigure], groups: Sequence[str]
) -> tuple[PromisedFigure, ...]:
    """The floors, with one for each group in place of the worst group's.

    Raises:
        SettingsError: there are no groups, or a figure has two floors.
    """
    given: list[PromisedFigure] = []
    for each in floors:
        if not groups and (each.name == WORST or each.of_group):
            raise errors.SettingsError(
                f"{each.name} needs groups, and there are none; name their columns with --group"
            )
        if each.name != WORST:
            given.append(each)
            continue
        given += [replace(each, name=f"{ACCURACY}{_OF}{group}") for group in groups]
    twice = {each.name for each in given if [one.name for one in given].count(each.name) > 1}
    if twice:
        raise errors.SettingsError(f"{min(twice)} has two floors; give one")
    return tuple(given)


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What the report in a patch file promises, and by which settings it was confirmed.

    Attributes:
        path: the patch file.
        digest: of the patch.
        floors: of the figures that can be watched.
        columns: that made the groups.
        source_digest: of the model that was repaired.
        data_digest: of the images that chose and confirmed.
        notes: what is not watched, and why.
        story: the report.
        output: the output that was judged.
    """

    path: Path
    digest: str
    floors: tuple[PromisedFigure, ...]
    columns: tuple[str, ...]
    source_digest: str
    data_digest: str | None
    notes: tuple[str, ...]
    story: Mapping[str, Any]
    output: str | None

    def settings(self, given: Settings) -> Settings:
        """The settings, with those by which the promise was confirmed where nothing was given.

        Raises:
            SettingsError: the patch file holds a setting that makes no sense.
        """
        choice, scoring = self.story.get("choice") or {}, self.story.get("scoring") or {}
        known = {**scoring.get("settings", {}), **choice, "output": self.output}
        read = self.story.get("read") or {}
        if not known.get("class_names") and read.get("labels") == HOW_NUMBERED:
            known["class_names"] = list(read.get("classes", {}))
        usual = Settings()
        changed: dict[str, Any] = {}
        for name in ("class_names", "image_input", "output", "columns", "threshold", "outputs_are"):
            value = known.get(name)
            if value and getattr(given, name) == getattr(usual, name):
                changed[name] = tuple(value) if isinstance(value, list) else value
        if known.get("inputs") and not given.inputs:
            changed["inputs"] = known["inputs"]
        pixels = {
            k: v for k, v in (known.get("preprocessing") or {}).items() if v not in (None, [])
        }
        if given.preprocessing == usual.preprocessing:
            changed["preprocessing"] = Preprocessing.from_mapping(pixels, str(self.path))
        return replace(given, **changed)


def read_promise(path: Path, model_digest: str, *, with_gains: bool) -> Promise:
    """What the patch file of a model promises.

    Args:
        path: the patch file.
        model_digest: of the repaired model.
        with_gains: whether the original is at hand, so that gains can be watched.

    Raises:
        VerificationError: the patch file was altered, or is of another model.
        RunFolderError: it is no patch file, or its report is broken.
    """
    file = patch_file.read_patch_file(path)
    if file.result_digest != model_digest:
        raise errors.VerificationError(
            f"{path}: is the patch file of another model (result {file.result_digest[:16]}, and "
            f"this model has {model_digest[:16]}); name the right one with --promise"
        )
    story = file.story
    fault = documents.fault_of(story, _Report)
    if fault:
        raise errors.RunFolderError(f"{path}: its report is broken ({fault}); name a floor instead")
    evaluations = story.get("evaluations") or {}
    floors, notes = [], []
    for gain, block in ((False, evaluations.get("after")), (True, evaluations.get("difference"))):
        if gain and not with_gains:
            continue
        for name, figure in _figures(block or {}, gain=gain):
            made = _floor_of(name, figure)
            if isinstance(made, PromisedFigure):
                floors.append(made)
            elif made:
                notes.append(made)
    columns, why = _columns(story)
    if why:
        floors = [each for each in floors if not each.of_group]
        notes.append(why)
    return Promise(
        path=path,
        digest=file.digest,
        floors=tuple(floors),
        columns=columns,
        source_digest=file.source_digest,
        data_digest=(story.get("data") or {}).get("digest"),
        notes=tuple(notes),
        story=story,
        output=file.output,
    )


def _figures(block: Mapping[str, Any], *, gain: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The figures of an evaluation, or of the difference of two, by their names in promises."""
    before = GAIN if gain else ""
    metrics = block if gain else block.get("metrics", {})
    for name, figure in metrics.items():
        if name not in _BY_GROUP:
            yield before + _SAME.get(name, name), figure
    for name, figure in ({} if gain else block.get("groups", {})).items():
        yield f"{ACCURACY}{_OF}{name}", figure


def _floor_of(name: str, figure: Mapping[str, Any]) -> PromisedFigure | str:
    """The floor of a figure, or why it has none; empty where another figure says it."""
    stated, low = figure.get("value"), figure.get("ci_low")
    made = PromisedFigure(
        name=name, floor=low if isinstance(low, float | int) else 0.0, stated=stated
    )
    kind, counted = made.of
    if kind != ACCURACY and not (kind == RECALL and counted):
        return f"{made.words} is not watched: accuracy, that of groups and recalls of classes are"
    if low is None or not 0.0 < made.scaled < 1.0:
        return f"{made.words} is not watched: its interval has no lower end that could be broken"
    return made


def _columns(story: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """The columns that made the groups; or, second, why the groups cannot be told of new images."""
    entries = (story.get("fairness") or {}).get("columns", [])
    names = [str(entry["name"]) for entry in entries]
    columns = tuple(names if len(names) < 2 else names[:-1])
    if "slices" in (story.get("read") or {}):
        return (), FOUND
    if CROSS.join(columns) != (names[-1] if names else ""):
        return (), "groups are not watched: the patch file does not tell their columns"
    return columns, ""
