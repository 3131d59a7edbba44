"""Ways to compile a model for coalitions, each tried once."""

import logging
from dataclasses import dataclass, field
from functools import cached_property

from repairkit.core import errors, filters, suite
from repairkit.core.process.stages import stage
from repairkit.engine import ort
from repairkit.engine.cones.compiled import Compiled
from repairkit.graph.coalitions import weight_space
from repairkit.graph.coalitions.recast import recast
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.structure import Rounding, find_rounding

logger = logging.getLogger(__name__)

_ON_CPU = ("blocked weights", "plain weights", "mask nodes")
WAYS: dict[str, ort.Level] = {
    "blocked weights": "blocked",
    "plain weights": "fused",
    "mask nodes": "fused",
    "stacked masks": "portable",
}
"""Ways to compile a model for the CPU, the fastest first; and the one for other devices."""


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
    roster: filters.Roster
    levels: filters.FilterMeans
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

    def compile(self, way: str, sample: suite.Array, *, half: bool = False) -> Compiled | None:
        """The model compiled in one of `WAYS`, None where that cannot be done.

        `sample` is one image, shape (1, *input); `half` asks for half precision, for masks alone.
        """
        key = way, half
        if key not in self._compiled:
            try:
                with stage("compiling"):
                    self._compiled[key] = self._compile(way, sample, half=half)
            except errors.ModelError as error:
                logger.info("%s: %s", way, error)
                self._compiled[key] = None
        return self._compiled[key]

    def _compile(self, way: str, sample: suite.Array, *, half: bool) -> Compiled:
        """See `compile`; raises ModelError where the optimised graph is not understood."""
        in_weights = way.endswith("weights")
        assert not (half and in_weights)
        separated = weight_space.separate(
            self.survey, self.roster.sites, self.levels, output=self.output, weight_space=in_weights
        )
        separated = weight_space.with_products(separated) if in_weights else separated
        optimised = ort.optimise(weight_space.with_codes(separated, self.roster), WAYS[way])
        # Not before: the runtime would write down the casts that its CPU kernels need.
        optimised = recast(optimised, "float16") if half else optimised
        switched = weight_space.find_switches(optimised, separated, self.roster)
        return Compiled(
            switched,
            self.roster,
            self.levels,
            image=self.image,
            output=self.output,
            sample=sample,
        )
