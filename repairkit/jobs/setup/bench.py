"""The workbench: a model, images and metrics made ready to play the game of its filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.arrays import Array
from repairkit.core.attacked import is_attacked
from repairkit.core.errors import SettingsError
from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.metric import Metric
from repairkit.core.outputs import OutputForm
from repairkit.core.patch import Patch
from repairkit.core.process.stages import stage
from repairkit.core.suite import Suite
from repairkit.data.dataset import Dataset
from repairkit.data.parts import Parts, split_parts
from repairkit.engine.batching import Batching, settle_batching
from repairkit.engine.runner import OpenModel
from repairkit.engine.working import Effort, Working
from repairkit.formats.means_file import CommonMeans, read_means
from repairkit.graph.baking import bake
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import bias_levels, select_sites, survey, zero_levels
from repairkit.graph.structure import bytes_of_largest_node
from repairkit.jobs.setup.first_look import ErrorLook, FirstLook, doubts
from repairkit.jobs.setup.inputs import with_inputs
from repairkit.jobs.setup.reading import check_labels, first_images, read_dataset, settle_form
from repairkit.jobs.setup.settings import Settings, check_metrics
from repairkit.jobs.setup.subject import Subject
from repairkit.jobs.setup.told_reading import told_reading
from repairkit.metrics.catalogue import definition_of, is_user_metric, make_metric, spell_out
from repairkit.metrics.image_metrics import ACCURACY
from repairkit.metrics.robustness import CLEAN_ACCURACY

_PROOF_IMAGES = 8
_MOST_TRIED = 64
_LEAST_PROOF_IMAGES = 2
_PROOF_BYTES = 2**29
_RUN_BYTES = 3 * 2**28  # of the largest node; a run takes a little more


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A subject with everything that is needed to evaluate coalitions of its filters.

    `original` surveys the file's model; `working` is the model that is run, with the same sites,
    and `batching` says how it takes several images. `unjudged` says why no metric can be computed;
    it is empty where one can. With `all_outputs` the sites lead to any output of the model, else to
    the judged one. `look` is the first look at model and data, where one was taken (see `looking`).
    """

    subject: Subject
    settings: Settings
    original: Survey
    working: Working
    batching: Batching
    dataset: Dataset
    parts: Parts
    form: OutputForm | None
    n_classes: int
    unjudged: str = ""
    all_outputs: bool = False
    look: FirstLook | ErrorLook | None = None

    @property
    def roster(self) -> Roster:
        """The filters of the game."""
        return self.working.roster

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of data and model."""
        batching = [self.batching.note] if self.batching.note else []
        unjudged = [f"no metric was computed: {self.unjudged}"] if self.unjudged else []
        fed = ", ".join(self.dataset.further)
        slow = [f"{fed}: fed with each image, so that nothing is shared between coalitions"]
        read = (*self.dataset.notes, *self.parts.notes)
        return (*read, *batching, *unjudged, *(slow if fed else []), *doubts(self.look))

    @property
    def reading(self) -> dict[str, Any]:
        """What was read of the data, as runs and reports tell it."""
        return told_reading(self.dataset, self.parts, form=self.form, look=self.look)

    @cached_property
    def common(self) -> CommonMeans | None:
        """The means that the settings name, if any."""
        return None if self.settings.means is None else read_means(self.settings.means)

    def metrics(self, names: Sequence[str]) -> tuple[Metric, ...]:
        """Metrics by name, fitted to the model's outputs and the data's classes and groups.

        Raises:
            SettingsError: one is unknown, unfit, or code that only a file named.
        """
        check_metrics(self.settings, names)
        sample, places = self.trial if any(map(is_user_metric, names)) else (self.sample, None)
        return tuple(
            make_metric(
                name,
                form=self.form,
                annotations=self.dataset.annotations,
                n_classes=self.n_classes,
                sample=sample,
                places=places,
            )
            for name in names
        )

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The settings' metrics, `recall:*` spelt out for the classes of the selection part."""
        selection = self.parts.selection.annotations
        return spell_out(self.settings.metrics, selection, self.n_classes)

    @property
    def accuracy(self) -> str:
        """The metric that stands for accuracy: where images were attacked, that on clean ones."""
        attacked = is_attacked(self.dataset.annotations)
        return (CLEAN_ACCURACY if attacked else ACCURACY).name

    @cached_property
    def sample(self) -> Array:
        """The untouched model's outputs for the first images of the data."""
        answers = self.batching.answers
        if answers is not None:  # its batching was proven on just these
            return answers[self.subject.output]
        return self.working.run_plain(first_images(self.dataset, _PROOF_IMAGES))

    @cached_property
    def trial(self) -> tuple[Array, NDArray[np.intp]]:
        """What a user's metric is tried on: outputs of some images, and which ones they are.

        They are the first of the data and, so that a figure that compares classes or groups exists,
        two of every label and group, 64 at the most.
        """
        places = _of_every_kind(self.dataset, len(self.sample))
        if len(places) == len(self.sample):
            return self.sample, places
        whole = Suite.whole("sample", self.dataset.images, self.dataset.annotations)
        return self.working.run_plain(whole.take(places)), places


def prepare(subject: Subject, settings: Settings, *, dataset: Dataset | None = None) -> Bench:
    """Read images, prove the batching, and settle sites, parts and the form of the output.

    Args:
        subject: the model.
        settings: of the job.
        dataset: what the settings' data holds, where it was read already.

    Raises:
        RepairkitError: anything about model, data or settings that the user can mend.
    """
    definitions = filter(None, map(definition_of, settings.metrics))
    regression = any("numbers" in definition.needs for definition in definitions)
    with stage("finding filters"):
        whole = survey_of(subject.model, settings, subject.output)
    roster = Roster(select_sites(whole, settings.sites))
    if dataset is None:
        dataset = read_dataset(subject, settings, regression=regression)
    subject = with_inputs(subject, settings, dataset)
    fitting = _fitting(subject, dataset, _PROOF_BYTES)
    few = first_images(dataset, int(np.clip(fitting, _LEAST_PROOF_IMAGES, _PROOF_IMAGES)))
    everyone = np.arange(len(few))
    proof = few.batch(everyone)
    batching = settle_batching(
        subject.opened(device=settings.device),
        proof,
        outputs=(subject.output,),
        feeds=few.feeds(everyone),
    )
    assert batching.answers is not None
    sample = batching.answers[subject.output]
    parts = split_parts(dataset, settings.parts, seed=settings.seed)
    form, n_classes = settle_form(
        sample,
        settings,
        subject,
        lambda: batching.opened.run_suite(parts.calibration, settings.batch_size),
        regression=regression,
    )
    if form is not None and len(sample) != len(few):
        raise SettingsError(
            f"output {subject.output!r} gives {len(sample)} rows for {len(few)} images and one row "
            "per image is expected; choose another with --output, or give a metric of your own"
        )
    check_labels(dataset, n_classes, regression=regression)
    rebatched = batching.opened.model is not subject.model
    return Bench(
        subject=subject,
        settings=settings,
        original=whole,
        working=make_working(
            subject,
            settings,
            batching,
            survey_of(batching.opened.model, settings, subject.output) if rebatched else whole,
            roster,
            dataset,
            parts.calibration,
        ),
        batching=batching,
        dataset=dataset,
        parts=parts,
        form=form,
        n_classes=n_classes,
    )


def survey_of(model: ModelProto, settings: Settings, output: str | None) -> Survey:
    """The sites that lead to an output, or to any output if None."""
    return survey(model, output=output, at=settings.sites_at, include=settings.include)


def make_working(
    subject: Subject,
    settings: Settings,
    batching: Batching,
    sites: Survey,
    roster: Roster,
    dataset: Dataset,
    calibration: Suite,
) -> Working:
    """The model at work, with levels as the settings say.

    Args:
        subject: the model.
        settings: of the job.
        batching: of the model.
        sites: the survey of the model that is run.
        roster: the filters.
        dataset: whose images tell how many of them fit into a run.
        calibration: the images over which levels are measured.
    """
    return Working(
        opened=batching.opened,
        survey=sites,
        roster=roster,
        settle_levels=partial(_levels, subject, settings, calibration),
        effort=effort_of(settings, _batch_size(subject, settings, dataset)),
    )


def with_parts(bench: Bench, parts: Parts, settings: Settings) -> Bench:
    """The bench with other parts and settings of the same data; it keeps the open model.

    Levels are measured anew, on the new calibration images.
    """
    old = bench.working
    working = make_working(
        bench.subject,
        settings,
        bench.batching,
        old.survey,
        old.roster,
        bench.dataset,
        parts.calibration,
    )
    return replace(bench, settings=settings, parts=parts, working=working)


def effort_of(settings: Settings, batch_size: int) -> Effort:
    """With what coalitions are evaluated, as the settings say."""
    return Effort(
        batch_size=batch_size,
        workers=settings.workers,
        cache_memory=settings.cache_memory,
        half=settings.half,
        tf32=settings.tf32,
    )


def _levels(
    subject: Subject, settings: Settings, calibration: Suite, working: Working
) -> FilterMeans:
    """What absent filters are to yield."""
    sites = working.roster.sites
    if settings.absent == "zero":
        return zero_levels(sites)
    if settings.absent == "bias":
        return bias_levels(working.survey, sites)
    if settings.means is not None:
        common, where = read_means(settings.means), str(settings.means)
        model, at = subject.file.digest, settings.sites_at
        return common.levels(sites, model=model, sites_at=at, where=where)
    return working.measure(calibration)


def _batch_size(subject: Subject, settings: Settings, dataset: Dataset) -> int:
    """Images in one run at the most: those of the settings, or as many as the memory bears."""
    if not len(dataset.images):
        return settings.batch_size
    return min(settings.batch_size, _fitting(subject, dataset, _RUN_BYTES))


def _fitting(subject: Subject, dataset: Dataset, n_bytes: int) -> int:
    """How many images a run may have for its largest node to fit into so many bytes."""
    first = first_images(dataset, 1).batch(np.arange(1))
    each = bytes_of_largest_node(subject.model, subject.input_name, first.shape[1:])
    return max(1, n_bytes // max(each, 1))


def patched_outputs(bench: Bench, patch: Patch, suite: Suite) -> Array:
    """The outputs of the model with a patch baked in."""
    model = bake(bench.original, patch).model
    return outputs_of(bench, opened_beside(bench, model), suite)


def outputs_of(bench: Bench, opened: OpenModel, suite: Suite) -> Array:
    """The judged output of a model for a suite, in 32 bits."""
    return opened.run_suite(suite, bench.working.effort.batch_size)


def opened_beside(bench: Bench, model: ModelProto) -> OpenModel:
    """A model with the subject's inputs and outputs, to be run as the subject is."""
    opened = bench.working.opened
    if opened.model is not bench.subject.working:  # it was re-batched
        opened = bench.subject.opened(device=bench.settings.device)
    return opened.variant(bench.subject.runnable(model))


def _of_every_kind(dataset: Dataset, n_first: int) -> NDArray[np.intp]:
    """The first images, then two of every label and of every group; `_MOST_TRIED` at the most."""
    about = dataset.annotations
    found = list(range(n_first))
    for kinds in (about.labels, about.groups):
        if kinds is None:
            continue
        for kind in np.unique(kinds)[:_MOST_TRIED]:
            found += np.flatnonzero(kinds == kind)[:2].tolist()
    return np.array(list(dict.fromkeys(found))[: max(_MOST_TRIED, n_first)], np.intp)
