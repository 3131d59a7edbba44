"""What a job reads: images, labels, and the form of the output that they are judged by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repairkit.core.arrays import Array
from repairkit.core.errors import DataError, SettingsError
from repairkit.core.outputs import OutputEvidence, OutputForm
from repairkit.core.process.stages import stage
from repairkit.core.suite import Suite
from repairkit.data.dataset import Dataset
from repairkit.data.reader import read_data
from repairkit.graph.structure import ending_of
from repairkit.jobs.setup.settings import Settings, require_data
from repairkit.jobs.setup.subject import Subject
from repairkit.metrics.catalogue import is_user_metric


@stage("reading images")
def read_dataset(subject: Subject, settings: Settings, *, regression: bool) -> Dataset:
    """The data that the settings name, labels checked as far as the model says what they may be."""
    own = all(is_user_metric(name) for name in settings.metrics)
    return read_data(
        require_data(settings),
        spec=subject.spec,
        preprocessing=settings.preprocessing,
        groups=settings.groups,
        class_names=settings.class_names or (() if regression else subject.class_names),
        features=settings.features,
        n_classes=None if regression or own else _promised(subject, settings),
        regression=regression,
        inputs=subject.further,
        image_name=subject.input_name,
    )


def _promised(subject: Subject, settings: Settings) -> int | None:
    """How many classes the data may have, as far as is known before the model has run."""
    if settings.columns is None:
        return subject.n_classes
    return max(2, settings.columns[1] - settings.columns[0])


def settle_form(
    sample: Array,
    settings: Settings,
    subject: Subject,
    more: Callable[[], Array],
    *,
    regression: bool,
) -> tuple[OutputForm | None, int]:
    """The form of the output, and how many classes it has; None where only users can judge it.

    Args:
        sample: outputs for a few images, which tell the shape.
        settings: of the job.
        subject: whose graph may tell the form by how it ends.
        more: gives the outputs for all calibration images; asked where the graph does not tell.
        regression: whether outputs are answers of a regressor.
    """
    try:
        form = OutputForm.detect(
            sample if regression else _telling(sample, settings, subject, more),
            regression=regression,
            columns=settings.columns,
            threshold=settings.threshold,
            evidence=_evidence(settings, subject),
        )
    except SettingsError:
        if all(is_user_metric(name) for name in settings.metrics):
            return None, 0
        raise
    return form, 0 if regression else form.n_classes(sample)


def _evidence(settings: Settings, subject: Subject) -> OutputEvidence:
    found = ending_of(subject.model, subject.output)
    ending, operator = found or (None, "")
    return OutputEvidence(settings.outputs_are, ending, operator, ask=True)


def _telling(
    sample: Array, settings: Settings, subject: Subject, more: Callable[[], Array]
) -> Array:
    """The outputs to be looked at: of the order of the images nothing may depend."""
    evidence = _evidence(settings, subject)
    return sample if evidence.said or evidence.ending else more()


def check_labels(dataset: Dataset, n_classes: int, *, regression: bool) -> None:
    """Refuse labels that are no class of the model.

    Raises:
        DataError: there is one.
    """
    labels = dataset.annotations.labels
    if regression or n_classes == 0 or not len(labels):
        return
    wrong = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if len(wrong):
        raise DataError(
            f"image {int(wrong[0]) + 1} has the label {labels[wrong[0]]}, outside the model's "
            f"{n_classes} classes 0 to {n_classes - 1}; correct the labels, or choose another "
            "--output"
        )


def first_images(dataset: Dataset, at_most: int) -> Suite:
    """The first images of the data, whatever part they are in."""
    whole = Suite.whole("sample", dataset.images, dataset.annotations, dataset.further)
    return whole.take(np.arange(min(at_most, len(whole))))


def read_any(subject: Subject, settings: Settings) -> Dataset:
    """The data that the settings name, for jobs that need no labels.

    Labels are read as classes, else as targets, else not at all.

    Raises:
        DataError: not even the images can be read.
    """
    for regression in (False, True):
        try:
            return read_dataset(subject, settings, regression=regression)
        except DataError:
            continue
    return read_data(
        require_data(settings),
        spec=subject.spec,
        preprocessing=settings.preprocessing,
        groups=settings.groups,
        features=settings.features,
        with_labels=False,
        inputs=subject.further,
        image_name=subject.input_name,
    )


def read_images(subject: Subject, settings: Settings) -> Suite:
    """Every image that the settings name, for jobs that need no parts."""
    dataset = read_any(subject, settings)
    return Suite.whole("all", dataset.images, dataset.annotations, dataset.further)
