"""Which estimator scores a model, with which settings and budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from repairkit.core.errors import SettingsError
from repairkit.core.game import Game, Round
from repairkit.core.scores import Budget, Estimator
from repairkit.estimators import ESTIMATORS, PAPER, make_estimator
from repairkit.workflows.bench import Bench
from repairkit.workflows.excluding import Exclusion
from repairkit.workflows.norms import NORMS

METHODS = (*ESTIMATORS, *NORMS)
# Where no limit is given. Regressions try each coalition on one image, the others on a batch.
EVALUATIONS_PER_FILTER = {
    "tmab": 50,
    "permutation": 50,
    "marginals": 50,
    "regression": 500,
    "auto": 500,
    "repair": 500,
}
_TRUNCATION_SHARE = 0.2


@dataclass(frozen=True)
class ScoreSettings:
    """How to score.

    Attributes:
        method: a name of `METHODS`, or `module:object`.
        options: settings of the estimator that were given explicitly.
        paper: the letter of the paper's Algorithm 1 (`tmab`), but for `options`.
        statistics: tell in detail how far the estimate has come.
        exclude: filters to leave out of the ranking; none if None.
        for_patch: leave out the selection images on which `patch` confirms.
        budget: where to stop at the latest; `EVALUATIONS_PER_FILTER` where neither limit is given.
    """

    method: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    paper: bool = False
    statistics: bool = False
    exclude: Exclusion | None = None
    for_patch: bool = False

    def __post_init__(self) -> None:
        if self.paper and self.method != "tmab":
            raise SettingsError(
                f"the paper's settings are those of tmab and {self.method} was asked for; use "
                "--method tmab --paper"
            )


def settle_estimator(how: ScoreSettings, game: Game, bench: Bench) -> tuple[Estimator, Budget]:
    """The estimator with its defaults for this game, and where it stops at the latest.

    Raises:
        SettingsError: the method or a setting is unknown, or a value makes no sense.
    """
    options = {**PAPER, **how.options} if how.paper else dict(how.options)
    if how.method in ("tmab", "permutation"):
        options.setdefault("batch_size", bench.settings.batch_size)
    if how.method == "tmab" and "truncate_at" not in options and bench.n_classes > 1:
        options["truncate_at"] = default_truncation(game, bench.n_classes)
    budget, per_filter = how.budget, EVALUATIONS_PER_FILTER.get(how.method)
    if budget == Budget() and per_filter is not None:
        n = game.facts.n_players
        budget = Budget(max(per_filter * n, 4 * (n + 1)))
    return make_estimator(how.method, **options), budget


def default_truncation(game: Game, n_classes: int) -> float:
    """v_T: accuracy at which a fifth of what the model has above chance is left."""
    facts = game.facts
    rng = np.random.default_rng(0)
    images = facts.pool.draw(rng, 4096)[None]
    full = float(
        game.play(Round(np.ones((1, facts.n_players), bool), images)).values[0, facts.guard]
    )
    chance = 1.0 / n_classes
    return chance + _TRUNCATION_SHARE * max(full - chance, 0.0)
