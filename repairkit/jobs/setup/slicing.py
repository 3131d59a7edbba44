"""Groups that nobody labelled, for `--group auto`: slices of errors, found on the selection images.

See `repairs.slices` for how they are found, and docs/decisions/0031-slices-of-errors.md for why so.
The column `auto` names the slice of each image: of a selection image by a mixture that did not see
its fold, of any other image by the mixture of all selection images.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core import attacked, errors, results
from repairkit.core.outputs import OutputForm
from repairkit.core.process.stages import stage
from repairkit.core.process.text import counted
from repairkit.core.suite import Annotations, Array, Indices, Suite
from repairkit.data.annotations import AUTO
from repairkit.data.dataset import Dataset
from repairkit.data.parts import Parts, strata_of
from repairkit.engine.proof import HeadReader
from repairkit.engine.runner import OpenModel
from repairkit.graph.kinds.class_head import find_head
from repairkit.graph.protos import GraphIndex
from repairkit.metrics.evaluation import wilson
from repairkit.repairs import slices
from repairkit.repairs.crossfit import assign_folds

SHOWN = 8
"""Images of each slice that a page shows."""
_STREAM = 11  # of the seed
_SCORES = "the class scores, for the last layer cannot be read"


@dataclass(frozen=True, kw_only=True)
class SlicedModel:
    """The model whose errors are sliced.

    Attributes:
        graph: as its file has it.
        opened: as it runs.
        form: of its outputs; None where only user metrics can judge them.
        n_classes: of the data.
        batch_size: images in one run.
        seed: of the job.
    """

    graph: ModelProto
    opened: OpenModel
    form: OutputForm | None
    n_classes: int
    batch_size: int
    seed: int


def with_slices(
    model: SlicedModel, dataset: Dataset, parts: Parts
) -> tuple[Dataset, Parts, dict[str, Any]]:
    """Data and parts with slices of errors as groups, and what is told of the slices.

    Raises:
        SettingsError: the model is no classifier, the data was attacked, or scikit-learn is
            missing.
        TargetNotMetError: no slice is surely worse than the others.
    """
    about, part = dataset.annotations, parts.selection
    if model.form is None or model.form.kind == "values" or not model.n_classes:
        raise errors.SettingsError(
            "--group auto finds slices of a classifier's errors, and this model or its data gives "
            "no classes; name columns with --group"
        )
    if attacked.is_attacked(about):
        raise errors.SettingsError(
            "--group auto finds slices of the errors on clean images, and the data holds "
            "adversarial ones; name columns with --group"
        )
    features, outputs, source = _late_features(model, model.form, dataset)
    losses = -model.form.log_probabilities(outputs)[np.arange(len(about)), about.labels]
    answers = model.form.predictions(outputs)
    chosen = part.indices
    rng = np.random.default_rng([model.seed, _STREAM])
    twins = attacked.twins_of(part.annotations)
    folds = assign_folds(strata_of(part.annotations), slices.N_FOLDS, rng, twins=twins)
    with stage("finding slices"):
        found = slices.find_slices(
            features[chosen],
            losses[chosen],
            (answers == about.labels)[chosen],
            folds.fold_of,
            model.seed,
        )
    if found is None or found.p_worst > slices.LEVEL:
        raise errors.TargetNotMetError(_declined(part, found))
    slice_of = found.mixture.members(features).argmax(axis=1).astype(np.int64)
    slice_of[chosen] = found.slice_of
    names = tuple(f"slice {number + 1}" for number in range(found.members.shape[1]))
    grouped = replace(
        about,
        groups=slice_of,
        group_names=names,
        attributes={**about.attributes, AUTO: np.array(names)[slice_of]},
    )
    told = {
        "features": source,
        "n_folds": slices.N_FOLDS,
        "seed": model.seed,
        "p_worst": found.p_worst,
        "slices": _told(part, found, names, answers, rng),
    }
    return replace(dataset, annotations=grouped), _regrouped(parts, grouped), told


def _late_features(model: SlicedModel, form: OutputForm, data: Dataset) -> tuple[Array, Array, str]:
    """What passes the last layer for each image of the data, (n_images, n_features).

    With the outputs, and where the features come from in words. Where the last layer cannot be
    read, the class scores take the features' place.
    """
    whole = Suite.whole("all", data.images, data.annotations, data.further)
    try:
        head = find_head(GraphIndex(model.graph), model.opened.output)
        read = HeadReader(model.opened, head).read_suite(whole, model.batch_size)
    except errors.ModelError:
        outputs = model.opened.run_suite(whole, model.batch_size)
        return form.class_scores(outputs), outputs, _SCORES
    assert read.features is not None
    return read.features, read.outputs, f"the input of the last layer, {head.name}"


def _declined(part: Suite, found: slices.Slices | None) -> str:
    images = counted(len(part), "selection image")
    remedy = (
        "name columns with --group, give more images, or look at the preprocessing (repairkit "
        "inspect) where so many errors surprise; nothing was written"
    )
    if found is None:
        return (
            f"--group auto: no two slices of the {images} have {slices.FEWEST_IMAGES} images each; "
            f"{remedy}"
        )
    n, right = (counts.tolist() for counts in found.counts)
    return (
        f"--group auto: no slice of the {images} is surely worse than the others (of "
        f"{len(n)} slices the worst is right on {right[0] / n[0]:.1%} of {n[0]}, the others on "
        f"{sum(right[1:]) / sum(n[1:]):.1%} of {sum(n[1:])}; p = {found.p_worst:.2g}); {remedy}"
    )


def _regrouped(parts: Parts, grouped: Annotations) -> Parts:
    """The same parts with the slices as groups.

    Raises:
        TargetNotMetError: a part lacks a slice.
    """
    suites = [
        replace(part, annotations=grouped.take(part.indices))
        for part in (parts.calibration, parts.selection, parts.test)
    ]
    test = suites[-1].annotations.groups
    assert test is not None
    lacking = np.setdiff1d(np.arange(len(grouped.group_names)), test)
    if len(test) and len(lacking):
        raise errors.TargetNotMetError(
            f"--group auto: the test part holds no image of {grouped.group_names[lacking[0]]!r}, "
            "which was found on the selection images; give more test images, or use --test none; "
            "nothing was written"
        )
    return replace(parts, calibration=suites[0], selection=suites[1], test=suites[2])


def _told(
    part: Suite,
    found: slices.Slices,
    names: tuple[str, ...],
    answers: NDArray[np.int64],
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """The rows of the entry `slices` of what was read."""
    rows = []
    for number, (name, n, right) in enumerate(zip(names, *found.counts, strict=True)):
        members = np.flatnonzero(found.slice_of == number)
        drawn = np.sort(rng.permutation(members)[:SHOWN])
        figure = results.Figure(right / n, *wilson(float(right), float(n)))
        row = {
            "name": name,
            "n_images": int(n),
            "accuracy": figure.to_json(),
            "mistakes": _mistakes(part, members, answers),
            "images": [_image(part, position, answers) for position in drawn.tolist()],
        }
        rows.append(row)
    return rows


def _image(part: Suite, position: int, answers: NDArray[np.int64]) -> dict[str, Any]:
    about, row = part.annotations, int(part.indices[position])
    return {
        "row": row,
        "label": about.class_name(int(about.labels[position])),
        "answer": about.class_name(int(answers[row])),
    }


def _mistakes(part: Suite, members: Indices, answers: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The three commonest mistakes in a slice: the class, the answer, and how often."""
    about = part.annotations
    pairs = np.column_stack([about.labels[members], answers[part.indices[members]]])
    kinds, counts = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0, return_counts=True)
    return [
        {
            "label": about.class_name(int(kinds[place, 0])),
            "answer": about.class_name(int(kinds[place, 1])),
            "n": int(counts[place]),
        }
        for place in np.argsort(-counts, kind="stable")[:3].tolist()
    ]
