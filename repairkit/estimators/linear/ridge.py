"""Values of players by ridge regression of outcomes on who was removed.

The outcome of a coalition with j players removed, on an image, is modelled as a cubic in j through
V(all), a multiple of the image's baseline (its outcome with everyone present) that may change with
j, and a share per player. Coalitions are uniform given their size, so that the players' columns are
uncorrelated with everything else: the rest may be fitted first, and however badly it fits, only
noise is added. For the same reason the shares estimate, for *any* game, a weighted mean over sizes
of E[V | i in S] - E[V | i not in S]; with Shapley's weights that is Shapley's value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repairkit.estimators.linear.control import Beside, shrink
from repairkit.estimators.linear.krylov import Spectrum, lanczos
from repairkit.estimators.linear.rows import RegressionRows

Floats = NDArray[np.float64]
ErrorsOver = Literal["rows", "images"]

LEAST_ROWS = 32
_PENALTIES = np.geomspace(1e-4, 1e4, 65)
_GROUP = 8
_LEAST_ROWS_PER_IMAGE = 4
_LEAST_IMAGES = 8
_FEW_PLAYERS = 32
_MANY_PLAYERS = 4096
_MOST_STEPS = 16
_MOST_WORK = 2e9
_QUICK_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What the rows say.

    `shares` (n_players, n_metrics) add up to zero: the effect of presence at a fixed size, freed of
    the penalty's shrinkage; `errors` of the same shape are their standard errors. `drops`
    (n_metrics,) are the mean loss of V by one more removal, `drop_errors` theirs. For the first
    metric: the penalty in units of a column's sum of squares, the fit's degrees of freedom, and the
    share of the residual variance that the players explain, by generalised cross-validation.
    `coefficients` and `explained` (n_metrics,) are those of a control variate: by how much it is
    multiplied, and its share of the rows' variance; empty without one.
    """

    shares: Floats
    errors: Floats
    drops: Floats
    drop_errors: Floats
    penalty: float
    degrees: float
    r2: float
    coefficients: Floats = field(default_factory=lambda: np.zeros(0))
    explained: Floats = field(default_factory=lambda: np.zeros(0))


def fit(
    rows: RegressionRows,
    outcomes: Floats,
    baseline: Floats,
    full: Floats,
    *,
    errors_over: ErrorsOver,
    rng: np.random.Generator,
    span: tuple[int, int] | None = None,
    beside: Beside | None = None,
) -> Fit:
    """Fit all metrics.

    Args:
        rows: at least `LEAST_ROWS`.
        outcomes: of the rows, (n_rows, n_metrics).
        baseline: outcome of every image with everyone present, (n_images, n_metrics).
        full: V(all), (n_metrics,).
        errors_over: `rows` states the error as an estimate of V on these images; `images` also as
            one of V on images like these (a sandwich whose clusters are images).
        rng: for the traces.
        span: the least and the greatest size over which a mean drop is to be taken, evenly; if
            None, as the players' shares weigh the sizes of the rows.
        beside: the additive game that was added to the outcomes; its semivalues are added back.
    """
    residuals, drops, drop_errors = _partial_out(rows, outcomes, baseline, full, span)
    weights = rows.all_weights()
    column = None if weights is None else weights[:, None]
    targets = rows.transposed_times(residuals if column is None else residuals * column)
    spectra, traces = _spectra(rows, targets, rng)
    squares = residuals**2 if column is None else residuals**2 * column
    totals, spread = squares.sum(axis=0).tolist(), rows.spread()
    choices = [
        _choose(spectra[i // _GROUP], i % _GROUP, traces, total, len(residuals), spread)
        for i, total in enumerate(totals)
    ]
    solutions = np.stack(
        [spectra[i // _GROUP].solve(i % _GROUP, c.penalty) for i, c in enumerate(choices)], axis=1
    )
    residuals -= rows.times(solutions)
    shares = solutions * [choice.unshrunk for choice in choices]
    scatter = np.array([choice.variance for choice in choices])
    first = choices[0]
    penalty = first.penalty / rows.spread()
    if beside is None:
        errors = np.sqrt(_variances(rows, residuals, scatter, errors_over, None)[0])
    else:
        means = beside.means()
        together = _variances(rows, residuals, scatter, errors_over, beside)
        shares, errors = _with_means(shares, means, *together)
        drops = drops + means.mean(axis=0)
    return Fit(
        shares=shares,
        errors=errors,
        drops=drops,
        drop_errors=drop_errors,
        penalty=penalty,
        degrees=first.degrees,
        r2=first.r2,
    )


def _partial_out(
    rows: RegressionRows,
    outcomes: Floats,
    baseline: Floats,
    full: Floats,
    span: tuple[int, int] | None,
) -> tuple[Floats, Floats, Floats]:
    """Outcomes less what size and image explain; the mean drop of V per removal and its error."""
    sizes = rows.all_sizes()
    most = int(sizes.max())
    powers = np.arange(1, min(3, len(np.unique(sizes))) + 1)
    by_size = (sizes[:, None] / most) ** powers
    if span is None:
        # A player's share is a mean over sizes with weights j (n - j); so must the drop be.
        weights = (sizes * (rows.n_players - sizes)).astype(np.float64)
        weights /= max(weights.sum(), 1.0)
        contrast = weights @ (((sizes[:, None] - 1) / most) ** powers - by_size)
    else:
        first, last = (span[0] - 1) / most, span[1] / most
        contrast = (first**powers - last**powers) / (span[1] - span[0] + 1)
    ahead = baseline[rows.all_images()].mean(axis=1) - full
    drops, errors = np.zeros(len(full)), np.zeros(len(full))
    residuals = outcomes - full
    for metric in range(len(full)):
        own = ahead[:, metric, None]
        design = np.concatenate([by_size, own, own * by_size[:, :1]], axis=1)
        usual = _usual_residuals(rows, residuals[:, metric], design)
        if usual is not None:
            design = np.concatenate([design, usual, usual * by_size], axis=1)
        inverse = np.linalg.pinv(design.T @ design, hermitian=True)
        solution = inverse @ (design.T @ residuals[:, metric])
        residuals[:, metric] -= design @ solution
        drops[metric] = contrast @ solution[: len(powers)]
        lever = design @ (inverse[:, : len(powers)] @ contrast)
        errors[metric] = np.sqrt((lever**2) @ (residuals[:, metric] ** 2))
    return residuals, drops, errors


def _usual_residuals(rows: RegressionRows, outcomes: Floats, design: Floats) -> Floats | None:
    """The mean residual of the row's image over its other rows, (n_rows, 1).

    Some images are harder than their baseline says. Other rows have coalitions of their own, so
    that this too is uncorrelated with the players' columns. None where images have too few rows,
    rows several images, or images are few: of one image, the other rows' mean is what a row lacks
    to the sum of all, and would explain everything.
    """
    images = rows.all_images()
    if images.shape[1] != 1:
        return None
    by_image = np.bincount(images[:, 0]).astype(np.float64)
    if np.count_nonzero(by_image) < _LEAST_IMAGES:
        return None
    counts = by_image[images[:, 0]]
    if counts.mean() < _LEAST_ROWS_PER_IMAGE:
        return None
    residuals = outcomes - design @ np.linalg.lstsq(design, outcomes, rcond=None)[0]
    others = np.bincount(images[:, 0], residuals)[images[:, 0]] - residuals
    usual: Floats = others / (counts - 1 + _LEAST_ROWS_PER_IMAGE)
    return usual[:, None]


@dataclass(frozen=True)
class _Traces:
    """Random signs (or, of a few players, all of them) seen through X'X; `n` is its rank."""

    spectrum: Spectrum
    columns: slice
    n: int

    def degrees(self, penalty: float) -> float:
        return self.n * self.spectrum.mean_of(lambda v: v / (v + penalty), self.columns)

    def variance(self, penalty: float) -> float:
        """Mean variance of the solution per unit of the residuals', times n."""
        return self.n * self.spectrum.mean_of(lambda v: v / (v + penalty) ** 2, self.columns)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    penalty: float
    degrees: float
    unshrunk: float
    variance: float
    r2: float


def _spectra(
    rows: RegressionRows, targets: Floats, rng: np.random.Generator
) -> tuple[list[Spectrum], _Traces]:
    """Of the metrics in groups, so that memory stays bounded; the probes go with the first."""
    n = rows.n_players
    # A trace's relative error is sqrt(2 / (n n_probes)).
    n_probes = 4 if n < _MANY_PLAYERS else 1
    probes = np.eye(n) if n <= _FEW_PLAYERS else rng.choice([-1.0, 1.0], (n, n_probes))
    probes = probes - probes.mean(axis=0)
    most = _MOST_STEPS if len(rows) * n <= _MOST_WORK else _QUICK_STEPS
    groups = [targets[:, i : i + _GROUP] for i in range(0, targets.shape[1], _GROUP)]
    n_first = groups[0].shape[1]
    groups[0] = np.concatenate([groups[0], probes], axis=1)
    spectra = [lanczos(rows.gram_times, group, min(n - 1, most)) for group in groups]
    return spectra, _Traces(spectra[0], slice(n_first, None), n - 1)


def _choose(
    spectrum: Spectrum, column: int, traces: _Traces, total: float, n_rows: int, spread: float
) -> _Choice:
    """The penalty of the least generalised cross-validation error (Golub, Heath & Wahba 1979)."""
    penalties = _PENALTIES * spread
    squares = np.maximum(total - spectrum.explained(column, penalties), 0.0)
    degrees = np.array([traces.degrees(penalty) for penalty in penalties])
    free = n_rows - degrees
    errors = np.where(free > 0.02 * n_rows, n_rows * squares / np.maximum(free, 1.0) ** 2, np.inf)
    # Of equal ones the greatest penalty.
    best = len(errors) - 1 - int(np.argmin(errors[::-1]))
    penalty, lost = float(penalties[best]), traces.n / degrees[best]
    noise = squares[best] / free[best]
    variance = noise * lost**2 * traces.variance(penalty) / traces.n
    r2 = 1 - errors[best] * n_rows / total if total > 0 else 0.0
    return _Choice(
        penalty=penalty,
        degrees=float(degrees[best]),
        unshrunk=float(lost),
        variance=float(variance),
        r2=float(max(r2, 0.0)),
    )


def _variances(
    rows: RegressionRows,
    residuals: Floats,
    scatter: Floats,
    errors_over: ErrorsOver,
    beside: Beside | None,
) -> tuple[Floats, Floats, Floats]:
    """Of the shares, (n_players, n_metrics): the mean variance, spread as the sandwich's middle is.

    Columns are nearly orthogonal, so that the sandwich's outer layers are the same for all players
    but for their columns' sums of squares. Beside it, the covariance with the means of the game
    `beside` over images like these, and the variance of these means; zeros without one.
    """
    weights = rows.all_weights()
    counted = np.ones(len(residuals)) if weights is None else weights
    flat = np.maximum((counted @ residuals**2) / len(residuals), np.finfo(float).tiny)
    pulls = residuals * counted[:, None]
    squares = rows.squares(np.concatenate([pulls, np.sqrt(counted)[:, None]], axis=1))
    middle, own = squares[:, :-1], np.maximum(squares[:, -1:], 1e-12)
    crosses, spread = np.zeros_like(middle), np.zeros_like(middle)
    if beside is not None:
        spread = beside.spread()
    if errors_over == "images":
        by_image, crosses = rows.squares_by_image(pulls, None if beside is None else beside.numbers)
        middle = np.maximum(middle, by_image)
    elif beside is not None:  # these images are all there are; a table of some is a sample of them
        spread *= beside.left
    scale = scatter * squares[:, -1].mean() / flat
    variances = middle / own**2 * scale
    variances[squares[:, -1] <= 0] = np.inf
    return variances, crosses / own * np.sqrt(scale), spread


def _with_means(
    shares: Floats, means: Floats, variances: Floats, crosses: Floats, spread: Floats
) -> tuple[Floats, Floats]:
    """Shares with the semivalues of the game beside, and their errors."""
    factors, left = shrink(shares, variances)
    together = left + np.maximum(2 * factors * crosses, 0.0) + spread
    return factors * shares + means - means.mean(axis=0), np.sqrt(together)
