"""Choose an evaluator: the fastest that is understood, and proven on the images of the game."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from repairkit.core.errors import DeviceError, ModelError
from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.process.stages import stage
from repairkit.core.suite import IN_WORDS, Array, Precision
from repairkit.engine.ensembles.trees import open_trees
from repairkit.engine.evaluator import Evaluator, ExpectedAnswers
from repairkit.engine.masks import MaskEvaluator
from repairkit.engine.ort import Level, session_device
from repairkit.engine.rows.stacked import StackedEvaluator
from repairkit.engine.runner import OpenModel, Runner
from repairkit.engine.weights.compiled import Compiled
from repairkit.engine.weights.fast import FastEvaluator, cones_fault
from repairkit.engine.weights.routes import Routes
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.structure import Rounding, find_rounding

logger = logging.getLogger(__name__)

WAYS: dict[str, Level] = {
    "blocked weights": "blocked",
    "plain weights": "fused",
    "mask nodes": "fused",
    "stacked masks": "portable",
}
"""Ways to compile a model for the CPU, the fastest first; and the one for other devices."""

_NOTHING_OVERWRITTEN = "{}, nothing overwritten"
_ON_CPU = ("blocked weights", "plain weights", "mask nodes")


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Ways to compile a model, each tried once.

    Attributes:
        survey: of the working model.
        roster: the game's filters.
        levels: of absent filters.
        image: the name of the image input.
        output: the output that is judged.
        step: the number of images that one run must have; None where any goes.
        proven: what each way was found to do wrong, None where it agrees. A way is proven on the
            images of the first game that it is tried for, and the verdict holds for all others.
    """

    survey: Survey
    roster: Roster
    levels: FilterMeans
    image: str
    output: str
    step: int | None = None
    proven: dict[str, str | None] = field(default_factory=dict)
    _compiled: dict[tuple[str, bool], Compiled | None] = field(default_factory=dict)

    @cached_property
    def rounding(self) -> Rounding | None:
        """Where the model rounds to steps: other ways to compute it must then give equal bits."""
        return find_rounding(self.survey.index, (self.output,))

    @property
    def ways(self) -> tuple[str, ...]:
        """Ways worth a try on the CPU.

        Blocked convolutions add up in another order, and weights into which a normalisation is
        folded round differently: both are left out where the model rounds to steps, and all are
        where only rounded numbers can be compared.
        """
        if self.rounding is None:
            return _ON_CPU
        return () if self.rounding.at_the_end else _ON_CPU[-1:]

    def compile(self, way: str, sample: Array, *, half: bool = False) -> Compiled | None:
        """The model compiled in one of `WAYS`, None where that cannot be done.

        `sample` is one image, shape (1, *input); `half` asks for half precision, for masks alone.
        """
        key = way, half
        if key not in self._compiled:
            try:
                with stage("compiling"):
                    self._compiled[key] = Compiled(
                        self.survey,
                        self.roster,
                        self.levels,
                        image=self.image,
                        output=self.output,
                        sample=sample,
                        level=WAYS[way],
                        weight_space=way.endswith("weights"),
                        half=half,
                    )
            except ModelError as error:
                logger.info("%s: %s", way, error)
                self._compiled[key] = None
        return self._compiled[key]


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
        reference: the instrumented model in 32 bits, on the images of the game: the judge. On the
            CPU it should run the graph as it is written, since a judge that was optimised too
            cannot see what the runtime's optimisations change.
        cache_memory: bytes for what is kept between rows and rounds; a quarter of the free memory
            if None.
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
    device = session_device(reference.runner.session)
    if quick is not None:
        precision, rough = quick
        return open_stacked(
            candidates,
            reference,
            reference.with_runner(rough),
            device=device,
            precision=precision,
            memory=cache_memory,
        )
    if device != "cpu":
        if candidates.step is not None or suite.further:
            return reference  # other paths feed images alone
        return open_stacked(candidates, reference, device=device, memory=cache_memory)
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
                    macs = _cost(evaluator)
                    n_players, n_images = len(candidates.roster), len(reference.suite)
                    agreement = ExpectedAnswers.ask(judge, n_players, n_images, macs)
                whole = agreement.whole.fault(evaluator, bits=bits)
                fault = whole or agreement.fault(evaluator, bits=bits)
                if fault is None and isinstance(evaluator, FastEvaluator):
                    fault = cones_fault(evaluator, agreement.images[0])
            candidates.proven[name] = fault
            if whole is not None:  # then it is no matter of what cones overwrite
                candidates.proven[_NOTHING_OVERWRITTEN.format(name)] = whole
            if fault is not None:
                logger.warning("%s are not used: %s", evaluator.path, fault)
        if candidates.proven[name] is None:
            return evaluator
    return judge


def _cost(evaluator: FastEvaluator | MaskEvaluator) -> float:
    """Multiplications of a full pass of one image; endless where they are not known."""
    return evaluator.routes.full.cost if isinstance(evaluator, FastEvaluator) else np.inf


def _all_evaluators(
    candidates: Candidates,
    reference: MaskEvaluator,
    optimised: Callable[[], Runner] | None,
    cache_memory: int | None,
) -> Iterator[tuple[str, FastEvaluator | MaskEvaluator]]:
    """Every way but the judge itself, the fastest first, each with a name of its own."""
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
    """All that can be compiled, the fastest first, each with a name of its own."""
    for way in candidates.ways:
        compiled = candidates.compile(way, reference.suite.batch(np.arange(1)))
        if compiled is None:
            continue
        for overwriting in (True, False):
            name = way if overwriting else _NOTHING_OVERWRITTEN.format(way)
            if candidates.proven.get(name) is not None:
                continue
            yield (
                name,
                FastEvaluator(
                    Routes(compiled, overwriting=overwriting),
                    reference.suite,
                    executor=reference.executor,
                    batch_size=reference.batch_size,
                    cache_memory=cache_memory,
                ),
            )


def _open_trees(candidates: Candidates, reference: MaskEvaluator) -> Evaluator:
    """Trees by their leaves; a model that has layers as well, by its masks."""
    layers = any(site.in_tensor for site in candidates.roster.sites)
    if layers or candidates.step is not None:
        return reference
    opened = OpenModel(
        model=candidates.survey.index.model, image=candidates.image, output=candidates.output
    )
    return open_trees(opened, candidates.roster, candidates.levels, reference)


def open_stacked(
    candidates: Candidates,
    judge: MaskEvaluator,
    masks: MaskEvaluator | None = None,
    *,
    device: str,
    precision: Precision = "float32",
    memory: int | None = None,
) -> Evaluator:
    """Rows stacked along the batch where that agrees with the judge, else one by one by masks.

    Args:
        candidates: of the model.
        judge: the instrumented model in 32 bits.
        masks: the instrumented model in `precision`; the judge if None.
        device: `cuda`, or `cpu` to take the same steps without a card.
        precision: of the answers.
        memory: see `StackedEvaluator`.

    Raises:
        DeviceError: in a lesser precision the model computes something else.
    """
    masks = judge if masks is None else masks
    suite, n_images = judge.suite, len(judge.suite)
    sample = suite.batch(np.arange(1))
    compiled = None
    if candidates.step is None:
        compiled = candidates.compile("stacked masks", sample, half=precision == "float16")
    macs = 0.0 if compiled is None else sum(compiled.costs)
    agreement = ExpectedAnswers.ask(judge, len(candidates.roster), n_images, macs)
    if masks is not judge:
        fault = agreement.fault(masks, precision)
        if fault is not None:
            raise DeviceError(
                f"the model does not bear {IN_WORDS[precision]}: {fault}; leave the option out"
            )
    if compiled is None:
        return masks
    evaluator = StackedEvaluator(
        Routes(compiled, overwriting=False),
        suite,
        device=device,
        batch_size=judge.batch_size,
        stack_memory=memory,
        tf32=precision == "tf32",
    )
    try:
        fault = agreement.fault(evaluator, precision)
    except ModelError as error:
        fault = str(error)
    if fault is None:
        return evaluator
    logger.warning("stacked masks are not used: %s", fault)
    return masks
