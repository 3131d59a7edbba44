"""How a time limit is shared out over a repair: scoring, choosing, and what must come after."""

from __future__ import annotations

from dataclasses import dataclass, replace

from repairkit.core.process.deadline import Deadline
from repairkit.core.scores import Budget
from repairkit.jobs.score.methods import ScoreSettings
from repairkit.jobs.score.pace import seconds_per_pass
from repairkit.jobs.setup.bench import Bench

_SCORING = 0.6
_MOST_KEPT = 0.5
_PROOF_PASSES = 256
_WRITING_SECONDS = 2.0
_CHUNK_SECONDS = 1.0
_MOST_ROWS = 32


@dataclass(frozen=True)
class PatchTime:
    """The time of a repair that has a limit.

    Attributes:
        deadline: of the whole command.
        per_pass: seconds that an image takes.
        kept: seconds that confirming, proving, judging and writing need.
        per_set: seconds that telling of one more set of filters takes in the end.
    """

    deadline: Deadline
    per_pass: float
    kept: float
    per_set: float

    @classmethod
    def of(cls, how: ScoreSettings, bench: Bench) -> PatchTime | None:
        """None where there is no limit."""
        deadline = how.deadline
        if deadline is None:
            return None
        per_pass, parts = seconds_per_pass(bench.working, bench.parts.selection), bench.parts
        passes = 2 * len(parts.test) + 3 * len(parts.selection) + _PROOF_PASSES
        kept = min(passes * per_pass + _WRITING_SECONDS, _MOST_KEPT * deadline.left)
        return cls(deadline, per_pass, kept, 2 * len(parts.selection) * per_pass)

    def for_scoring(self, how: ScoreSettings) -> ScoreSettings:
        """The same settings, with the share of the time that scoring may take."""
        seconds = self.deadline.elapsed + _SCORING * (self.deadline.left - self.kept)
        budget = Budget(how.budget.max_evaluations, max(seconds, 0.0))
        return replace(how, budget=budget, whole_limit=self.deadline.limit)

    def is_over(self, n_sets: int) -> bool:
        """Whether to stop choosing, `n_sets` being told of in the end."""
        return self.deadline.left < self.kept + n_sets * self.per_set

    def rows_at_once(self, n_images: int) -> int:
        """Sets of filters that are looked at between two looks at the clock."""
        rows = int(_CHUNK_SECONDS / (self.per_pass * n_images))
        return min(max(rows, 1), _MOST_ROWS)
