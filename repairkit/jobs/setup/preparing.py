"""Make a bench: read images and labels, prove the batching, settle sites, parts and output form."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from repairkit.core import errors, filters, outputs
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Suite
from repairkit.data.dataset import Dataset
from repairkit.data.given import Data
from repairkit.data.parts import Parts, split_parts
from repairkit.data.preprocessing import FurtherInput, describe_shape
from repairkit.data.reader import DataRequest, read_data
from repairkit.engine.batching import Batching, settle_batching
from repairkit.engine.runner import OpenModel
from repairkit.engine.working import Effort, Working
from repairkit.formats.means_file import read_means
from repairkit.graph import baking, protos, structure
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import bias_levels, select_sites, survey, zero_levels
from repairkit.jobs.setup.slicing import SlicedModel, with_slices
from repairkit.jobs.setup.workbench import PROOF_IMAGES, Bench, Settings, Subject, first_images
from repairkit.metrics.catalogue import definition_of, is_user_metric

_LEAST_PROOF_IMAGES = 2
_PROOF_BYTES = 2**29
_RUN_BYTES = 3 * 2**26  # of the largest node; a run takes a little more
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def require_data(settings: Settings) -> Data:
    """The data: a path, or what lies in memory.

    Raises:
        SettingsError: there is none.
    """
    if settings.data is None:
        raise errors.SettingsError(
            "no images were given; use --data with a folder of one sub-folder per class, a CSV "
            "manifest or an .npz, or name them in repairkit.toml"
        )
    return settings.data


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
    roster = filters.Roster(select_sites(whole, settings.sites))
    if dataset is None:
        dataset = read_dataset(subject, settings, regression=regression)
    subject = with_inputs(subject, settings, dataset)
    fitting = _fitting(subject, dataset, _PROOF_BYTES)
    few = first_images(dataset, int(np.clip(fitting, _LEAST_PROOF_IMAGES, PROOF_IMAGES)))
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
        lambda: batching.opened.run_suite(
            parts.calibration, images_in_a_run(subject, settings, dataset)
        ),
        regression=regression,
    )
    if form is not None and len(sample) != len(few):
        raise errors.SettingsError(
            f"output {subject.output!r} gives {len(sample)} rows for {len(few)} images and one row "
            "per image is expected; choose another with --output, or give a metric of your own"
        )
    check_labels(dataset, n_classes, regression=regression)
    told, data = None, dataset
    if settings.groups and dataset.annotations.groups is None and dataset.labelled:
        sliced = SlicedModel(
            graph=subject.model,
            opened=batching.opened,
            form=form,
            n_classes=n_classes,
            batch_size=images_in_a_run(subject, settings, dataset),
            seed=settings.seed,
        )
        data, parts, told = with_slices(sliced, dataset, parts)
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
        dataset=data,
        parts=parts,
        form=form,
        n_classes=n_classes,
        slices=told,
    )


def survey_of(model: ModelProto, settings: Settings, output: str | None) -> Survey:
    """The sites that lead to an output, or to any output if None."""
    return survey(model, output=output, at=settings.sites_at, include=settings.include)


def make_working(
    subject: Subject,
    settings: Settings,
    batching: Batching,
    sites: Survey,
    roster: filters.Roster,
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
        dataset: its images tell how many of them fit into memory in one run.
        calibration: the images over which levels are measured.
    """
    return Working(
        opened=batching.opened,
        survey=sites,
        roster=roster,
        settle_levels=partial(_levels, subject, settings, calibration),
        effort=Effort(
            batch_size=images_in_a_run(subject, settings, dataset),
            workers=settings.workers,
            cache_memory=settings.cache_memory,
            half=settings.half,
            tf32=settings.tf32,
        ),
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


def _levels(
    subject: Subject, settings: Settings, calibration: Suite, working: Working
) -> filters.FilterMeans:
    """The level of each absent filter."""
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


def images_in_a_run(subject: Subject, settings: Settings, dataset: Dataset) -> int:
    """The batch size, or fewer images of a model whose runs would take much memory."""
    if not len(dataset.images):
        return settings.batch_size
    return min(settings.batch_size, _fitting(subject, dataset, _RUN_BYTES))


def _fitting(subject: Subject, dataset: Dataset, n_bytes: int) -> int:
    """The most images in one run for which the largest node fits into `n_bytes`."""
    first = first_images(dataset, 1).batch(np.arange(1))
    each = structure.bytes_of_largest_node(subject.model, subject.input_name, first.shape[1:])
    return max(1, n_bytes // max(each, 1))


def patched_outputs(bench: Bench, patch: filters.Patch, suite: Suite) -> Array:
    """The outputs of the model with a patch baked in."""
    model = baking.bake(bench.original, patch).model
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


@stage("reading images")
def read_dataset(subject: Subject, settings: Settings, *, regression: bool) -> Dataset:
    """The data that the settings name; labels are checked against what the model declares."""
    user_metrics_alone = all(is_user_metric(name) for name in settings.metrics)
    request = DataRequest(
        spec=subject.spec,
        preprocessing=settings.preprocessing,
        groups=settings.groups,
        class_names=settings.class_names or (() if regression else subject.class_names),
        features=settings.features,
        label=settings.label,
        n_classes=None if regression or user_metrics_alone else _promised(subject, settings),
        regression=regression,
        inputs=subject.further,
        image_name=subject.input_name,
        corruptions=settings.corruptions,
    )
    return read_data(require_data(settings), request)


def _promised(subject: Subject, settings: Settings) -> int | None:
    """How many classes the data may have, as far as known before the model runs."""
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
) -> tuple[outputs.OutputForm | None, int]:
    """The form of the output and the number of classes; None if only user metrics can judge it.

    Args:
        sample: outputs for a few images, which tell the shape.
        settings: of the job.
        subject: whose graph may tell the form by how it ends.
        more: computes the outputs of all calibration images; called if the graph does not tell.
        regression: whether outputs are answers of a regressor.
    """
    try:
        form = outputs.OutputForm.detect(
            sample if regression else _telling(sample, settings, subject, more),
            regression=regression,
            columns=settings.columns,
            threshold=settings.threshold,
            evidence=_evidence(settings, subject),
        )
    except errors.SettingsError:
        if all(is_user_metric(name) for name in settings.metrics):
            return None, 0
        raise
    return form, 0 if regression else form.n_classes(sample)


def _evidence(settings: Settings, subject: Subject) -> outputs.OutputEvidence:
    known = structure.ending_of(subject.model, subject.output)
    ending, operator = known or (None, "")
    return outputs.OutputEvidence(settings.outputs_are, ending, operator, ask=True)


def _telling(
    sample: Array, settings: Settings, subject: Subject, more: Callable[[], Array]
) -> Array:
    """The outputs from which the form is detected; independent of the order of the images."""
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
        raise errors.DataError(
            f"image {int(wrong[0]) + 1} has the label {labels[wrong[0]]}, outside the model's "
            f"{n_classes} classes 0 to {n_classes - 1}; correct the labels, or choose another "
            "--output"
        )


def read_any(subject: Subject, settings: Settings) -> Dataset:
    """The data that the settings name, for jobs that need no labels.

    Labels are read as classes, else as targets, else not at all.

    Raises:
        DataError: not even the images can be read.
    """
    for regression in (False, True):
        try:
            return read_dataset(subject, settings, regression=regression)
        except errors.DataError:
            continue
    request = DataRequest(
        spec=subject.spec,
        preprocessing=settings.preprocessing,
        groups=settings.groups,
        features=settings.features,
        label=settings.label,
        with_labels=False,
        inputs=subject.further,
        image_name=subject.input_name,
        corruptions=settings.corruptions,
    )
    return read_data(require_data(settings), request)


def read_images(subject: Subject, settings: Settings) -> Suite:
    """Every image that the settings name, for jobs that need no parts."""
    dataset = read_any(subject, settings)
    return Suite.whole("all", dataset.images, dataset.annotations, dataset.further)


def with_inputs(subject: Subject, settings: Settings, dataset: Dataset | None) -> Subject:
    """The subject with a constant for each further input that the data does not feed.

    Args:
        subject: as it was opened.
        settings: whose `inputs` come first; constants of the data come next.
        dataset: what feeds the other inputs; if None, values are made up for what is not named:
            ones, and False for truth values.

    Raises:
        SettingsError: an input has no value, or one that it does not take.
    """
    wanted = {i.name: i for i in (*_with_defaults(subject, settings.inputs), *subject.further)}
    for name in settings.inputs:
        if name not in wanted:
            others = ", ".join(i.name for i in subject.further) or "none"
            raise errors.SettingsError(
                f"--input {name}: the model has no such input; beside {subject.input_name} it "
                f"takes {others}"
            )
    constants = {n: read_value(wanted[n], text) for n, text in settings.inputs.items()}
    missing = [i for i in subject.further if i.name not in constants]
    if dataset is None:
        constants |= {i.name: _made_up(i) for i in missing}
    else:
        constants |= {
            i.name: dataset.constants[i.name] for i in missing if i.name in dataset.constants
        }
        lacking = [i for i in missing if i.name not in {*constants, *dataset.further}]
        if lacking:
            names = ", ".join(f"{i.name} ({describe_shape(i.single)} {i.dtype})" for i in lacking)
            raise errors.SettingsError(
                f"the model takes {names} beside its images ({subject.input_name}); give each with "
                "--input NAME=VALUE, as an array of that name in the .npz, or as a column of the "
                "manifest"
            )
    further = tuple(wanted[n] for n in constants if n not in {i.name for i in subject.further})
    return replace(subject, constants=constants, further=(*subject.further, *further))


def _with_defaults(subject: Subject, inputs: Mapping[str, str]) -> list[FurtherInput]:
    """The inputs of those names that an initializer gives a value."""
    stored = {tensor.name for tensor in subject.model.graph.initializer}
    with_defaults = []
    for value in subject.model.graph.input:
        if value.name in inputs and value.name in stored:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
            with_defaults.append(
                FurtherInput(value.name, tuple(protos.dims_of(value) or ()), dtype, False)
            )
    return with_defaults


def read_value(wanted: FurtherInput, text: str) -> Array:
    """A constant from text: one value for all elements, or one per element, comma-separated.

    Raises:
        SettingsError: it is none, or not as many as the input takes.
    """
    words = [word.strip() for word in text.split(",")]
    try:
        values = np.array([_read_word(word, wanted.dtype) for word in words], wanted.dtype)
    except (ValueError, OverflowError) as error:
        raise errors.SettingsError(
            f"--input {wanted.name}={text}: {error}; give {wanted.dtype} values, comma-separated"
        ) from error
    sizes = list(wanted.single)
    known = math.prod(size for size in sizes if size is not None)
    n_open = sizes.count(None)
    if len(values) == 1 and len(words) == 1:
        return np.full([size or 1 for size in sizes], values[0], wanted.dtype)
    if n_open <= 1 and known and (len(values) == known or (n_open and not len(values) % known)):
        return values.reshape([-1 if size is None else size for size in sizes])
    raise errors.SettingsError(
        f"--input {wanted.name}: {len(values)} values and the input takes "
        f"{describe_shape(wanted.single)}; give one value for all, or one for each element"
    )


def _read_word(word: str, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "b":
        if word.lower() not in _TRUTH:
            raise ValueError(f"{word!r} is neither true nor false")
        return _TRUTH[word.lower()]
    if dtype.kind == "f":
        return float(word)
    if dtype.kind in "iu":
        return int(word)
    return word


def _made_up(wanted: FurtherInput) -> Array:
    value: Any = False if wanted.dtype.kind == "b" else "" if wanted.dtype.kind == "O" else 1
    return np.full([size or 1 for size in wanted.single], value, wanted.dtype)
