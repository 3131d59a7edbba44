"""The model that a job works on: it runs images, and plays the game of its filters.

How coalitions are evaluated is settled here: which model is instrumented, in which precision, and
which evaluator is chosen. It is the fastest one that agrees with the instrumented model on the
images of the game. Sessions are opened when they are first needed, and kept: jobs share one
`Working`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from repairkit.core import errors, filters, metric
from repairkit.core.process.stages import stage
from repairkit.core.suite import IN_WORDS, Array, Precision, Suite
from repairkit.engine.activations import LeafReader, measure_means
from repairkit.engine.cones.candidates import Candidates
from repairkit.engine.cones.fast import FastEvaluator, cones_fault
from repairkit.engine.cones.stacked import StackedEvaluator
from repairkit.engine.evaluator import Evaluator, ExpectedAnswers, default_workers, make_executor
from repairkit.engine.masks import AffineMasks, LateScattered, MaskEvaluator, with_scattered
from repairkit.engine.model_game import ModelGame
from repairkit.engine.ort import choose_device, session_device
from repairkit.engine.runner import OpenModel, Runner
from repairkit.engine.tree_sums import TreeEvaluator
from repairkit.graph.baking import representable
from repairkit.graph.coalitions.masking import with_affine_masks
from repairkit.graph.coalitions.recast import recast
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import instrument
from repairkit.graph.structure import Rounding

_FEW_PASSES = 32  # of one image, up to which masks cost less than a proof
logger = logging.getLogger(__name__)

_NOTHING_OVERWRITTEN = "{}, nothing overwritten"


@dataclass(frozen=True, kw_only=True)
class Effort:
    """With what coalitions are evaluated. Only `half` and `tf32` may change a result.

    Attributes:
        batch_size: images in one run at the most.
        workers: threads; the number of cores if None.
        cache_memory: bytes for what is kept between coalitions; if None, what the model can use,
            at most 2 GiB and a quarter of the free memory.
        half: evaluate coalitions in half precision.
        tf32: let a CUDA device round the factors of products to 10 bits.
    """

    batch_size: int = 128
    workers: int | None = None
    cache_memory: int | None = None
    half: bool = False
    tf32: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Working:
    """A model and its filters; see the module.

    Attributes:
        opened: the model as it is.
        survey: its sites.
        roster: the filters of the game.
        settle_levels: gives what absent filters are to yield; called once, when that is needed.
        effort: with what coalitions are evaluated.
    """

    opened: OpenModel
    survey: Survey
    roster: filters.Roster
    settle_levels: Callable[[Working], filters.FilterMeans]
    effort: Effort = field(default_factory=Effort)

    @cached_property
    def wanted_levels(self) -> filters.FilterMeans:
        """What absent filters are to yield."""
        return self.settle_levels(self)

    @cached_property
    def levels(self) -> filters.FilterMeans:
        """What absent filters yield: the nearest to what is wanted that baking gives exactly."""
        return representable(self.survey, self.wanted_levels)

    def measure(self, suite: Suite, *, magnitude: bool = False) -> filters.FilterMeans:
        """The mean (absolute) yield of every filter over the images of a suite."""
        return measure_means(self.opened, self.roster.sites, suite, magnitude=magnitude)

    def run_plain(self, suite: Suite) -> Array:
        """The judged output of the model as it is, for a suite."""
        return self.opened.run_suite(suite, self.effort.batch_size)

    @property
    def device(self) -> str:
        """`cuda` or `cpu`: where coalitions are evaluated."""
        return session_device(self.judge.session)

    @property
    def precision(self) -> Precision:
        """In which coalitions are evaluated; means and figures of a model are in 32 bits."""
        if self.effort.half:
            return "float16"
        return "tf32" if self.effort.tf32 and self.device == "cuda" else "float32"

    @cached_property
    def judge(self) -> Runner:
        """A runner of the instrumented model, in 32 bits, by which all other ways are judged.

        On the CPU its graph is run as it is written. A judge that was optimised too could not see
        what the runtime's optimisations change.
        """
        return _instrumented(self, optimise=choose_device(self.opened.device) != "cpu")

    @cached_property
    def candidates(self) -> Candidates:
        """Fast ways to evaluate coalitions, the fastest first."""
        return Candidates(
            survey=self.survey,
            roster=self.roster,
            levels=self.levels,
            image=self.opened.image,
            output=self.opened.output,
            step=self.opened.step,
        )

    def game(
        self,
        suite: Suite,
        metrics: Sequence[metric.Metric],
        *,
        guard: metric.Metric | None = None,
        n_rows: int | None = None,
        auxiliaries: Sequence[metric.Metric | None] = (),
    ) -> ModelGame:
        """The game of the filters on a suite.

        Args:
            suite: the images.
            metrics: the first steers the search.
            guard: see `ModelGame`.
            n_rows: how many coalitions of all images will be asked, if they are few. A few passes
                go by the masks at once: to compile the model and to prove that costs more.
            auxiliaries: see `ModelGame`.
        """
        evaluator = self._evaluator(suite, n_rows)
        return ModelGame(
            evaluator, self.roster, suite, metrics, guard=guard, auxiliaries=auxiliaries
        )

    def _evaluator(self, suite: Suite, n_rows: int | None) -> Evaluator:
        masks = MaskEvaluator(
            self.judge,
            self.roster,
            suite,
            executor=make_executor(self.effort.workers or default_workers()),
            batch_size=self.effort.batch_size,
        )
        if n_rows is not None and _is_few(self, n_rows * len(suite)):
            return masks.with_runner(self.judge.sharing(step=self.opened.step or 1))
        evaluator = open_evaluator(
            self.candidates,
            masks,
            cache_memory=self.effort.cache_memory,
            quick=None if self.precision == "float32" else (self.precision, self._quick),
            optimised=lambda: self._optimised,
        )
        if isinstance(evaluator, TreeEvaluator):
            return evaluator
        quick = masks.with_runner(self._quick)
        return LateScattered(evaluator, partial(self._scattered, evaluator, quick))

    def _scattered(self, evaluator: Evaluator, masks: MaskEvaluator) -> Evaluator:
        # Where not even the optimised model agrees with the judge, one with other nodes will not.
        as_written = isinstance(evaluator, MaskEvaluator) and not evaluator.runner.optimised
        affine = None if as_written else self._affine
        mixer = None if affine is None else AffineMasks(affine, masks, self.levels)
        return with_scattered(
            evaluator,
            masks,
            mixer=mixer,
            macs=evaluator.macs if isinstance(evaluator, FastEvaluator) else 0.0,
            precision=self.precision,
            proven=self.candidates.proven,
            bits=self.precision == "float32" and self.candidates.rounding is not None,
        )

    @cached_property
    def _optimised(self) -> Runner:
        """A runner of the instrumented model that the runtime may optimise."""
        return _instrumented(self)

    @cached_property
    def _quick(self) -> Runner:
        """A runner of the instrumented model, in the precision of coalitions."""
        return self.judge if self.precision == "float32" else _instrumented(self, self.precision)

    @cached_property
    def _affine(self) -> Runner | None:
        """A runner of the model with affine masks, where coalitions are mixed on the CPU."""
        opened = self.opened
        if self.device != "cpu" or self.precision != "float32" or opened.step is not None:
            return None
        masked = instrument(opened.model, self.roster.sites, self.levels)
        model = with_affine_masks(masked, self.roster.sites)
        if model is None:
            return None
        return opened.variant(model, device="cpu").runner(outputs=(opened.output,))


def _is_few(working: Working, n_passes: int) -> bool:
    trees = not all(site.in_tensor for site in working.roster.sites)
    return n_passes <= _FEW_PASSES and working.precision == "float32" and not trees


@stage("opening the instrumented model")
def _instrumented(
    working: Working, precision: Precision = "float32", *, optimise: bool = True
) -> Runner:
    opened = working.opened
    model = instrument(opened.model, working.roster.sites, working.levels)
    return Runner(
        recast(model, "float16") if precision == "float16" else model,
        opened.image,
        opened.step,
        outputs=(opened.output,),
        device=opened.device,
        optimise=optimise,
        tf32=precision == "tf32",
    )


def stated_agreement(rounding: Rounding | None) -> str:
    """How near all answers on the CPU are to those of one image at a time, in words."""
    if rounding is None:
        return (
            "within 1e-5 of the largest output, and 1 % of what a filter changes, of the "
            "instrumented model as written, image by image"
        )
    return (
        "the bits of the instrumented model as written, image by image on one thread, since "
        f"{rounding.node} rounds to steps"
    )


def open_evaluator(
    candidates: Candidates,
    reference: MaskEvaluator,
    *,
    cache_memory: int | None = None,
    quick: tuple[Precision, Runner] | None = None,
    optimised: Callable[[], Runner] | None = None,
) -> Evaluator:
    """The fastest evaluator that agrees with the instrumented model on the suite's first images.

    Args:
        candidates: of the model.
        reference: the instrumented model in 32 bits, on the images of the game: the judge, see
            `Working.judge`.
        cache_memory: bytes for what is kept between rows and rounds; see `fast.usual_cache` if
            None.
        quick: a lesser precision and the instrumented model in it, if that is to be used.
        optimised: opens a runner of the optimised instrumented model, tried before the judge.

    Raises:
        DeviceError: in the lesser precision the model computes something else.
    """
    suite = reference.suite
    if not len(suite):
        return reference
    if not all(site.in_tensor for site in candidates.roster.sites):
        return _open_trees(candidates, reference)
    if quick is not None:
        precision, masks = quick[0], reference.with_runner(quick[1])
        return open_stacked(candidates, reference, masks, precision=precision, memory=cache_memory)
    if reference.device != "cpu":
        if candidates.step is not None or suite.further:
            return reference  # other paths feed images alone
        return open_stacked(candidates, reference, memory=cache_memory)
    return _open_on_cpu(candidates, reference, optimised, cache_memory)


def _open_on_cpu(
    candidates: Candidates,
    reference: MaskEvaluator,
    optimised: Callable[[], Runner] | None,
    cache_memory: int | None,
) -> Evaluator:
    """The fastest of all ways that gives what the judge gives image by image."""
    judge = reference.with_runner(reference.runner.sharing(step=candidates.step or 1))
    bits, agreement = candidates.rounding is not None, None
    ways = _all_evaluators(candidates, reference, optimised, cache_memory)
    for name, evaluator in ways:
        if name not in candidates.proven:
            with stage(f"proving {evaluator.path}"):
                if agreement is None:
                    macs = evaluator.macs if isinstance(evaluator, FastEvaluator) else np.inf
                    n_players, n_images = len(candidates.roster), len(reference.suite)
                    agreement = ExpectedAnswers.ask(judge, n_players, n_images, macs)
                whole = agreement.whole.fault(evaluator, bits=bits)
                fault = whole or agreement.fault(evaluator, bits=bits)
                if fault is None and isinstance(evaluator, FastEvaluator):
                    fault = cones_fault(evaluator, agreement.images[0])
            candidates.proven[name] = fault
            if whole is not None:  # nothing is absent, so overwriting is not the cause
                candidates.proven[_NOTHING_OVERWRITTEN.format(name)] = whole
            if fault is not None:
                logger.warning("%s are not used: %s", evaluator.path, fault)
        if candidates.proven[name] is None:
            return evaluator
    return judge


def _all_evaluators(
    candidates: Candidates,
    reference: MaskEvaluator,
    optimised: Callable[[], Runner] | None,
    cache_memory: int | None,
) -> Iterator[tuple[str, FastEvaluator | MaskEvaluator]]:
    """Every way except the judge itself, the fastest first, each with its name."""
    if candidates.step is None and not reference.suite.further:  # they feed images alone
        yield from _fast_evaluators(candidates, reference, cache_memory)
    at_the_end = candidates.rounding is not None and candidates.rounding.at_the_end
    name = "optimised masks"
    if optimised is not None and not at_the_end and candidates.proven.get(name) is None:
        yield name, reference.with_runner(optimised())
    if candidates.step is None:
        yield "masks in batches", reference


def _fast_evaluators(
    candidates: Candidates, reference: MaskEvaluator, cache_memory: int | None
) -> Iterator[tuple[str, FastEvaluator]]:
    """All that can be compiled, the fastest first, each with its name."""
    for way in candidates.ways:
        compiled = candidates.compile(way, reference.suite.batch(np.arange(1)))
        if compiled is None:
            continue
        for overwriting in (True, False):
            name = way if overwriting else _NOTHING_OVERWRITTEN.format(way)
            if candidates.proven.get(name) is not None:
                continue
            evaluator = FastEvaluator(
                compiled,
                reference.suite,
                executor=reference.executor,
                batch_size=reference.batch_size,
                cache_memory=cache_memory,
                overwriting=overwriting,
            )
            yield name, evaluator


def open_stacked(
    candidates: Candidates,
    judge: MaskEvaluator,
    masks: MaskEvaluator | None = None,
    *,
    precision: Precision = "float32",
    memory: int | None = None,
) -> Evaluator:
    """Rows stacked along the batch if that agrees with the judge, else one by one by masks.

    DeviceError if in a lesser precision the model computes something else.

    Args:
        candidates: of the model.
        judge: the instrumented model in 32 bits.
        masks: the instrumented model in `precision`, on the device to use; the judge if None.
        precision: of the answers.
        memory: see `StackedEvaluator`.
    """
    masks = judge if masks is None else masks
    compiled = None
    if candidates.step is None:
        sample, half = judge.suite.batch(np.arange(1)), precision == "float16"
        compiled = candidates.compile("stacked masks", sample, half=half)
    macs = 0.0 if compiled is None else sum(compiled.costs)
    agreement = ExpectedAnswers.ask(judge, len(candidates.roster), len(judge.suite), macs)
    if masks is not judge:
        _check_precision(agreement.fault(masks, precision), precision)
    if compiled is None:
        return masks
    evaluator = StackedEvaluator(
        compiled,
        judge.suite,
        device=masks.device,
        batch_size=judge.batch_size,
        stack_memory=memory,
        tf32=precision == "tf32",
    )
    fault = _fault_or_error(agreement, evaluator, precision)
    if fault is None:
        return evaluator
    logger.warning("stacked masks are not used: %s", fault)
    return masks


def _fault_or_error(
    agreement: ExpectedAnswers, evaluator: Evaluator, precision: Precision
) -> str | None:
    try:
        return agreement.fault(evaluator, precision)
    except errors.ModelError as error:
        return str(error)


def _check_precision(fault: str | None, precision: Precision) -> None:
    if fault is not None:
        raise errors.DeviceError(
            f"the model does not work in {IN_WORDS[precision]}: {fault}; leave the option out"
        )


def _open_trees(candidates: Candidates, reference: MaskEvaluator) -> Evaluator:
    """Sums of leaves if they agree with the instrumented model, else that model itself.

    A model that has layers as well is evaluated by its masks.
    """
    roster, suite = candidates.roster, reference.suite
    layers = any(site.n_values is None for site in roster.sites)
    if layers or candidates.step is not None:
        return reference
    opened = OpenModel(
        model=candidates.survey.index.model, image=candidates.image, output=candidates.output
    )
    try:
        reader = LeafReader(opened, roster.sites)
        evaluator = TreeEvaluator(
            opened,
            roster,
            candidates.levels,
            ensembles=reader.ensembles,
            leaves=reader.read_suite(suite),
            executor=reference.executor,
        )
    except errors.ModelError as error:
        logger.info("sums of leaves: %s", error)
        return reference
    fault = ExpectedAnswers.ask(reference, len(roster), len(suite), 1.0).fault(evaluator)
    if fault is None:
        return evaluator
    logger.warning("%s are not used: %s", evaluator.path, fault)
    return reference
