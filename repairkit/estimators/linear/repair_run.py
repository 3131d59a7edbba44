"""The course of `repair` with a table beside its rows: a pilot, the table, then rows.

After everyone and no one on all images come the table's entries for a few images and rows on these;
they tell how many images the table is to have, if any (see `estimators/split.py`). Its remaining
entries follow, then rows without end, on the table's images; where it has none, on all. The pilot's
rows count for nothing else, since they favour its images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round, SomeImages
from repairkit.core.scores import Scores
from repairkit.estimators.linear import sizes as sizes_of
from repairkit.estimators.linear.control import (
    N_FOLDS,
    Beside,
    ControlTable,
    Rows,
    fit_coefficients,
)
from repairkit.estimators.linear.regression_run import Plan, RegressionRun
from repairkit.estimators.linear.ridge import LEAST_ROWS, Fit
from repairkit.estimators.linear.split import Split
from repairkit.estimators.walking.walks import draw_entropy

_BLOCK_ENTRIES = 2**14
_LEAST_BLOCK, _MOST_BLOCK = 8, 64
_MOST_PLAYERS = 1023  # of a round, beside whom stands the full coalition


class RepairRun:
    """`regression` draws the rows and solves them; `table` is its control variate.

    `order` (n_images,) is the order in which images enter the table; the first `n_images` of them
    do, -1 until the pilot is told. `parts` are the entries of a block of images under way,
    (n_block, n_players_of_a_round, n_metrics) each; `n_told` counts rounds since everyone and no
    one. `explained` is the share of the pilot rows' variance that its entries explain.
    """

    stored_types: ClassVar[tuple[type, ...]] = (Fit,)

    def __init__(
        self, facts: GameFacts, plan: Plan, split: Split, rng: np.random.Generator
    ) -> None:
        self.facts, self.plan, self.split = facts, plan, split
        self.regression = RegressionRun(facts, plan, rng)
        self.entropy = draw_entropy(rng)
        self.order = _spread_evenly(facts.pool, np.random.default_rng([*self.entropy, 0]))
        self.n_images = -1
        self.table = ControlTable.none()
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
    def details(self) -> dict[str, Any]:
        return self.regression.details

    def ask(self) -> Round:
        return self._round(self.n_told) if len(self.regression.ends) else self.regression.ask()

    def ask_ahead(self, pending: Sequence[Round]) -> Round | None:
        """See `driving.playing`: only what follows the pilot is not known yet."""
        number = self.n_told + len(pending)
        if not len(self.regression.ends) or (self.n_images < 0 and number > self._n_pilot):
            return None
        first_rows = self._n_pilot + 1 + self._n_rest
        if self.n_images < 0 or number < first_rows:
            return self._round(number)
        return self.regression.ask_ahead(pending[max(first_rows - self.n_told, 0) :])

    def can_be_told(self, n_rows: int) -> bool:
        """See `driving.driver`: rows count one by one; entries of the table only whole."""
        if not len(self.regression.ends) or self._is_pilot(self.n_told):
            return False
        return not self._is_table(self.n_told) and self.regression.can_be_told(n_rows)

    def tell(self, outcomes: Outcomes) -> None:
        if not len(self.regression.ends):
            self.regression.tell(outcomes)
            return
        if self._is_table(self.n_told):
            self._learn_entries(outcomes)
        elif self._is_pilot(self.n_told):
            self._decide(outcomes)
        else:
            self.regression.tell(outcomes)
        self.n_told += 1

    def read(self) -> Scores:
        """See `RegressionRun.read`; where time ended before its rows, what the entries say."""
        table = self.table if self.regression.table is None else self.regression.table
        if len(self.regression.rows) >= LEAST_ROWS or not len(table):
            return self.regression.read()
        rates = self.facts.pool.probabilities[table.images]
        ones = np.ones((len(table), self.facts.n_metrics))
        left = 1 - len(table) / len(self.order)
        alone = Beside(
            losses=table.losses,
            factors=ones,
            rates=rates / rates.sum(),
            images=table.images,
            left=left,
        )
        values, errors = alone.means(), np.sqrt(alone.spread())
        plain = Scores.plain(
            self.facts.metrics, values, errors, np.full(len(values), len(table), np.int64)
        )
        told = f"what {len(table)} images lose with each filter alone, since no rows were played"
        return replace(plain, interval=f"{plain.interval}; {told}: not the semivalue")

    def on_images(self, some: SomeImages) -> RepairRun | None:
        """See `RegressionRun.on_images`; how many images the table has stays as it was found."""
        regression = self.regression.on_images(some)
        if regression is None:
            return None
        part = copy.copy(self)
        part.facts, part.regression = some.facts, regression
        part.order = np.arange(len(some.positions))
        if len(self.table):  # entries that the regression did not take
            part.table = self.table.on(some)
        too_few = len(regression.rows) < LEAST_ROWS <= len(self.regression.rows)
        if too_few and not len(part.table) and regression.table is None:
            return None
        return part

    # Rounds since everyone and no one: the pilot's entries, its rows, the other entries, rows.

    @property
    def _n_chunks(self) -> int:
        return -(-self.facts.n_players // _MOST_PLAYERS)

    @property
    def _block(self) -> int:
        """Images of a round of entries."""
        n = min(self.facts.n_players, _MOST_PLAYERS)
        return int(np.clip(_BLOCK_ENTRIES // n, _LEAST_BLOCK, _MOST_BLOCK))

    @property
    def _n_pilot(self) -> int:
        """Rounds of the pilot's entries."""
        return -(-self.split.pilot_images // self._block) * self._n_chunks

    @property
    def _n_rest(self) -> int:
        """Rounds of the other entries."""
        more = max(self.n_images - self.split.pilot_images, 0)
        return -(-more // self._block) * self._n_chunks

    @property
    def _spent_before_rows(self) -> int:
        """Evaluations: everyone and no one, the pilot, the other entries."""
        rounds = [n for n in range(self._n_pilot + 1 + self._n_rest) if not self._is_pilot(n)]
        return 2 + self.split.pilot_rows + sum(self._charge(n) for n in rounds)

    def _charge(self, number: int) -> int:
        images, players = self._place(number)
        n_rows: int = 1 + players.stop - players.start
        return n_rows * self._per_row(len(images))

    def _per_row(self, n_images: int) -> int:
        return max(1, round(n_images * self.split.entry_cost))

    def _is_pilot(self, number: int) -> bool:
        return number == self._n_pilot

    def _is_table(self, number: int) -> bool:
        return number < self._n_pilot or 0 < number - self._n_pilot <= self._n_rest

    def _round(self, number: int) -> Round:
        if self._is_pilot(number):
            return self._pilot_rows()
        return self._entries(number) if self._is_table(number) else self.regression.ask()

    def _place(self, number: int) -> tuple[NDArray[np.intp], slice]:
        """The images and the players of a round of entries."""
        first, last = 0, self.split.pilot_images
        if number > self._n_pilot:
            number -= self._n_pilot + 1
            first, last = last, self.n_images
        block, chunk = divmod(number, self._n_chunks)
        first += block * self._block
        images = self.order[first : min(first + self._block, last)]
        start = chunk * _MOST_PLAYERS
        return images, slice(start, min(start + _MOST_PLAYERS, self.facts.n_players))

    def _entries(self, number: int) -> Round:
        """The full coalition, and it without each of some players, on the same images."""
        images, players = self._place(number)
        n_own = players.stop - players.start
        rows = np.ones((1 + n_own, self.facts.n_players), bool)
        rows[1 + np.arange(n_own), players.start + np.arange(n_own)] = False
        images_of_rows = np.tile(images, (len(rows), 1))
        return Round(rows, images_of_rows, self._per_row(len(images)))

    def _learn_entries(self, outcomes: Outcomes) -> None:
        images, _ = self._place(self.n_told)
        losses = (outcomes.scores[0] - outcomes.scores[1:]).astype(np.float32)
        self.parts.append(np.ascontiguousarray(losses.transpose(1, 0, 2)))
        if len(self.parts) == self._n_chunks:
            self.table.add(images.astype(np.int64), np.concatenate(self.parts, axis=1))
            self.parts = []
            self._settle()

    def _pilot_rows(self) -> Round:
        """Rows on the pilot's images, each as often."""
        rng = np.random.default_rng([*self.entropy, 1])
        n, plan, n_rows = self.facts.n_players, self.plan, self.split.pilot_rows
        shares, _ = sizes_of.semivalue_sizes(plan.least, plan.most, n, 0.0)
        sizes = sizes_of.draw_sizes(rng, shares, 0, n_rows)
        images = np.resize(self.order[: self.split.pilot_images], n_rows)
        return Round(sizes_of.remove_at_random(rng, sizes, n), images[:, None])

    def _decide(self, outcomes: Outcomes) -> None:
        """Read the pilot: how many images the table is to have."""
        asked = self._pilot_rows()
        assert asked.images is not None
        images, n_images, first = asked.images[:, 0].astype(np.int64), len(self.order), slice(0, 1)
        place, losses = self.table.places(n_images)[images], self.table.losses[:, :, first]
        removed, ends = ~asked.coalitions, self.regression.ends[0, first]
        sizes = removed.sum(axis=1)
        rows = Rows(
            outcomes=outcomes.values[:, first] - ends,
            predicted=self.table.predict(asked, n_images)[:, first],
            ahead=self.regression.baseline[images, first] - ends,
            sizes=sizes,
            images=images,
            weights=1.0 / np.maximum(sizes, 1),  # which their weights in a value come to
            # Players explain the first without a table, and other rows of the image the second.
            usual=(removed @ losses.mean(axis=0), sizes[:, None] * losses.mean(axis=1)[place]),
        )
        _, explained = fit_coefficients(rows, place % N_FOLDS)
        self.explained = float(explained[0])
        self.n_images = self.split.images_of_table(self.explained)
        if self.n_images:
            self.regression.draw_on(self.order[: self.n_images])
        self._settle()

    def _settle(self) -> None:
        """Hand the table to the regression once it is whole."""
        if 0 < self.n_images == len(self.table):
            self.regression.use(self.table)
            self.table = ControlTable.none()
        if self.n_images >= 0:
            self.regression.most_rows = max(self.split.rows - self._spent_before_rows, 0)


def _spread_evenly(pool: ImagePool, rng: np.random.Generator) -> NDArray[np.intp]:
    """An order of the images whose beginnings hold about their share of every stratum."""
    shuffled = rng.permutation(len(pool))
    strata = pool.strata[shuffled]
    _, of, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    within = np.zeros(len(pool))
    for stratum, size in enumerate(sizes.tolist()):
        own = np.flatnonzero(of == stratum)
        within[own] = (np.arange(size) + rng.random()) / size
    # Images that are never drawn come last.
    never = pool.probabilities[shuffled] <= 0
    order: NDArray[np.intp] = shuffled[np.lexsort((within, never))]
    return order
