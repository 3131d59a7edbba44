"""How to score: the method and its options, the budget, and the filters to leave out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from repairkit.core import errors, scores
from repairkit.core.process.stages import Deadline
from repairkit.estimators.registry import ESTIMATORS
from repairkit.formats.effects import About, Affects

NORMS = ("weight-norm", "activation-norm")
"""Baselines that play no game: the size of a filter's kernel or of its activations."""
METHODS = (*ESTIMATORS, *NORMS)
SHARE_OF_CURVE = 0.05
"""Of a time limit: what the removal curve may take."""
SHARE_OF_CONFIRMING = 0.25
"""Of the budget: what measures the ends of a small ranking at full size."""


@dataclass(frozen=True)
class ScoreSettings:
    """How to score; each field says what it affects.

    Attributes:
        method: a name of `METHODS`, or `module:object`.
        options: settings of the estimator that were given explicitly.
        paper: the letter of the paper's Algorithm 1 (`tmab`), but for `options`.
        statistics: tell in detail how far the estimate has come.
        exclude: filters to leave out of the ranking; none if None.
        keep_rows: leave coalitions and the model's outputs for them in the run folder.
        for_patch: leave out the selection images on which `patch` confirms.
        budget: where to stop at the latest; `EVALUATIONS_PER_FILTER` where neither limit is given.
        per_filter: evaluations per filter where neither limit is given; of
            `EVALUATIONS_PER_FILTER` if None.
        began: the moment of `time.monotonic` from which a time limit counts; when the job begins if
            None.
        whole_limit: the time limit that was asked for, where scoring has a share of it.
        score_size: rank on images of this size, (height, width), and measure the ends of the
            ranking at the model's own size; see `small_first`.
        curve: draw the removal curve once the filters are scored (`score` alone).
    """

    method: Annotated[str, About(Affects.SEARCH)] = "auto"
    options: Annotated[Mapping[str, Any], About(Affects.SEARCH)] = field(default_factory=dict)
    budget: Annotated[scores.Budget, About(Affects.LIMITS)] = field(default_factory=scores.Budget)
    paper: Annotated[bool, About(Affects.SEARCH, where_given=True)] = False
    statistics: Annotated[bool, About(Affects.PLACE)] = False
    keep_rows: Annotated[bool, About(Affects.PLACE)] = False
    exclude: Annotated[Exclusion | None, About(Affects.ROSTER, by_digest=True)] = None
    for_patch: Annotated[bool, About(Affects.IMAGES, where_given=True)] = False
    score_size: Annotated[tuple[int, int] | None, About(Affects.FIGURE, where_given=True)] = None
    began: Annotated[float | None, About(Affects.LIMITS, option=False)] = None
    whole_limit: Annotated[float | None, About(Affects.LIMITS, option=False)] = None
    per_filter: Annotated[int | None, About(Affects.LIMITS, option=False)] = None
    curve: Annotated[bool, About(Affects.PLACE, option=False)] = False

    @property
    def deadline(self) -> Deadline | None:
        """When the job is to end; None without a time limit, or before it `begun`."""
        seconds = self.budget.time_limit_seconds
        if seconds is None or self.began is None:
            return None
        return Deadline(self.began, seconds, self.whole_limit)

    @property
    def of_ranking(self) -> scores.Budget:
        """What may be spent on ranking: all, or what a confirmation at full size leaves."""
        if self.score_size is None:
            return self.budget
        most, seconds = self.budget.max_evaluations, self.budget.time_limit_seconds
        return scores.Budget(
            None if most is None else most - int(SHARE_OF_CONFIRMING * most),
            None if seconds is None else (1 - SHARE_OF_CONFIRMING) * seconds,
        )

    @property
    def takes_usual(self) -> bool:
        """Whether the usual number of evaluations is enough.

        So it is without limits, and where the rest of the job needs what is left of the time.
        """
        limits = self.budget
        alone = limits.time_limit_seconds is None or self.whole_limit is not None
        return limits.max_evaluations is None and alone

    def begun(self) -> ScoreSettings:
        """The same, with time that counts from now on unless it counts already."""
        return self if self.began is not None else replace(self, began=time.monotonic())

    def towards(self, sign: int) -> ScoreSettings:
        """The same, looking for filters that do harm, where no side was named.

        Args:
            sign: 1 for a metric of which more is better, else -1.
        """
        if "side" in self.options or not has_side(self.method):
            return self
        side = "lowest" if sign > 0 else "highest"
        return replace(self, options={**self.options, "side": side})

    def __post_init__(self) -> None:
        if self.paper and self.method != "tmab":
            raise errors.SettingsError(
                f"the paper's settings are those of tmab and {self.method} was asked for; use "
                "--method tmab --paper"
            )


def has_side(method: str) -> bool:
    """Whether a method of repairkit's own looks at one side of the ranking."""
    settings = ESTIMATORS.get(method)
    return settings is not None and "side" in {f.name for f in fields(settings)}


@dataclass(frozen=True)
class Exclusion:
    """Filters to leave out: the top `share`, in (0, 1), of a finished run of the same model."""

    run: Path
    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise errors.SettingsError(
                f"--exclude-share is {self.share:g}; expected a share between 0 and 1, such as 0.2"
            )
