"""Rows behind the collapse: whether they tell anything new, and values summed over all sizes.

Let s_j of a player be the mean of V with it less that without, among coalitions that lack j of n
players. Its Shapley value is (V(all) - V(none)) / n and beside it the sum of all s_j / n. Rows up
to the collapse J tell of the sizes up to J alone. So some rows are drawn behind J, on trial. If
their effects go with those up to J, or differ from them by more than noise explains, values are
pooled from classes of sizes: each class has a sum over its sizes with a known error, and how the
true sums vary and go together is learnt from all players (empirical Bayes). If not, values are
those of the sizes up to J.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts
from repairkit.core.scores import ErrorsOver
from repairkit.estimators.linear import pooling
from repairkit.estimators.linear.fits import LEAST_ROWS, Fit, FullOutcomes, nothing_known
from repairkit.estimators.linear.rows import OutcomeTable, RegressionRows

Floats = NDArray[np.float64]

_CLASSES = 4
_FIRST_LOOK = 8  # rows to a player
_GROWTH = 1.25
_ON_TRIAL, _RESTING, _POOLED = 1 / 8, 1 / 256, 2 / 5
_LEAST_TRIED, _TRIED = 1, 1.5  # rows behind the collapse to a player
_TRIED_IN_ALL = 256  # and at least so many in all
_SURE, _DOUBTFUL = 3.5, 2.5  # standard errors
_MOST_BEYOND = 1.3


@dataclass(frozen=True)
class Beyond:
    """How a run stands to the sizes behind the collapse.

    `share` is how many of its rows are drawn there, `look_at` after how many rows in all the share
    is decided anew (0 for never), and `pooled` says whether values are pooled over all sizes.
    """

    share: float = 0.0
    look_at: int = 0
    pooled: bool = False

    @property
    def on_trial(self) -> bool:
        """Whether rows behind the collapse are yet to tell what they are worth."""
        return self.look_at > 0 and self.share != _RESTING


@dataclass(frozen=True, kw_only=True)
class RowsKnown:
    """What a run knows of a game: rows of sizes up to `most`, J, and behind it.

    `empty` (n_images, n_metrics) are the outcomes without any player, as drawn rows would give
    them. `solve` is `ridge.solve`, and `entropy` seeds its generator; None to value each player
    by itself.
    """

    facts: GameFacts
    rows: RegressionRows
    outcomes: OutcomeTable
    full: FullOutcomes
    empty: Floats
    most: int
    errors_over: ErrorsOver
    entropy: tuple[int, ...] | None
    solve: Callable[..., Fit]

    @property
    def grand(self) -> Floats:
        """V(all) - V(none), (n_metrics,)."""
        return self.full.means - self.facts.pool.probabilities @ self.empty

    def up_to_collapse(self) -> RowsKnown:
        """Without the rows behind the collapse."""
        numbers = np.flatnonzero(self.rows.all_sizes() <= self.most)
        return self if len(numbers) == len(self.rows) else self._part(numbers, self.rows.weights)

    def behind(self) -> RowsKnown:
        """The rows behind the collapse, all counting the same."""
        return self._part(np.flatnonzero(self.rows.all_sizes() > self.most), np.zeros(0))

    def of_sizes(self, first: int, last: int) -> RowsKnown:
        """The rows of these sizes, with weights by which each size counts the same."""
        n, sizes = self.facts.n_players, self.rows.all_sizes()
        asked = np.arange(first, last + 1)
        weights = np.zeros(n + 1)
        if last <= self.most:
            # Of J itself a part counts as behind the collapse, see `drawing.semivalue_sizes`.
            weights[asked] = self.rows.weights[asked]
            weights[self.most] /= 1 - self.most / n
        else:
            weights[asked] = 1 / (asked * (n - asked) * shares_behind(self.most, n)[asked])
        weights[asked] /= weights[asked].mean()
        return self._part(np.flatnonzero((sizes >= first) & (sizes <= last)), weights)

    def _part(self, numbers: NDArray[np.intp], weights: Floats) -> RowsKnown:
        once = np.broadcast_to(1.0, (len(numbers), self.facts.n_metrics))
        rows = replace(self.rows.joined().part(numbers), weights=weights)
        return replace(self, rows=rows, outcomes=self.outcomes.part(numbers, once))

    def fit(self, span: tuple[int, int] | None = None) -> Fit:
        """See `ridge.solve`; infinite errors where rows are too few."""
        if len(self.rows) < LEAST_ROWS:
            return nothing_known((self.facts.n_players, self.facts.n_metrics))
        return self.solve(
            self.facts,
            self.rows,
            self.outcomes,
            full=self.full,
            errors_over=self.errors_over,
            entropy=self.entropy,
            span=span,
        )

    def first_alone(self) -> tuple[Floats, Floats]:
        """Effects and errors on the first metric, (n_players,), each player valued by itself."""
        facts, outcomes = self.facts, OutcomeTable(1)
        outcomes.add(self.outcomes.columns().of(np.zeros(1, np.intp), None))
        one = replace(
            self,
            facts=replace(
                facts,
                metrics=facts.metrics[:1],
                score_widths=facts.score_widths[:1],
                images_of=facts.images_of[:1],
                guard=0,
                auxiliaries=(),
            ),
            outcomes=outcomes,
            full=FullOutcomes(self.full.by_image[:, :1], self.full.means[:1]),
            entropy=None,
        )
        fitted = one.fit()
        return fitted.shares[:, 0], fitted.errors[:, 0]

    def fill_classes(self) -> bool:
        """Whether every class of sizes behind the collapse has rows enough for an error."""
        sizes, classes = self.rows.all_sizes(), size_classes(self.most, self.facts.n_players)
        counts = [int(((sizes >= a) & (sizes <= b)).sum()) for a, b in classes[1:]]
        return min(counts) >= LEAST_ROWS


def shares_behind(most: int, n_players: int) -> Floats:
    """How likely a row behind the collapse is to lack 0 ... n players, (n_players + 1,).

    In proportion to 1 / (j sqrt(1 - j / n)): oftener next to the collapse, where most is left to
    tell, and oftener at the end, where a row tells of few players.
    """
    sizes = np.arange(most + 1, n_players, dtype=np.float64)
    shares = np.zeros(n_players + 1)
    shares[most + 1 : n_players] = 1 / (sizes * np.sqrt(1 - sizes / n_players))
    shares /= shares.sum()
    return shares


def size_classes(most: int, n_players: int) -> list[tuple[int, int]]:
    """First and last size of each class: 1 ... `most`, and up to four behind it."""
    ends = np.geomspace(most, n_players - 1, _CLASSES + 1).round().astype(np.int64)
    ends = np.unique(ends).tolist()
    return [(1, most), *((a + 1, b) for a, b in pairwise(ends))]


def begin(most: int, n_players: int) -> Beyond:
    """At the start of rows; no size is behind a collapse that never comes."""
    return Beyond(look_at=_FIRST_LOOK * n_players if most < n_players - 1 else 0)


def look(known: RowsKnown) -> Beyond:
    """The share anew, from all rows so far.

    No row is drawn behind the collapse before there are eight rows to a player, and then one of
    eight, on trial. Where effects there surely go with those up to the collapse, or surely are not
    what noise and these make, values are pooled from then on, and two rows of five are drawn there.
    Where nothing is seen after a row and a half to a player, and after 256 rows, one row of 256
    goes on, so that a long run may find what a short one cannot.
    """
    n = known.facts.n_players
    following = int(np.ceil(_GROWTH * len(known.rows)))
    behind = known.behind()
    n_rows = len(behind.rows)
    if n_rows < max(_LEAST_TRIED * n, LEAST_ROWS):
        return Beyond(_ON_TRIAL, following)
    before, after = known.up_to_collapse().first_alone(), behind.first_alone()
    seen = max(alike(before, after), unlike(before, after))
    if seen >= _SURE and behind.fill_classes():
        return Beyond(_POOLED, 0, pooled=True)
    resting = n_rows >= max(_TRIED * n, _TRIED_IN_ALL) and seen < _DOUBTFUL
    return Beyond(_RESTING if resting else _ON_TRIAL, following)


def alike(some: tuple[Floats, Floats], others: tuple[Floats, Floats]) -> float:
    """How surely other effects go with some, in standard errors of their slope.

    A slope adds up what all players show, and is seen with far fewer rows than a spread. Arguments
    are those of `unlike`.
    """
    (effects, _), (rest, rest_errors) = some, others
    error = float(np.sqrt((effects**2 * rest_errors**2).sum()))
    return float((effects * rest).sum()) / error if 0 < error < np.inf else 0.0


def unlike(some: tuple[Floats, Floats], others: tuple[Floats, Floats]) -> float:
    """By how much other effects vary beyond their errors and a multiple of some effects.

    In standard errors of a mean of squares.

    Args:
        some: effects and their errors, (n_players,).
        others: the same, independent of these.
    """
    (effects, errors), (rest, rest_errors) = some, others
    noise = float((errors**2).mean())
    spread = max(float((effects**2).mean()) - noise, noise)
    slope = float((effects * rest).mean()) / spread if spread > 0 else 0.0
    expected = float((rest_errors**2 + slope**2 * errors**2).mean())
    if not 0 < expected < np.inf:
        return 0.0
    ratio = float(((rest - slope * effects) ** 2).mean()) / expected
    return float((ratio - 1) / np.sqrt(2 / len(effects)))


def solve_pooled(known: RowsKnown) -> Fit:
    """Shares that are sums over all sizes: see `pooling.pool`.

    Behind the collapse each player is valued by itself: rows are too few for a ridge there. Metrics
    about which too few rows say something in one of the classes are cut off.
    """
    n, n_metrics = known.facts.n_players, known.facts.n_metrics
    classes = size_classes(known.most, n)
    fits: list[Fit] = []
    for number, (first, last) in enumerate(classes):
        part = known.of_sizes(first, last)
        fit = (replace(part, entropy=None) if number else part).fit()
        size = (last - first + 1) / n
        fits.append(replace(fit, shares=size * fit.shares, errors=size * fit.errors))
    shares, noise, total = pooling.pool_fits(fits, known.facts.auxiliaries)
    unknown = ~np.isfinite(np.stack([fit.errors for fit in fits])).any(axis=1).all(axis=0)
    if unknown.any():
        cut = solve_cut_off(known, (1, known.most))
        values, of_cut = cut_off(cut, known.grand, known.most, known.facts)
        shares[:, unknown] = (values - known.grand / n)[:, unknown]
        noise[:, unknown] = total[:, unknown] = of_cut[:, unknown]
    none = np.zeros(n_metrics)
    return replace(fits[0], shares=shares, errors=total, noise=noise, drops=none, drop_errors=none)


def solve_cut_off(known: RowsKnown, span: tuple[int, int] | None) -> Fit:
    """Shares from the sizes up to the collapse; of metrics with an auxiliary one, from both."""
    fit = known.up_to_collapse().fit(span)
    if not known.facts.auxiliaries:
        return fit
    shares, noise, total = pooling.pool_fits([fit], known.facts.auxiliaries, alone=False)
    return replace(fit, shares=shares, errors=total, noise=noise)


def cut_off(fit: Fit, grand: Floats, most: int, facts: GameFacts) -> tuple[Floats, Floats]:
    """Values from the sizes up to the collapse alone, and their errors, (n_players, n_metrics).

    A value is a sum over the sizes drawn, times a factor that makes up for the others: the guard's
    values then add up to its V(all) - V(none), as Shapley's do, within bounds.

    Args:
        fit: of the rows up to `most`.
        grand: V(all) - V(none), (n_metrics,).
        most: the largest size drawn.
        facts: of the game.
    """
    paid, whole = float(fit.drops[facts.guard]) * most, float(grand[facts.guard])
    ratio = whole / paid if whole > 0 and paid > 0 else 1.0
    scale = most / facts.n_players * float(np.clip(ratio, 1.0, _MOST_BEYOND))
    # At a fixed size, one player absent means that one fewer of the others is.
    return scale * (fit.shares + fit.drops), scale * np.hypot(fit.errors, fit.drop_errors)
