"""A bench for jobs that need no metric: naming filters to freeze, and instrumenting.

Such jobs take any model that has filters, whatever its outputs are, and any images, labelled or
not. Where a metric can be computed all the same, the bench is the usual one. Where none can, its
`unjudged` says why, means are measured on one batch of the graph at a time, and the parts only say
which images the means come from.
"""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from repairkit.core import errors, filters, suite
from repairkit.data.dataset import Dataset
from repairkit.data.parts import PART_NAMES, PartPlan, Parts, split_parts
from repairkit.data.preprocessing import ReadyImages
from repairkit.engine.batching import as_declared
from repairkit.graph.kinds.sites import select_sites
from repairkit.jobs.setup import looking
from repairkit.jobs.setup.preparing import make_working, prepare, read_any, survey_of, with_inputs
from repairkit.jobs.setup.workbench import Bench, Settings, Subject

_NO_IMAGES = "no images were given"
_NO_LABELS = "the data gives no labels that fit the model"


def prepare_unjudged(subject: Subject, settings: Settings, *, sites: Collection[str] = ()) -> Bench:
    """A bench with or without a metric, as model and data allow.

    Args:
        subject: the model.
        settings: of the job.
        sites: names of those that are needed. Where one of them does not lead to the output that is
            judged, the bench has the sites of all outputs, and no metric.

    Raises:
        SettingsError: means are wanted and there are no images, or a setting makes no sense.
        DataError: the images cannot be read.
    """
    elsewhere = settings.output is None and _leads_elsewhere(subject, settings, sites)
    if settings.data is None:
        return _without_images(subject, settings, all_outputs=elsewhere)
    dataset = read_any(subject, settings)
    why = "" if dataset.labelled else _NO_LABELS
    if elsewhere:
        why = f"a filter does not lead to the output {subject.output!r}, the first; see --output"
    elif dataset.labelled:
        try:
            return prepare(subject, settings, dataset=dataset)
        except (errors.SettingsError, errors.DataError, errors.ModelError) as error:
            why = str(error)
    subject = with_inputs(subject, settings, dataset)
    parts = _parts(dataset, settings)
    return _bench(subject, settings, dataset, parts, why, all_outputs=elsewhere)


def _parts(dataset: Dataset, settings: Settings) -> Parts:
    """The calibration images that were asked for, else all images."""
    splits = set() if dataset.split is None else set(dataset.split.tolist())
    wishes = {}
    for name in PART_NAMES:
        given = getattr(settings.parts, name)
        wishes[name] = given or (name if name in splits else "all")
    parts = split_parts(dataset, PartPlan(**wishes), seed=settings.seed)
    n_images = len(parts.calibration)
    sentence = f"Means were measured on {n_images} images (calibration: {wishes['calibration']})."
    return replace(parts, overlaps=(), summary=sentence)


def _without_images(subject: Subject, settings: Settings, *, all_outputs: bool) -> Bench:
    if settings.absent == "mean" and settings.means is None:
        raise errors.SettingsError(
            "no images were given and absent filters hold their mean over images; use --data "
            "(a folder of images will do, labels are not needed), or let them hold zero or their "
            "bias (--absent, or --level for a patch)"
        )
    shape = [size or 1 for size in subject.spec.shape]
    images = ReadyImages(np.zeros((0, *shape), subject.spec.dtype), subject.spec.dtype)
    annotations = suite.Annotations(labels=np.zeros(0, np.int64))
    calibration, selection, test = (suite.Suite.whole(n, images, annotations) for n in PART_NAMES)
    parts = Parts(calibration, selection, test, (), f"{_NO_IMAGES.capitalize()}.")
    dataset = Dataset(images, annotations, None, "", labelled=False)
    subject = with_inputs(subject, settings, None)
    return _bench(subject, settings, dataset, parts, _NO_IMAGES, all_outputs=all_outputs)


def _leads_elsewhere(subject: Subject, settings: Settings, sites: Collection[str]) -> bool:
    """Whether a needed site leads only to other outputs, or no site leads to the judged one."""
    judged, every = (
        survey_of(subject.model, settings, output).sites for output in (subject.output, None)
    )
    known, others = {site.name for site in judged}, {site.name for site in every}
    return not known or any(name in others - known for name in sites)


def _bench(
    subject: Subject,
    settings: Settings,
    dataset: Dataset,
    parts: Parts,
    why: str,
    *,
    all_outputs: bool,
) -> Bench:
    output = None if all_outputs else subject.output
    original = survey_of(subject.model, settings, output)
    copied = subject.working is not subject.model
    batching = as_declared(subject.opened(device=settings.device))
    return Bench(
        subject=subject,
        settings=settings,
        original=original,
        working=make_working(
            subject,
            settings,
            batching,
            survey_of(subject.working, settings, output) if copied else original,
            filters.Roster(select_sites(original, settings.sites)),
            dataset,
            parts.calibration,
        ),
        batching=batching,
        dataset=dataset,
        parts=parts,
        form=None,
        n_classes=0,
        unjudged=why,
        all_outputs=all_outputs,
    )


def bench_with_look(subject: Subject, settings: Settings) -> Bench | str:
    """The bench of a model and its data, with a thorough look at both where one can be taken.

    Returns:
        The bench, or why there is none.

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
    except (errors.SettingsError, errors.ModelError) as error:
        return str(error)
    return looking.looked_at(bench, None, thorough="all", go_on=True)
