"""Where jobs take their first look at model and data, and stop where it leaves a doubt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from repairkit.core.arrays import Array
from repairkit.core.attacked import adversarial, is_attacked
from repairkit.core.errors import ModelError, PreprocessingError, SettingsError
from repairkit.core.outputs import OutputForm
from repairkit.core.process.deadline import Deadline
from repairkit.core.process.stages import stage
from repairkit.core.suite import Annotations, Indices, Suite
from repairkit.data.dataset import Dataset
from repairkit.data.parts import PartPlan, Parts
from repairkit.data.strata import label_bins
from repairkit.data.usual import class_orders, usual_ways
from repairkit.jobs.setup.bench import Bench
from repairkit.jobs.setup.first_look import (
    MOST_IMAGES,
    TRIED_IMAGES,
    ErrorLook,
    FirstLook,
    Judge,
    Pains,
    Thorough,
    take_first_look,
)
from repairkit.jobs.setup.settings import Settings
from repairkit.jobs.setup.subject import Subject
from repairkit.jobs.setup.told_reading import tell_first_look, tell_reading
from repairkit.jobs.setup.unjudged import prepare_unjudged
from repairkit.metrics.catalogue import is_user_metric

_SECONDS = 8.0
_PATIENCE = 15.0  # more seconds, where the job is about to stop
_SHARE_OF_LIMIT = 0.05
_OTHER_SEED = 0x100C  # so that these images are not drawn as the parts were


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A model that can be asked, and the data that it is asked about."""

    subject: Subject
    settings: Settings
    dataset: Dataset
    parts: Parts
    form: OutputForm
    n_classes: int
    outputs: Callable[[Suite], Array]


def looked_at(
    bench: Bench, deadline: Deadline | None, *, thorough: Thorough = "doubt", go_on: bool = False
) -> Bench:
    """The bench with its first look, where one can be taken.

    Args:
        bench: of a job that judges the model on labels.
        deadline: of the job.
        thorough: which preprocessings are tried.
        go_on: whether a doubt is told and stops nothing.

    Raises:
        PreprocessingError: there is a doubt that nobody accepted.
    """
    if bench.look is not None or bench.unjudged or bench.form is None:
        return bench
    scene = Scene(
        subject=bench.subject,
        settings=bench.settings,
        dataset=bench.dataset,
        parts=bench.parts,
        form=bench.form,
        n_classes=bench.n_classes,
        outputs=bench.working.run_plain,
    )
    look = first_look(scene, deadline, thorough=thorough)
    if look is None:
        return bench
    accepted = go_on or bench.settings.accept_preprocessing
    bench = replace(bench, look=replace(look, accepted=accepted))
    if look.doubt and not accepted:
        tell_reading(bench.reading)
        raise _refusal(bench.subject, look)
    return bench


def look_or_stop(scene: Scene) -> FirstLook | ErrorLook | None:
    """A first look that is told at once.

    Raises:
        PreprocessingError: there is a doubt that nobody accepted.
    """
    look = first_look(scene, None, thorough="doubt")
    if look is None:
        return None
    look = replace(look, accepted=scene.settings.accept_preprocessing)
    tell_first_look(look.to_json())
    if look.doubt and not look.accepted:
        raise _refusal(scene.subject, look)
    return look


def look_thoroughly(subject: Subject, settings: Settings) -> FirstLook | ErrorLook | str:
    """All usual preprocessings and class orders beside one another, or why there is no such look.

    Raises:
        DataError: the data cannot be read.
    """
    try:
        bench = prepare_unjudged(subject, settings)
        if bench.unjudged and bench.dataset.annotations.labels.dtype.kind == "f":
            settings = replace(settings, metrics=("mean_absolute_error",))
            bench = prepare_unjudged(subject, settings)
        split = bench.dataset.split
        if bench.unjudged and split is not None:  # whose names may be those of no part
            test = "test" if "test" in split else "none"
            plan = PartPlan(calibration="all", selection="all", test=test)
            bench = prepare_unjudged(subject, replace(settings, parts=plan))
    except (SettingsError, ModelError) as error:
        return str(error)
    look = looked_at(bench, None, thorough="all", go_on=True).look
    if look is None:
        return bench.unjudged or "the model is judged by no metric that is built in"
    return look


def first_look(
    scene: Scene, deadline: Deadline | None, *, thorough: Thorough
) -> FirstLook | ErrorLook | None:
    """A first look; None where the data has no labels or the metrics are all the user's own."""
    settings, dataset = scene.settings, scene.dataset
    if not dataset.labelled or all(is_user_metric(name) for name in settings.metrics):
        return None
    images = _images(dataset, scene.parts, settings.seed)
    if not len(images):
        return None
    if scene.form.kind == "values":
        return _look_at_errors(scene, images)
    labels, spec = dataset.annotations.labels, scene.subject.spec
    if labels.dtype.kind not in "iu" or scene.n_classes < 2:
        return None
    spec = spec.with_layout(settings.preprocessing.layout)
    ways = usual_ways(dataset.images, spec, settings.preprocessing, images.indices[:TRIED_IMAGES])
    names = dataset.annotations.class_names
    orders = class_orders(
        labels,
        names,
        dataset.how,
        scene.n_classes,
        from_folder=settings.data is not None and settings.data.is_dir(),
        first_column=0 if settings.columns is None else settings.columns[0],
    )
    return take_first_look(
        Judge(scene.outputs, scene.form, scene.n_classes, tuple(names)),
        images,
        ways,
        orders,
        _pains(deadline, thorough, settings.seed),
    )


def _pains(deadline: Deadline | None, thorough: Thorough, seed: int) -> Pains:
    if thorough == "all":
        return Pains(thorough, 4 * _PATIENCE, 4 * _PATIENCE, seed)
    if deadline is None:
        return Pains(thorough, _SECONDS, _PATIENCE, seed)
    seconds = max(0.0, min(_SECONDS, _SHARE_OF_LIMIT * deadline.seconds, deadline.left / 2))
    return Pains(thorough, seconds, 0.0, seed)


def _refusal(subject: Subject, look: FirstLook | ErrorLook) -> PreprocessingError:
    return PreprocessingError(
        f"{subject.file.path}: {look.doubt}; {look.remedy}; or go on as it is with "
        "--accept-preprocessing"
    )


def _images(dataset: Dataset, parts: Parts, seed: int) -> Suite:
    """Selection images that no test looks at, as many as may be looked at.

    Each beginning has each class and group at its share. Images that an attack made are left out.
    """
    for part in (parts.selection, parts.calibration):
        positions = np.flatnonzero(~np.isin(part.indices, parts.test.indices))
        if len(positions):
            break
    else:  # the parts are the same images, and the result says so
        part, positions = parts.selection, np.arange(len(parts.selection))
    if is_attacked(dataset.annotations):
        positions = positions[~adversarial(part.annotations)[positions]]
    clean = part.take(positions)
    return clean.take(_evenly(clean.annotations, np.random.default_rng((seed, _OTHER_SEED))))


def _evenly(about: Annotations, rng: np.random.Generator) -> Indices:
    """Positions of `MOST_IMAGES` images at the most, each beginning much like the whole."""
    strata = label_bins(about.labels)
    if about.groups is not None:
        strata = strata * (int(about.groups.max(initial=0)) + 1) + about.groups
    drawn = rng.permutation(len(strata))
    keys = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = drawn[strata[drawn] == stratum]
        keys[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(keys, kind="stable")[:MOST_IMAGES]


@stage("comparing with the mean answer")
def _look_at_errors(scene: Scene, images: Suite) -> ErrorLook:
    """The error of a regressor beside that of the mean answer."""
    labels = images.annotations.labels.astype(np.float64)
    answers = scene.form.class_scores(scene.outputs(images))[:, 0]
    return ErrorLook(
        float(np.abs(answers - labels).mean()),
        float(np.abs(labels - labels.mean()).mean()),
        len(labels),
        images.name,
    )
