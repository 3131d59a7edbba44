"""How the outputs of two models differ on the same images, and which answers change."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, outputs, suite
from repairkit.core.process.stages import stage
from repairkit.data.dataset import Dataset
from repairkit.data.preprocessing import ReadyImages
from repairkit.engine.runner import OpenModel
from repairkit.jobs.setup import preparing
from repairkit.jobs.setup.subject import noise_images
from repairkit.jobs.setup.workbench import Settings, Subject

N_NOISE = 32
_MOST_MOVES = 2000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Questioned:
    """A model that is asked for its answers, with the images as it takes them."""

    subject: Subject
    dataset: Dataset
    opened: OpenModel


def compare_answers(
    a: Subject, b: Subject, settings: Settings, pairs: Mapping[str, str]
) -> dict[str, Any]:
    """Run both models on the images of the settings, or on noise, and compare their outputs.

    Args:
        a: the one model.
        b: the other.
        settings: data, preprocessing and how outputs are read.
        pairs: outputs of `a` to those of `b` that are the same.

    Raises:
        RepairkitError: the images cannot be read, or a model does not run on them.
    """
    ours, theirs = _questioned(a, b, settings)
    n_images = len(ours.dataset.images)
    if not n_images:
        raise errors.DataError(f"{settings.data}: holds no image; give at least one")
    step = min(preparing.images_in_a_run(q.subject, settings, q.dataset) for q in (ours, theirs))
    names = _comparable(ours, theirs, pairs)
    tallies = {name: _Tally(name, pairs[name]) for name in names}
    reader = _Reader(settings, ours, theirs)
    with stage("comparing answers", total=n_images) as tell:
        for start in range(0, n_images, step):
            rows = np.arange(start, min(start + step, n_images))
            answers = [_run(q, rows, wanted) for q, wanted in ((ours, names), (theirs, pairs))]
            for name in names:
                tallies[name].add(answers[0][name], answers[1][pairs[name]], rows)
            if a.output in names and pairs[a.output] == b.output:
                reader.add(answers[0][a.output], answers[1][b.output])
            tell(int(rows[-1]) + 1)
    left_out = [name for name in pairs if name not in names]
    return {
        "source": "noise" if settings.data is None else str(settings.data),
        "n_images": n_images,
        "outputs": [tally.to_json() for tally in tallies.values()],
        "answers": reader.to_json(),
        "notes": [
            *ours.dataset.notes,
            *(
                f"output {name!r} is no array of one shape and was not compared"
                for name in left_out
            ),
            *reader.notes,
        ],
    }


def _questioned(a: Subject, b: Subject, settings: Settings) -> tuple[Questioned, Questioned]:
    """Both models with their images; B has those of A where it takes them as they are."""
    shared = a.spec == b.spec and not a.further and not b.further
    sets: list[Dataset] = []
    first: ReadyImages | None = None
    for subject in (a, b):
        if settings.data is None:
            images = _noise(subject) if first is None else _as_taken(first, a, subject)
            first = images if first is None else first
            labels = suite.Annotations(labels=np.zeros(len(images), np.int64))
            sets.append(Dataset(images, labels, None, "", labelled=False))
        else:
            sets.append(sets[0] if sets and shared else preparing.read_any(subject, settings))
    made = []
    for subject, dataset in zip((a, b), sets, strict=True):
        of_data = None if settings.data is None else dataset
        named = {n: v for n, v in settings.inputs.items() if n in _inputs_of(subject)}
        filled = preparing.with_inputs(subject, replace(settings, inputs=named), of_data)
        made.append(Questioned(filled, dataset, filled.opened(device="cpu")))
    return made[0], made[1]


def _inputs_of(subject: Subject) -> set[str]:
    return {value.name for value in subject.model.graph.input}


def _noise(subject: Subject) -> ReadyImages:
    return ReadyImages(noise_images(subject, N_NOISE), subject.spec.dtype)


def _as_taken(noise: ReadyImages, a: Subject, b: Subject) -> ReadyImages:
    """The noise that A took as B takes it.

    Raises:
        ModelError: B takes another kind of numbers.
    """
    if a.spec.dtype != b.spec.dtype and {a.spec.dtype.kind, b.spec.dtype.kind} != {"f"}:
        raise errors.ModelError(
            f"one model takes {a.spec.dtype} and the other {b.spec.dtype}, so that noise for the "
            "one is none for the other; give images with --data"
        )
    return ReadyImages(noise.array, b.spec.dtype)


def _comparable(a: Questioned, b: Questioned, pairs: Mapping[str, str]) -> list[str]:
    """The outputs of A that are plain arrays in both models, by a run of one image."""
    kinds = []
    for questioned in (a, b):
        runner = questioned.opened.runner()
        one = np.arange(1)
        feeds = _feeds(questioned, one)
        _, answers = next(iter(runner.raw(questioned.dataset.images.batch(one), feeds=feeds)))
        kinds.append(
            {
                name
                for name, answer in zip(runner.outputs, answers, strict=True)
                if isinstance(answer, np.ndarray)
            }
        )
    return [ours for ours, theirs in pairs.items() if ours in kinds[0] and theirs in kinds[1]]


def _feeds(questioned: Questioned, rows: suite.Indices) -> dict[str, suite.Array]:
    return {name: source.batch(rows) for name, source in questioned.dataset.further.items()}


def _run(
    questioned: Questioned, rows: suite.Indices, wanted: Sequence[str] | Mapping[str, str]
) -> dict[str, suite.Array]:
    """Outputs for some images, by name."""
    names = tuple(wanted.values()) if isinstance(wanted, Mapping) else tuple(wanted)
    runner = questioned.opened.runner(outputs=tuple(dict.fromkeys(names)))
    images = questioned.dataset.images.batch(rows)
    return runner.run(images, feeds=_feeds(questioned, rows))


@dataclass(eq=False)
class _Tally:
    """How one output differs over the images so far."""

    a: str
    b: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    comparable: bool = True
    largest: float = 0.0
    scale: float = 0.0
    total: float = 0.0
    n_numbers: int = 0
    n_not_finite: int = 0
    n_images: int = 0
    worst_image: int = 0

    def add(self, ours: suite.Array, theirs: suite.Array, rows: suite.Indices) -> None:
        self.shapes = (ours.shape[1:], theirs.shape[1:])
        numbers = all(array.dtype.kind in "fiub" for array in (ours, theirs))
        if ours.shape != theirs.shape or not numbers or not ours.size:
            self.comparable = False
            return
        one, other = (array.astype(np.float64) for array in (ours, theirs))
        with np.errstate(invalid="ignore"):
            moved = np.abs(other - one)
        alike = (one == other) | (np.isnan(one) & np.isnan(other))
        moved[alike] = 0.0
        odd = ~np.isfinite(moved)
        self.n_not_finite += int(odd.sum())
        moved[odd] = 0.0
        sizes = np.maximum(np.abs(one), np.abs(other))
        self.scale = max(self.scale, float(sizes[np.isfinite(sizes)].max(initial=0.0)))
        self.total += float(moved.sum())
        self.n_numbers += moved.size
        by_row = (moved + odd).reshape(len(moved), -1).max(axis=1)
        self.n_images += int((by_row > 0).sum())
        if moved.max() > self.largest:
            self.largest = float(moved.max())
            if len(by_row) == len(rows):
                self.worst_image = int(rows[moved.reshape(len(moved), -1).max(axis=1).argmax()])

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"a": self.a, "b": self.b, "shape": [*map(list, self.shapes)]}
        if not self.comparable:
            return {**document, "largest": None}
        return {
            **document,
            "largest": self.largest,
            "relative": self.largest / self.scale if self.scale else 0.0,
            "mean": self.total / max(self.n_numbers, 1),
            "n_images": self.n_images,
            "n_not_finite": self.n_not_finite,
            "worst_image": self.worst_image,
        }


@dataclass(eq=False)
class _Reader:
    """The classes that both models answer, image by image."""

    settings: Settings
    a: Questioned
    b: Questioned
    notes: list[str] = field(default_factory=list)
    _forms: list[outputs.OutputForm] = field(default_factory=list)
    _answers: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = field(
        default_factory=lambda: ([], [])
    )
    _refused: bool = False

    def add(self, ours: suite.Array, theirs: suite.Array) -> None:
        """Read the classes of a batch; the first batch settles how outputs are read."""
        if self._refused:
            return
        try:
            if not self._forms:
                self._forms = [self._form(q, o) for q, o in ((self.a, ours), (self.b, theirs))]
            for kept, form, raw in zip(self._answers, self._forms, (ours, theirs), strict=True):
                kept.append(form.predictions(raw))
        except (errors.SettingsError, errors.DataError) as error:
            self._refused = True
            self.notes.append(f"answers are not read as classes: {error}")

    def _form(self, questioned: Questioned, sample: suite.Array) -> outputs.OutputForm:
        form, _ = preparing.settle_form(
            sample, self.settings, questioned.subject, lambda: sample, regression=False
        )
        if form is None:
            raise errors.SettingsError("the metrics are of your own")
        return form

    def to_json(self) -> dict[str, Any] | None:
        """What changes; None where outputs are no classes."""
        if self._refused or not self._answers[0]:
            return None
        ours, theirs = (np.concatenate(kept) for kept in self._answers)
        about = self.a.dataset.annotations
        if len(ours) != len(theirs) or len(ours) != len(about):
            self.notes.append("answers are not counted: the outputs have not one row per image")
            return None
        name = self._namer(about)
        moved = ours != theirs
        pairs = Counter(zip(ours[moved].tolist(), theirs[moved].tolist(), strict=True))
        moves = [
            {"from": name(x), "to": name(y), "n": n}
            for (x, y), n in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
        ]
        right = self._right(about, ours, theirs)
        return {
            "n_changed": int(moved.sum()),
            "share_changed": float(moved.mean()),
            "moves": moves[:_MOST_MOVES],
            "accuracy": None if right is None else _shares(*right),
            "groups": _of_groups(about, moved, right),
        }

    def _namer(self, about: suite.Annotations) -> Any:
        known = about.class_names or self.settings.class_names or self.a.subject.class_names
        return lambda label: (
            "no answer" if label < 0 else known[label] if label < len(known) else str(label)
        )

    def _right(
        self, about: suite.Annotations, ours: NDArray[np.int64], theirs: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
        """Which answers of each model are right; None without class labels."""
        if not self.a.dataset.labelled or about.labels.dtype.kind not in "iu":
            return None
        self.notes.append(
            "accuracies are over all of these images, also those on which a repair may have been "
            "chosen"
        )
        return ours == about.labels, theirs == about.labels


def _shares(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "a": float(a.mean()),
        "b": float(b.mean()),
        "mended": int((b & ~a).sum()),
        "broken": int((a & ~b).sum()),
    }


def _of_groups(
    about: suite.Annotations,
    moved: NDArray[np.bool_],
    right: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None,
) -> list[dict[str, Any]]:
    """What changes in each group that has images."""
    if about.groups is None:
        return []
    rows = []
    for number, name in enumerate(about.group_names):
        members = about.groups == number
        if members.any():
            shares = None if right is None else _shares(*(r[members] for r in right))
            rows.append(
                {
                    "group": name,
                    "n_images": int(members.sum()),
                    "n_changed": int(moved[members].sum()),
                    "accuracy": shares,
                }
            )
    return rows
