"""The workbench: a model, images and metrics made ready to play the game of its filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.arrays import Array
from repairkit.core.errors import SettingsError
from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.metric import Metric
from repairkit.core.patch import Patch
from repairkit.core.process.stages import stage
from repairkit.core.suite import Suite
from repairkit.data import Dataset, Parts, split_parts
from repairkit.engine.ensembles.trees import TreeEvaluator
from repairkit.engine.evaluator import Evaluator, MaskEvaluator
from repairkit.engine.executor import default_workers, make_executor
from repairkit.engine.game import ModelGame
from repairkit.engine.means import measure_means
from repairkit.engine.opening import Candidates, open_evaluator
from repairkit.engine.ort.runtime import choose_device, session_device
from repairkit.engine.precision import Precision
from repairkit.engine.rows.scattered import AffineMasks, LateScattered, with_scattered
from repairkit.engine.runner import Batching, Runner, settle_batching
from repairkit.formats.means_file import CommonMeans, read_means
from repairkit.graph.coalitions.affine import with_affine_masks
from repairkit.graph.coalitions.instrument import instrument
from repairkit.graph.coalitions.rebatch import fixed_batch
from repairkit.graph.coalitions.recast import recast
from repairkit.graph.facts.footprint import bytes_of_largest_node
from repairkit.graph.kinds.levels import bias_levels, zero_levels
from repairkit.graph.kinds.sites import Survey, select_sites, survey
from repairkit.graph.patch.bake import bake, representable
from repairkit.jobs.setup.first_look import ErrorLook, FirstLook, doubts
from repairkit.jobs.setup.inputs import with_inputs
from repairkit.jobs.setup.reading import check_labels, first_images, read_dataset, settle_form
from repairkit.jobs.setup.settings import Settings, check_metrics
from repairkit.jobs.setup.subject import Subject
from repairkit.metrics import (
    CLEAN_ACCURACY,
    OutputForm,
    is_attacked,
    is_user_metric,
    make_metric,
    spell_out,
)

_PROOF_IMAGES = 8
_MOST_TRIED = 64
_LEAST_PROOF_IMAGES = 2
_PROOF_BYTES = 2**29
_RUN_BYTES = 3 * 2**28  # of the largest node; a run takes a little more
_FEW_PASSES = 32  # of one image, up to which masks cost less than a proof
_REGRESSION = {"mean_absolute_error"}


@dataclass(frozen=True)
class Bench:
    """A subject with everything that is needed to evaluate coalitions of its filters.

    `original` surveys the file's model, `found` the working one (`batching.model`); both have the
    same sites. `unjudged` says why no metric can be computed; it is empty where one can.
    With `all_outputs` the sites lead to any output of the model, else to the judged one. `look` is
    the first look at model and data, where one was taken (see `looking`).
    """

    subject: Subject
    settings: Settings
    original: Survey
    found: Survey
    roster: Roster
    batching: Batching
    dataset: Dataset
    parts: Parts
    form: OutputForm | None
    n_classes: int
    unjudged: str = ""
    all_outputs: bool = False
    look: FirstLook | ErrorLook | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of data and model."""
        batching = [self.batching.note] if self.batching.note else []
        unjudged = [f"no metric was computed: {self.unjudged}"] if self.unjudged else []
        fed = ", ".join(self.dataset.further)
        slow = [f"{fed}: fed with each image, so that nothing is shared between coalitions"]
        read = (*self.dataset.notes, *self.parts.notes)
        return (*read, *batching, *unjudged, *(slow if fed else []), *doubts(self.look))

    @cached_property
    def levels(self) -> FilterMeans:
        """What absent filters are to yield."""
        sites = self.roster.sites
        if self.settings.absent == "zero":
            return zero_levels(sites)
        if self.settings.absent == "bias":
            return bias_levels(self.found, sites)
        if self.common is not None:
            model, at = self.subject.file.digest, self.settings.sites_at
            where = str(self.settings.means)
            return self.common.levels(sites, model=model, sites_at=at, where=where)
        return self.measure(magnitude=False)

    @cached_property
    def common(self) -> CommonMeans | None:
        """The means that the settings name, if any."""
        return None if self.settings.means is None else read_means(self.settings.means)

    @cached_property
    def means(self) -> FilterMeans:
        """What absent filters yield: the levels nearest to it that baking can reproduce exactly."""
        return representable(self.found, self.levels)

    def measure(self, *, magnitude: bool) -> FilterMeans:
        """Mean (absolute) yield of every filter over the calibration images."""
        return measure_means(
            self.batching.model,
            self.roster.sites,
            self.parts.calibration,
            input_name=self.subject.input_name,
            step=self.batching.step,
            device=self.settings.device,
            magnitude=magnitude,
        )

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
        return CLEAN_ACCURACY if is_attacked(self.dataset.annotations) else "accuracy"

    @cached_property
    def sample(self) -> Array:
        """The untouched model's outputs for the first images of the data."""
        answers = self.batching.answers
        if answers is not None:  # its batching was proven on just these
            return answers[self.subject.output]
        return self.run_plain(first_images(self.dataset, _PROOF_IMAGES))

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
        return self.run_plain(whole.take(places)), places

    def run_plain(self, suite: Suite) -> Array:
        """The untouched model's outputs for a suite."""
        return run_suite(self.plain_runner, suite, self.batch_size)

    @cached_property
    def plain_runner(self) -> Runner:
        """A runner of the working model as it is, in 32 bits."""
        return _plain_runner(self.subject, self.settings, self.batching)

    @cached_property
    def runner(self) -> Runner:
        """A runner of the instrumented model, in 32 bits: the judge of all other ways.

        On the CPU its graph is run as it is written: what optimising changes is seen by no judge
        that was optimised likewise.
        """
        return self._instrumented(optimise=choose_device(self.settings.device) != "cpu")

    @cached_property
    def optimised_runner(self) -> Runner:
        """A runner of the instrumented model that the runtime may optimise."""
        return self._instrumented()

    @property
    def device(self) -> str:
        """`cuda` or `cpu`: where coalitions are evaluated."""
        return session_device(self.runner.session)

    @property
    def precision(self) -> Precision:
        """In which coalitions are evaluated; means and figures of a model are in 32 bits."""
        if self.settings.half:
            return "float16"
        return "tf32" if self.settings.tf32 and self.device == "cuda" else "float32"

    @cached_property
    def quick_runner(self) -> Runner:
        """A runner of the instrumented model, in the precision of coalitions."""
        return self.runner if self.precision == "float32" else self._instrumented(self.precision)

    @cached_property
    def affine_runner(self) -> Runner | None:
        """A runner of the model with affine masks, where coalitions are mixed on the CPU."""
        if self.device != "cpu" or self.precision != "float32" or self.batching.step is not None:
            return None
        masked = instrument(self.batching.model, self.roster.sites, self.means)
        model = with_affine_masks(masked, self.roster.sites)
        if model is None:
            return None
        return Runner(
            model, self.subject.input_name, None, outputs=(self.subject.output,), device="cpu"
        )

    @stage("opening the instrumented model")
    def _instrumented(self, precision: Precision = "float32", *, optimise: bool = True) -> Runner:
        model = instrument(self.batching.model, self.roster.sites, self.means)
        return Runner(
            recast(model, "float16") if precision == "float16" else model,
            self.subject.input_name,
            self.batching.step,
            outputs=(self.subject.output,),
            device=self.settings.device,
            optimise=optimise,
            tf32=precision == "tf32",
        )

    def _scattered(self, evaluator: Evaluator, masks: MaskEvaluator) -> Evaluator:
        # Where not even the optimised model agrees with the judge, one with other nodes will not.
        as_written = isinstance(evaluator, MaskEvaluator) and not evaluator.runner.optimised
        affine = None if as_written else self.affine_runner
        mixer = None if affine is None else AffineMasks(affine, masks, self.means)
        return with_scattered(
            evaluator,
            masks,
            mixer=mixer,
            precision=self.precision,
            proven=self.candidates.proven,
            bits=self.precision == "float32" and self.candidates.rounding is not None,
        )

    @cached_property
    def candidates(self) -> Candidates:
        """Fast ways to evaluate coalitions, the fastest first."""
        return Candidates(
            self.found,
            self.roster,
            self.means,
            image=self.subject.input_name,
            output=self.subject.output,
            step=self.batching.step,
        )

    @cached_property
    def batch_size(self) -> int:
        """Images in one run at the most: those of the settings, or as many as the memory bears."""
        return min(self.settings.batch_size, _fitting(self.subject, self.dataset, _RUN_BYTES))

    def _is_few(self, n_passes: int) -> bool:
        trees = any(site.n_values is not None for site in self.roster.sites)
        return n_passes <= _FEW_PASSES and self.precision == "float32" and not trees

    def game(
        self,
        suite: Suite,
        metrics: Sequence[Metric],
        *,
        guard: Metric | None = None,
        n_rows: int | None = None,
    ) -> ModelGame:
        """The game of the roster's filters on a suite.

        Args:
            suite: the images.
            metrics: the first steers the search.
            guard: see `ModelGame`.
            n_rows: how many coalitions of all images will be asked, if they are few. A few passes
                go by the masks at once: to compile the model and to prove that costs more.
        """
        executor = make_executor(self.settings.workers or default_workers())
        batch_size, precision = self.batch_size, self.precision
        if n_rows is not None and self._is_few(n_rows * len(suite)):
            judge = self.runner.sharing(step=self.batching.step or 1)
            masks = MaskEvaluator(
                judge, self.roster, suite, executor=executor, batch_size=batch_size
            )
            return ModelGame(masks, self.roster, suite, metrics, guard=guard)
        evaluator = open_evaluator(
            self.candidates,
            self.runner,
            suite,
            executor=executor,
            batch_size=batch_size,
            cache_memory=self.settings.cache_memory,
            quick=None if precision == "float32" else (precision, self.quick_runner),
            optimised=lambda: self.optimised_runner,
        )
        if not isinstance(evaluator, TreeEvaluator):
            masks = MaskEvaluator(
                self.quick_runner, self.roster, suite, executor=executor, batch_size=batch_size
            )
            evaluator = LateScattered(evaluator, partial(self._scattered, evaluator, masks))
        return ModelGame(evaluator, self.roster, suite, metrics, guard=guard)


def prepare(subject: Subject, settings: Settings, *, dataset: Dataset | None = None) -> Bench:
    """Read images, prove the batching, and settle sites, parts and the form of the output.

    Args:
        subject: the model.
        settings: of the job.
        dataset: what the settings' data holds, where it was read already.

    Raises:
        RepairkitError: anything about model, data or settings that the user can mend.
    """
    regression = bool(_REGRESSION & set(settings.metrics))
    with stage("finding filters"):
        whole = survey(
            subject.model,
            output=subject.output,
            at=settings.sites_at,
            include=settings.include,
        )
    roster = Roster(select_sites(whole, settings.sites))
    if dataset is None:
        dataset = read_dataset(subject, settings, regression=regression)
    subject = with_inputs(subject, settings, dataset)
    fitting = _fitting(subject, dataset, _PROOF_BYTES)
    few = first_images(dataset, int(np.clip(fitting, _LEAST_PROOF_IMAGES, _PROOF_IMAGES)))
    everyone = np.arange(len(few))
    proof = few.batch(everyone)
    batching = settle_batching(
        subject.working,
        subject.input_name,
        proof,
        outputs=(subject.output,),
        feeds=few.feeds(everyone),
        device=settings.device,
    )
    assert batching.answers is not None
    sample = batching.answers[subject.output]
    parts = split_parts(dataset, settings.parts, seed=settings.seed)
    form, n_classes = settle_form(
        sample,
        settings,
        subject,
        lambda: run_suite(
            _plain_runner(subject, settings, batching), parts.calibration, settings.batch_size
        ),
        regression=regression,
    )
    if form is not None and len(sample) != len(few):
        raise SettingsError(
            f"output {subject.output!r} gives {len(sample)} rows for {len(few)} images and one row "
            "per image is expected; choose another with --output, or give a metric of your own"
        )
    check_labels(dataset, n_classes, regression=regression)
    return Bench(
        subject,
        settings,
        whole,
        whole
        if batching.model is subject.model
        else survey(
            batching.model,
            output=subject.output,
            at=settings.sites_at,
            include=settings.include,
        ),
        roster,
        batching,
        dataset,
        parts,
        form,
        n_classes,
    )


def _fitting(subject: Subject, dataset: Dataset, n_bytes: int) -> int:
    """How many images a run may have for its largest node to fit into so many bytes."""
    first = first_images(dataset, 1).batch(np.arange(1))
    each = bytes_of_largest_node(subject.model, subject.input_name, first.shape[1:])
    return max(1, n_bytes // max(each, 1))


def _plain_runner(subject: Subject, settings: Settings, batching: Batching) -> Runner:
    """A runner of the working model as it is, in 32 bits."""
    outputs = (subject.output,)
    if batching.runner is not None:
        return batching.runner.sharing(step=batching.step, outputs=outputs)
    return Runner(
        batching.model,
        subject.input_name,
        batching.step,
        outputs=outputs,
        device=settings.device,
    )


def run_suite(runner: Runner, suite: Suite, batch_size: int) -> Array:
    """A runner's first output for every image of a suite, in order."""
    parts = []
    with stage("running images", total=len(suite)) as tell:
        for start in range(0, len(suite), batch_size):
            positions = np.arange(start, min(start + batch_size, len(suite)))
            answers = runner.run(suite.batch(positions), feeds=suite.feeds(positions))
            parts.append(answers[runner.outputs[0]])
            tell(int(positions[-1]) + 1)
    return np.concatenate(parts)


def patched_outputs(bench: Bench, patch: Patch, suite: Suite) -> Array:
    """The outputs of the model with a patch baked in."""
    return outputs_of(bench, bake(bench.subject.model, patch, found=bench.original).model, suite)


def outputs_of(bench: Bench, model: ModelProto, suite: Suite) -> Array:
    """The outputs of a model that has the subject's inputs and outputs, in 32 bits."""
    return run_suite(runner_of(bench, model), suite, bench.batch_size)


def runner_of(bench: Bench, model: ModelProto) -> Runner:
    """A session of a model that has the subject's inputs and outputs, in 32 bits."""
    step = fixed_batch(bench.subject.model, bench.subject.input_name)
    if bench.batching.model is bench.subject.working:
        step = bench.batching.step
    return Runner(
        bench.subject.runnable(model),
        bench.subject.input_name,
        step,
        outputs=(bench.subject.output,),
        device=bench.settings.device,
    )


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
