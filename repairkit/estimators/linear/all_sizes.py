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
from repairkit.estimators.linear.fits import LEAST_ROWS, Fit, FullOutcomes, nothing_known
from repairkit.estimators.linear.rows import OutcomeTable, RegressionRows

Floats = NDArray[np.float64]

_CLASSES = 4
_FIRST_LOOK = 8  # rows to a player
_GROWTH = 1.25
_ON_TRIAL, _RESTING, _POOLED = 1 / 8, 1 / 256, 1 / 6
_LEAST_TRIED, _TRIED = 1, 1.5  # rows behind the collapse to a player
_TRIED_IN_ALL = 256  # and at least so many in all
_SURE, _DOUBTFUL, _UNSURE = 3.5, 2.5, 2.0  # standard errors
_SCALES = (0.01, 0.1, 1.0, 10.0)
_STEPS = 60
_TINY = 1e-12
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
    what noise and these make, values are pooled from then on, and one row of six is drawn there.
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
    """Shares that are sums over all sizes: see `pool`.

    Behind the collapse each player is valued by itself: rows are too few for a ridge there. Metrics
    about which too few rows say something in one of the classes are cut off.
    """
    n, n_metrics = known.facts.n_players, known.facts.n_metrics
    classes = size_classes(known.most, n)
    sums, errors = np.zeros((2, len(classes), n, n_metrics))
    fits: list[Fit] = []
    for number, (first, last) in enumerate(classes):
        part = known.of_sizes(first, last)
        fit = (replace(part, entropy=None) if number else part).fit()
        sums[number], errors[number] = (
            (last - first + 1) / n * each for each in (fit.shares, fit.errors)
        )
        fits.append(fit)
    shares, noise, total = np.zeros((3, n, n_metrics))
    unknown = ~np.isfinite(errors).any(axis=1).all(axis=0)
    for metric in np.flatnonzero(~unknown):
        shares[:, metric], noise[:, metric], total[:, metric] = pool(
            sums[:, :, metric], errors[:, :, metric]
        )
    if unknown.any():
        cut = known.up_to_collapse().fit((1, known.most))
        values, of_cut = cut_off(cut, known.grand, known.most, known.facts)
        shares[:, unknown] = (values - known.grand / n)[:, unknown]
        noise[:, unknown] = total[:, unknown] = of_cut[:, unknown]
    none = np.zeros(n_metrics)
    return replace(fits[0], shares=shares, errors=total, noise=noise, drops=none, drop_errors=none)


def pool(sums: Floats, errors: Floats) -> tuple[Floats, Floats, Floats]:
    """The total of several sums with errors, by how the true ones vary and go together.

    The sums of a player are taken to have a normal law around zero with the covariance c S. S is
    the same for all players, and c, one of four numbers, is small for the many that do little and
    large for the few that do much; how many have which is fitted to all (Urbut, Wang, Carbonetto &
    Stephens 2019, "Flexible statistical methods for estimating and testing effects in genomic
    studies with multiple conditions"). The total's mean and spread given the sums follow.

    Args:
        sums: (n_classes, n_players), of which each row adds up to zero.
        errors: of the same shape; infinite for a player of which a class knows nothing.

    Returns:
        Totals, which add up to zero; the part of their errors that other rows would draw anew; and
        their errors; of each (n_players,).
    """
    ones, squares = np.ones(len(sums)), np.ma.masked_invalid(errors**2)
    covariance = _sure_part(np.atleast_2d(np.cov(sums, bias=True)), sums.shape[1])
    noise = np.maximum(squares.mean(axis=1).data, _TINY * np.trace(covariance))
    if not noise.any():
        return sums.sum(axis=0), np.zeros(sums.shape[1]), np.zeros(sums.shape[1])
    noise = np.maximum(noise, _TINY * noise.max())
    spread = _spread(covariance, noise, sums.shape[1])
    if spread.any():
        laws = [_given(scale * spread, noise) for scale in _SCALES]
        chances = _chances(sums, laws)
        weights = np.stack([law.weights for law in laws])
        left = np.array([(w - ones) @ (c * spread) @ (w - ones)
                         for c, w in zip(_SCALES, weights, strict=True)])  # fmt: skip
    else:
        chances, left = np.ones((sums.shape[1], 1)), np.zeros(1)
        weights = np.eye(len(sums))[:1]
    each = sums.T @ weights.T
    totals = (chances * each).sum(axis=1)
    drawn = squares.filled(0.0).T @ weights.T**2
    wrong = drawn + left + (each - totals[:, None]) ** 2
    unknown = np.where(squares.mask.any(axis=0), np.inf, 0.0)
    of_rows, of_all = ((chances * part).sum(axis=1) + unknown for part in (drawn, wrong))
    return totals - totals.mean(), np.sqrt(of_rows), np.sqrt(of_all)


@dataclass(frozen=True)
class _Law:
    """Sums of one law, seen with noise: the total's `weights`, (n_classes,), and the likelihood.

    `precision` (n_classes, n_classes) and `log_volume` are those of the sums as they are seen.
    """

    weights: Floats
    precision: Floats
    log_volume: float

    def likelihoods(self, sums: Floats) -> Floats:
        """Logarithms, (n_players,)."""
        logs: Floats = -0.5 * (self.log_volume + (sums * (self.precision @ sums)).sum(axis=0))
        return logs


def _given(spread: Floats, noise: Floats) -> _Law:
    seen = spread + np.diag(noise)
    precision: Floats = np.linalg.inv(seen).astype(np.float64)
    weights = precision @ spread.sum(axis=1)
    return _Law(weights, precision, float(np.linalg.slogdet(seen)[1]))


def _chances(sums: Floats, laws: list[_Law]) -> Floats:
    """How likely each law is for each player, (n_players, n_laws): expectation-maximisation."""
    logs = np.stack([law.likelihoods(sums) for law in laws], axis=1)
    likely = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares: Floats = np.full(len(laws), 1 / len(laws))
    chances: Floats = likely
    for _ in range(_STEPS):
        chances = likely * shares
        chances /= chances.sum(axis=1, keepdims=True)
        shares = chances.mean(axis=0)
    return chances


def _sure_part(covariance: Floats, n_players: int) -> Floats:
    """A covariance of sums, those of two classes drawn to zero where chance could make them.

    A class of much noise seems to go with the sums up to the collapse by chance, and what it then
    adds to every total is large. Each covariance c with the standard error e (of players that do
    not go together) becomes c (1 - 4 e^2 / c^2), and zero within two standard errors (James & Stein
    1961, "Estimation with quadratic loss"; the factor 4 in place of 1 is for safety).
    """
    variances = np.diag(covariance)
    unsure = _UNSURE**2 * np.outer(variances, variances) / n_players
    squares = covariance**2
    kept = np.divide(squares - unsure, squares, out=np.zeros_like(squares), where=squares > unsure)
    np.fill_diagonal(kept, 1.0)
    sure: Floats = covariance * kept
    return sure


def _spread(covariance: Floats, noise: Floats, n_players: int) -> Floats:
    """The covariance of the true sums, from that of the estimated ones and their mean variances.

    Of its directions those count that stand out from noise, with what noise adds to them taken off
    (Baik & Silverstein 2006, "Eigenvalues of large sample covariance matrices of spiked population
    models").
    """
    scale = np.sqrt(noise)
    values, vectors = np.linalg.eigh(covariance / scale / scale[:, None])
    share = len(noise) / n_players
    above = values - 1 - share
    root = np.sqrt(np.maximum(above**2 - 4 * share, 0.0))
    kept = np.where(values > (1 + np.sqrt(share)) ** 2, (above + root) / 2, 0.0)
    spread: Floats = (vectors * kept) @ vectors.T * scale * scale[:, None]
    return spread


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
