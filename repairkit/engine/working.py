"""The model that a job works on: it runs images, and plays the game of its filters.

All that differs by how coalitions are evaluated is settled here: which model is instrumented, in
which precision, and which evaluators are tried. Sessions are opened when they are first needed, and
kept: jobs hand one `Working` on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.metric import Metric
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array, Precision, Suite
from repairkit.engine.ensembles.trees import TreeEvaluator
from repairkit.engine.evaluator import Evaluator, default_workers, make_executor
from repairkit.engine.game import ModelGame
from repairkit.engine.masks import AffineMasks, LateScattered, MaskEvaluator, with_scattered
from repairkit.engine.means import measure_means
from repairkit.engine.opening import Candidates, open_evaluator
from repairkit.engine.ort import choose_device, session_device
from repairkit.engine.runner import OpenModel, Runner
from repairkit.engine.weights.fast import FastEvaluator
from repairkit.graph.baking import representable
from repairkit.graph.coalitions.masking import with_affine_masks
from repairkit.graph.coalitions.recast import recast
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import instrument

_FEW_PASSES = 32  # of one image, up to which masks cost less than a proof


@dataclass(frozen=True, kw_only=True)
class Effort:
    """With what coalitions are evaluated. Only `half` and `tf32` may change a result.

    Attributes:
        batch_size: images in one run at the most.
        workers: threads; the number of cores if None.
        cache_memory: bytes for what is kept between coalitions; a quarter of the free memory if
            None.
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
    roster: Roster
    settle_levels: Callable[[Working], FilterMeans]
    effort: Effort = field(default_factory=Effort)

    @cached_property
    def wanted_levels(self) -> FilterMeans:
        """What absent filters are to yield."""
        return self.settle_levels(self)

    @cached_property
    def levels(self) -> FilterMeans:
        """What absent filters yield: the nearest to what is wanted that baking gives exactly."""
        return representable(self.survey, self.wanted_levels)

    def measure(self, suite: Suite, *, magnitude: bool = False) -> FilterMeans:
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
        return self._instrumented(optimise=choose_device(self.opened.device) != "cpu")

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
        metrics: Sequence[Metric],
        *,
        guard: Metric | None = None,
        n_rows: int | None = None,
    ) -> ModelGame:
        """The game of the filters on a suite.

        Args:
            suite: the images.
            metrics: the first steers the search.
            guard: see `ModelGame`.
            n_rows: how many coalitions of all images will be asked, if they are few. A few passes
                go by the masks at once: to compile the model and to prove that costs more.
        """
        evaluator = self._evaluator(suite, n_rows)
        return ModelGame(evaluator, self.roster, suite, metrics, guard=guard)

    def _evaluator(self, suite: Suite, n_rows: int | None) -> Evaluator:
        masks = MaskEvaluator(
            self.judge,
            self.roster,
            suite,
            executor=make_executor(self.effort.workers or default_workers()),
            batch_size=self.effort.batch_size,
        )
        if n_rows is not None and self._is_few(n_rows * len(suite)):
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

    def _is_few(self, n_passes: int) -> bool:
        trees = not all(site.in_tensor for site in self.roster.sites)
        return n_passes <= _FEW_PASSES and self.precision == "float32" and not trees

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
        return self._instrumented()

    @cached_property
    def _quick(self) -> Runner:
        """A runner of the instrumented model, in the precision of coalitions."""
        return self.judge if self.precision == "float32" else self._instrumented(self.precision)

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

    @stage("opening the instrumented model")
    def _instrumented(self, precision: Precision = "float32", *, optimise: bool = True) -> Runner:
        model = instrument(self.opened.model, self.roster.sites, self.levels)
        return Runner(
            recast(model, "float16") if precision == "float16" else model,
            self.opened.image,
            self.opened.step,
            outputs=(self.opened.output,),
            device=self.opened.device,
            optimise=optimise,
            tf32=precision == "tf32",
        )
