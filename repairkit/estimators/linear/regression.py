"""Regression: many small coalitions, each on an image of its own, and ridge over all of them.

Every row says a little about every player. A pilot finds how many removals V survives; beyond, rows
would say nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

import numpy as np

from repairkit.core.errors import SettingsError
from repairkit.core.game import GameFacts
from repairkit.estimators.checks import check_positive, check_real, check_whole, unknown
from repairkit.estimators.linear import sizes as sizes_of
from repairkit.estimators.linear.regression_run import Plan, RegressionRun
from repairkit.estimators.linear.repair_run import RepairRun
from repairkit.estimators.linear.ridge import ErrorsOver
from repairkit.estimators.linear.split import Split
from repairkit.estimators.statistics.boundary import Side, check_question, settle_top_k

FEW_PLAYERS = 64
ENTRY_COST = 0.22
"""Of an image in a cone, in rows of one image: a third to six tenths of a pass, where rows take two
(.17 and .28 of a row on two networks). Not measured on the spot: results would differ by machine.
"""
_JUST_ABOVE_ONE = math.nextafter(1, 2)


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Ridge regression over coalitions of up to as many removals as V survives.

    Attributes:
        sizes: `falling`, with probability 1/sqrt(j) of j removals: values are those of Shapley cut
            off behind the collapse, with sizes weighted by sqrt(j) (n - j) rather than evenly;
            `shapley`, with Shapley's own weights up to all players: unbiased and, of many players,
            noisier; `even`. If None, `shapley` up to `FEW_PLAYERS` players, of whose values too
            much lies behind the collapse, and beyond `falling`; but `shapley` there too where the
            pilot finds V below V(none): then what lies behind the collapse cannot be left out.
        lost: the share of V(all) - V(none), of the guard metric, that is lost at the largest size.
        most_removed: the largest size as a share of the players, in place of the pilot; with
            `shapley` all sizes are drawn and neither counts.
        images_per_coalition: images that share a coalition.
        errors_over: `rows` states errors for these images, `images` for others like them.
        round_rows: the most coalitions in a round.
        pilot_rows: coalitions of the pilot.
        top_k: the question that `decided` answers; a tenth of the players, 1 to 100, if None.
        side: whether the `highest`, the `lowest` or `both` top k are asked for.
    """

    sizes: sizes_of.Law | None = None
    lost: float = 0.85
    most_removed: float | None = None
    images_per_coalition: int = 1
    errors_over: ErrorsOver = "rows"
    round_rows: int = 4096
    pilot_rows: int = 512
    top_k: int | None = None
    side: Side = "highest"

    def __post_init__(self) -> None:
        if self.sizes is not None and self.sizes not in sizes_of.LAWS:
            raise unknown("sizes", str(self.sizes), sizes_of.LAWS)
        check_positive("lost", self.lost, below=_JUST_ABOVE_ONE)
        if self.most_removed is not None:
            check_positive("most_removed", self.most_removed, below=_JUST_ABOVE_ONE)
        for name in ("images_per_coalition", "round_rows", "pilot_rows"):
            check_whole(name, getattr(self, name), least=1)
        _check_errors_over(self.errors_over, self.images_per_coalition)
        check_question(self.top_k, self.side)

    def start(self, facts: GameFacts, rng: np.random.Generator) -> RegressionRun:
        """Begin.

        Raises:
            SettingsError: fewer players than `top_k`.
        """
        n = facts.n_players
        most = max(n - 1, 1)
        law = self._law(n)
        if law == "shapley":
            reach = most
        elif self.most_removed is not None:
            reach = min(max(round(self.most_removed * n), 1), most)
        else:
            reach = 0
        plan = Plan(
            law=law,
            settled=self.sizes is not None or self.most_removed is not None,
            least=1,
            most=reach,
            lost=self.lost,
            images_per_coalition=self.images_per_coalition,
            errors_over=self.errors_over,
            round_rows=self.round_rows,
            pilot_rows=self.pilot_rows,
            top_k=settle_top_k(self.top_k, n),
            side=self.side,
            scaled=True,
        )
        return RegressionRun(facts, plan, rng)

    def _law(self, n_players: int) -> sizes_of.Law:
        if self.sizes is not None:
            return self.sizes
        few = n_players <= FEW_PLAYERS and self.most_removed is None
        return "shapley" if few else "falling"


@dataclass(frozen=True, kw_only=True)
class RepairRegression:
    """What a player does in coalitions as little reduced as a repair reduces the network.

    The value is the mean of V(S + i) - V(S) over sets S that lack 1 to 5 % of the players, every
    size as likely: a semivalue (Dubey, Neyman & Weber 1981), not Shapley's. It does not add up to
    anything. Meant for a metric that is smooth in every image; negative is harmful. Rows are
    weighed by their size such that it is so, see `sizes.semivalue_sizes`.

    Attributes:
        least_removed: the smallest size as a share of the players.
        most_removed: the largest.
        images_per_coalition, errors_over, round_rows, top_k, side: see `Regression`; errors are
            those for other images like these, since a repair is for images to come.
        rows: the budget, in rows. Where it is known, a pilot finds how much of it is best spent on
            a table of what images lose with each player alone, see `estimators/repair_run.py`.
        entry_cost: of an entry of that table, an image with one player removed, in rows.
    """

    least_removed: float = 0.01
    most_removed: float = 0.05
    images_per_coalition: int = 1
    errors_over: ErrorsOver = "images"
    round_rows: int = 4096
    top_k: int | None = None
    side: Side = "lowest"
    rows: int | None = None
    entry_cost: float = ENTRY_COST

    def __post_init__(self) -> None:
        check_real("least_removed", self.least_removed, least=0.0, below=1.0)
        check_positive("most_removed", self.most_removed, below=_JUST_ABOVE_ONE)
        if self.least_removed > self.most_removed:
            raise SettingsError(
                f"least_removed is {self.least_removed} and most_removed {self.most_removed}; give "
                "the smaller share first"
            )
        for name in ("images_per_coalition", "round_rows"):
            check_whole(name, getattr(self, name), least=1)
        if self.rows is not None:
            check_whole("rows", self.rows, least=1)
        check_positive("entry_cost", self.entry_cost)
        _check_errors_over(self.errors_over, self.images_per_coalition)
        check_question(self.top_k, self.side)

    def start(self, facts: GameFacts, rng: np.random.Generator) -> RegressionRun | RepairRun:
        """Begin.

        Raises:
            SettingsError: fewer players than `top_k`.
        """
        n = facts.n_players
        largest = max(n - 1, 1)
        least = min(max(math.floor(self.least_removed * n), 1), largest)
        plan = Plan(
            law="semivalue",
            settled=True,
            least=least,
            most=min(max(math.ceil(self.most_removed * n), least), largest),
            lost=1.0,
            images_per_coalition=self.images_per_coalition,
            errors_over=self.errors_over,
            round_rows=self.round_rows,
            pilot_rows=0,
            top_k=settle_top_k(self.top_k, n),
            side=self.side,
            scaled=False,
        )
        if self.rows is not None and n > 1 and self.images_per_coalition == 1:
            drawn = int(np.count_nonzero(facts.pool.probabilities))
            split = Split(
                n_players=n,
                n_images=drawn,
                n_metrics=facts.n_metrics,
                rows=self.rows,
                entry_cost=self.entry_cost,
            )
            # One image stands for all where images are judged together, see `driving.playing`.
            if split.pilot_images and not facts.of_sets:
                return RepairRun(facts, plan, split, rng)
        run = RegressionRun(facts, plan, rng)
        run.most_rows = 0 if self.rows is None else max(self.rows - 2, 0)
        return run


def _check_errors_over(errors_over: str, images_per_coalition: int) -> None:
    """Refuse settings that contradict one another.

    Raises:
        SettingsError: see the message.
    """
    if errors_over not in get_args(ErrorsOver):
        raise unknown("errors_over", str(errors_over), get_args(ErrorsOver))
    if errors_over == "images" and images_per_coalition != 1:
        raise SettingsError(
            f"errors over images need one image per coalition and {images_per_coalition} are "
            "asked for; set errors_over to rows"
        )
