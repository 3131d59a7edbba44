"""Repair values: what a player does in coalitions as little reduced as a repair reduces a network.

A regression over coalitions that lack few players (see `regression`). Where the budget is known, a
table may stand beside its rows: what each image loses with each player alone, which predicts most
of a row (see `control`). The rounds are then these: all players and none on all images; the table's
entries for a few images; a pilot of rows on these images, which shows how many images the table is
to have, if any (see `split`); the table's other entries; and rows without end, on the table's
images, or on all images where there is no table. The pilot's rows are not used for values, since
they favour its images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core import game, scores
from repairkit.core.errors import SettingsError
from repairkit.estimators import questions
from repairkit.estimators.linear import control, drawing
from repairkit.estimators.linear.fits import LEAST_ROWS, Fit
from repairkit.estimators.linear.regression import (
    JUST_ABOVE_ONE,
    RegressionRun,
    begin_regression,
)
from repairkit.estimators.samples import draw_entropy

Floats = NDArray[np.float64]

ENTRY_COST = 0.22
"""Of an image in a cone, in rows of one image: a third to six tenths of a pass, where rows take two
(.17 and .28 of a row on two networks). Not measured at run time: results would differ by machine.
"""
_BLOCK_ENTRIES = 2**14
_LEAST_BLOCK, _MOST_BLOCK = 8, 64
_MOST_PLAYERS = 1023  # of a round, whose first row is the full coalition


@dataclass(frozen=True, kw_only=True)
class RepairRegression:
    """What a player does in coalitions as little reduced as a repair reduces the network.

    The value is the mean of V(S + i) - V(S) over sets S that lack 1 to 5 % of the players, all
    sizes equally likely: a semivalue (Dubey, Neyman & Weber 1981), not Shapley's. The values do not
    add up to anything. Meant for a metric that is smooth in every image; negative is harmful. Rows
    get weights by their size so that the mean is this one, see `drawing.semivalue_sizes`.

    Attributes:
        least_removed: the smallest size as a share of the players.
        most_removed: the largest.
        images_per_coalition, errors_over, round_rows, top_k, side: see `Regression`; errors are
            those for other images like these, since a repair is for future images.
        rows: the budget, in rows. Where it is known, a pilot finds how much of it is best spent on
            a table of what images lose with each player alone, see below.
        entry_cost: of an entry of that table, an image with one player removed, in rows.
    """

    least_removed: float = 0.01
    most_removed: float = 0.05
    images_per_coalition: int = 1
    errors_over: scores.ErrorsOver = "images"
    round_rows: int = 4096
    top_k: int | None = None
    side: questions.Side = "lowest"
    rows: int | None = None
    entry_cost: float = ENTRY_COST

    def __post_init__(self) -> None:
        questions.check_real("least_removed", self.least_removed, least=0.0, below=1.0)
        questions.check_positive("most_removed", self.most_removed, below=JUST_ABOVE_ONE)
        if self.least_removed > self.most_removed:
            raise SettingsError(
                f"least_removed is {self.least_removed} and most_removed {self.most_removed}; give "
                "the smaller share first"
            )
        for name in ("images_per_coalition", "round_rows"):
            questions.check_whole(name, getattr(self, name), least=1)
        if self.rows is not None:
            questions.check_whole("rows", self.rows, least=1)
        questions.check_positive("entry_cost", self.entry_cost)
        drawing.check_errors_over(self.errors_over, self.images_per_coalition)
        questions.check_question(self.top_k, self.side)

    def start(self, facts: game.GameFacts, rng: np.random.Generator) -> RegressionRun | RepairRun:
        """Begin; SettingsError if the game has fewer players than `top_k`."""
        n = facts.n_players
        largest = max(n - 1, 1)
        least = min(max(math.floor(self.least_removed * n), 1), largest)
        plan = drawing.RegressionPlan(
            law="semivalue",
            settled=True,
            least=least,
            most=min(max(math.ceil(self.most_removed * n), least), largest),
            lost=1.0,
            images_per_coalition=self.images_per_coalition,
            errors_over=self.errors_over,
            round_rows=self.round_rows,
            pilot_rows=0,
            top_k=questions.settle_top_k(self.top_k, n),
            side=self.side,
            scaled=False,
        )
        if self.rows is not None and n > 1 and self.images_per_coalition == 1:
            drawn = int(np.count_nonzero(facts.pool.probabilities))
            split = drawing.Split(
                n_players=n,
                n_images=drawn,
                n_metrics=facts.n_metrics,
                rows=self.rows,
                entry_cost=self.entry_cost,
            )
            # One image stands for all where images are judged together, see `driving.playing`.
            if split.pilot_images and not facts.of_sets:
                return RepairRun(facts, plan, split, rng)
        run = begin_regression(facts, plan, rng)
        run.most_rows = 0 if self.rows is None else max(self.rows - 2, 0)
        return run


@dataclass(frozen=True)
class _Schedule:
    """Which round is what, counted from the first round after all players and none.

    First the pilot's entries, then the pilot's rows in one round, then the other entries, then rows
    of the regression. A round of entries has some players on a block of images.

    `n_images` is how many images the table has, -1 while that is not known.
    """

    split: drawing.Split
    n_images: int

    @property
    def n_chunks(self) -> int:
        """Rounds that it takes for all players on a block of images."""
        return -(-self.split.n_players // _MOST_PLAYERS)

    @property
    def block(self) -> int:
        """Images of a round of entries."""
        n = min(self.split.n_players, _MOST_PLAYERS)
        return int(np.clip(_BLOCK_ENTRIES // n, _LEAST_BLOCK, _MOST_BLOCK))

    @property
    def n_pilot(self) -> int:
        """Rounds of the pilot's entries, and so the number of the round with the pilot's rows."""
        return -(-self.split.pilot_images // self.block) * self.n_chunks

    @property
    def n_rest(self) -> int:
        """Rounds of the other entries."""
        more = max(self.n_images - self.split.pilot_images, 0)
        return -(-more // self.block) * self.n_chunks

    @property
    def first_rows(self) -> int:
        """The first round of the regression's rows."""
        return self.n_pilot + 1 + self.n_rest

    @property
    def spent_before_rows(self) -> int:
        """Evaluations: all players and none, the pilot, the other entries."""
        rounds = [n for n in range(self.first_rows) if n != self.n_pilot]
        return 2 + self.split.pilot_rows + sum(map(self._charge, rounds))

    def has_entries(self, number: int) -> bool:
        return number < self.n_pilot or 0 < number - self.n_pilot <= self.n_rest

    def place(self, number: int) -> tuple[slice, slice]:
        """The images, in the table's order, and the players of a round of entries."""
        first, last = 0, self.split.pilot_images
        if number > self.n_pilot:
            number -= self.n_pilot + 1
            first, last = last, self.n_images
        block, chunk = divmod(number, self.n_chunks)
        first += block * self.block
        start = chunk * _MOST_PLAYERS
        return (
            slice(first, min(first + self.block, last)),
            slice(start, min(start + _MOST_PLAYERS, self.split.n_players)),
        )

    def per_row(self, n_images: int) -> int:
        """What a row of entries on so many images counts for in the budget."""
        return max(1, round(n_images * self.split.entry_cost))

    def _charge(self, number: int) -> int:
        images, players = self.place(number)
        n_rows: int = 1 + players.stop - players.start
        n_images: int = images.stop - images.start
        return n_rows * self.per_row(n_images)


class RepairRun:
    """`regression` draws the rows and solves them; `table` is its control variate.

    `order` (n_images,) is the order in which images enter the table; the first `n_images` of them
    do, -1 until the pilot's outcomes are known. `parts` are the entries of a block of images under
    way, (n_block, n_players_of_a_round, n_metrics) each; `n_told` counts rounds after the one of
    all players and none. `explained` is the share of the pilot rows' variance that its entries
    explain.
    """

    stored_types: ClassVar[tuple[type, ...]] = (Fit,)

    def __init__(
        self,
        facts: game.GameFacts,
        plan: drawing.RegressionPlan,
        split: drawing.Split,
        rng: np.random.Generator,
    ) -> None:
        self.facts, self.plan, self.split = facts, plan, split
        self.regression = begin_regression(facts, plan, rng)
        self.entropy = draw_entropy(rng)
        self.order = _spread_evenly(facts.pool, np.random.default_rng([*self.entropy, 0]))
        self.n_images = -1
        self.table = control.ControlTable.none()
        self.parts: list[NDArray[np.float32]] = []
        self.n_told = 0
        self.explained = 0.0

    @property
    def endless(self) -> bool:
        return True

    @property
    def least_evaluations(self) -> int:
        return self.regression.least_evaluations

    @property
    def n_undecided(self) -> int | None:
        """See `RegressionRun`."""
        return None

    @property
    def statistics(self) -> dict[str, float]:
        """Those of the regression, and of the table; see `Scores.interval` too."""
        known = self.regression.statistics
        if self.n_images >= 0:
            known["pilot_variance_explained"] = self.explained
            known["table_images"] = float(self.n_images)
            known["table_cost_in_rows"] = self.n_images * self.split.image_cost
        fitted = self.regression.fit_rows()
        if fitted is not None and len(fitted.coefficients):
            known["table_coefficient"] = float(fitted.coefficients[0])
            known["table_variance_explained"] = float(fitted.explained[0])
        return known

    @property
    def alone(self) -> Floats | None:
        """What is lost with each player alone, (n_players, n_metrics); None without a table."""
        table = self.table if self.regression.table is None else self.regression.table
        return _scores_of_entries(self.facts, table).values if len(table) else None

    @property
    def details(self) -> dict[str, object]:
        return self.regression.details

    def ask(self) -> game.Round:
        return self._round(self.n_told) if len(self.regression.ends) else self.regression.ask()

    def ask_ahead(self, pending: Sequence[game.Round]) -> game.Round | None:
        """See `driving.playing`: only what follows the pilot is not known yet."""
        number, schedule = self.n_told + len(pending), self.schedule
        if not len(self.regression.ends) or (self.n_images < 0 and number > schedule.n_pilot):
            return None
        if self.n_images < 0 or number < schedule.first_rows:
            return self._round(number)
        return self.regression.ask_ahead(pending[max(schedule.first_rows - self.n_told, 0) :])

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`: rows count one by one; entries of the table only whole."""
        schedule = self.schedule
        if not len(self.regression.ends) or self.n_told == schedule.n_pilot:
            return False
        return not schedule.has_entries(self.n_told) and self.regression.can_be_told(n_rows)

    def tell(self, outcomes: game.Outcomes) -> None:
        if not len(self.regression.ends):
            self.regression.tell(outcomes)
            return
        schedule = self.schedule
        if schedule.has_entries(self.n_told):
            self._learn_entries(outcomes)
        elif self.n_told == schedule.n_pilot:
            self._decide(outcomes)
        else:
            self.regression.tell(outcomes)
        self.n_told += 1

    def read(self) -> scores.Scores:
        """See `RegressionRun.read`; where time ended before its rows, what the entries say."""
        table = self.table if self.regression.table is None else self.regression.table
        if len(self.regression.rows) >= LEAST_ROWS or not len(table):
            return self.regression.read()
        return _scores_of_entries(self.facts, table)

    def on_images(self, some: game.SomeImages) -> RepairRun | None:
        """See `RegressionRun.on_images`; how many images the table has does not change."""
        return _on_images(self, some)

    @property
    def schedule(self) -> _Schedule:
        """Which round is what."""
        return _Schedule(self.split, self.n_images)

    def _round(self, number: int) -> game.Round:
        schedule = self.schedule
        if number == schedule.n_pilot:
            return _pilot_rows(self)
        if not schedule.has_entries(number):
            return self.regression.ask()
        images, players = schedule.place(number)
        return _entries(self.order[images], players, self.facts.n_players, schedule)

    def _learn_entries(self, outcomes: game.Outcomes) -> None:
        schedule = self.schedule
        images = self.order[schedule.place(self.n_told)[0]]
        self.parts.append(entries_of(outcomes))
        if len(self.parts) == schedule.n_chunks:
            self.table.add(images.astype(np.int64), np.concatenate(self.parts, axis=1))
            self.parts = []
            self._settle()

    def _decide(self, outcomes: game.Outcomes) -> None:
        """Read the pilot: how many images the table is to have."""
        self.explained = _explained(self, outcomes)
        self.n_images = self.split.images_of_table(self.explained)
        if self.n_images:
            self.regression.draw_on(self.order[: self.n_images])
        self._settle()

    def _settle(self) -> None:
        """Hand the table to the regression once it is whole."""
        if 0 < self.n_images == len(self.table):
            self.regression.use(self.table)
            self.table = control.ControlTable.none()
        if self.n_images >= 0:
            self.regression.most_rows = max(self.split.rows - self.schedule.spent_before_rows, 0)


def _pilot_rows(run: RepairRun) -> game.Round:
    """Rows on the pilot's images, all of them equally often."""
    rng = np.random.default_rng([*run.entropy, 1])
    n, plan, n_rows = run.facts.n_players, run.plan, run.split.pilot_rows
    shares, _ = drawing.semivalue_sizes(plan.least, plan.most, n, 0.0)
    sizes = drawing.draw_sizes(rng, shares, 0, n_rows)
    images = np.resize(run.order[: run.split.pilot_images], n_rows)
    return game.Round(drawing.remove_at_random(rng, sizes, n), images[:, None])


def _entries(
    images: NDArray[np.intp], players: slice, n_players: int, schedule: _Schedule
) -> game.Round:
    """The full coalition, and it without each of some players, on the same images."""
    n_changed = players.stop - players.start
    rows = np.ones((1 + n_changed, n_players), bool)
    rows[1 + np.arange(n_changed), players.start + np.arange(n_changed)] = False
    return game.Round(rows, np.tile(images, (len(rows), 1)), schedule.per_row(len(images)))


def entries_of(outcomes: game.Outcomes) -> NDArray[np.float32]:
    """What images lose with each player of a round of entries, (n_images, n_players, n_metrics)."""
    losses = (outcomes.scores[0] - outcomes.scores[1:]).astype(np.float32)
    return np.ascontiguousarray(losses.transpose(1, 0, 2))


def _explained(run: RepairRun, outcomes: game.Outcomes) -> float:
    """The share of the variance of the pilot's rows that the table explains, first metric."""
    asked, table = _pilot_rows(run), run.table
    baseline, full = run.regression.baseline, run.regression.ends[0]
    assert asked.images is not None
    images, n_images, first = asked.images[:, 0].astype(np.int64), len(baseline), slice(0, 1)
    place, losses = table.places(n_images)[images], table.losses[:, :, first]
    removed, value = ~asked.coalitions, full[first]
    sizes = removed.sum(axis=1)
    rows = control.ControlRows(
        outcomes=outcomes.values[:, first] - value,
        predicted=table.predict(asked, n_images)[:, first],
        ahead=baseline[images, first] - value,
        sizes=sizes,
        images=images,
        weights=1.0 / np.maximum(sizes, 1),  # which their weights in a value come to
        # Players explain the first without a table, and other rows of the image the second.
        usual=(removed @ losses.mean(axis=0), sizes[:, None] * losses.mean(axis=1)[place]),
    )
    return float(control.fit_coefficients(rows, place % control.N_FOLDS)[1][0])


def _scores_of_entries(facts: game.GameFacts, table: control.ControlTable) -> scores.Scores:
    """What a table alone says, where no rows were played."""
    rates = facts.pool.probabilities[table.images]
    alone = control.AdditiveGame(
        losses=table.losses,
        factors=np.ones((len(table), facts.n_metrics)),
        rates=rates / rates.sum(),
        images=table.images,
        left=1 - len(table) / len(facts.pool),
    )
    values, errors = alone.means(), np.sqrt(alone.spread())
    plain = scores.Scores.plain(
        facts.metrics, values, errors, np.full(len(values), len(table), np.int64)
    )
    words = f"what {len(table)} images lose with each filter alone, since no rows were played"
    return replace(plain, interval=f"{plain.interval}; {words}: not the semivalue")


def _on_images(run: RepairRun, some: game.SomeImages) -> RepairRun | None:
    regression = run.regression.on_images(some)
    if regression is None:
        return None
    part = copy.copy(run)
    part.facts, part.regression = some.facts, regression
    part.order = np.arange(len(some.positions))
    if len(run.table):  # entries that the regression did not take
        part.table = run.table.on(some)
    too_few = len(regression.rows) < LEAST_ROWS <= len(run.regression.rows)
    if too_few and not len(part.table) and regression.table is None:
        return None
    return part


def _spread_evenly(pool: game.ImagePool, rng: np.random.Generator) -> NDArray[np.intp]:
    """An order of the images whose beginnings hold about their share of every stratum."""
    shuffled = rng.permutation(len(pool))
    strata = pool.strata[shuffled]
    _, of, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    within = np.zeros(len(pool))
    for stratum, size in enumerate(sizes.tolist()):
        members = np.flatnonzero(of == stratum)
        within[members] = (np.arange(size) + rng.random()) / size
    # Images that are never drawn come last.
    never = pool.probabilities[shuffled] <= 0
    order: NDArray[np.intp] = shuffled[np.lexsort((within, never))]
    return order
