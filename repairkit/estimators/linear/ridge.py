"""Values of players by ridge regression of outcomes on which players were removed.

The outcome of a coalition with j players removed, on an image, is modelled as a cubic in j through
V(all), a multiple of the image's outcome with all players that may change with j, and a share per
player. All coalitions of one size are equally likely, so the players' columns are uncorrelated with
everything else: the rest may be fitted first, and however badly it fits, only noise is added. For
the same reason the shares estimate, for *any* game, a weighted mean over sizes of
E[V | i in S] - E[V | i not in S]; with Shapley's weights that is Shapley's value.

`fit` takes metrics that look at the same images; `solve` takes all metrics of a game, each with the
rows that say something about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from repairkit.core.game import GameFacts, ImagePool
from repairkit.core.scores import ErrorsOver
from repairkit.estimators.linear import krylov
from repairkit.estimators.linear.control import (
    AdditiveGame,
    ControlRows,
    ControlTable,
    additive_game,
    shrink,
)
from repairkit.estimators.linear.fits import LEAST_ROWS, Fit, FullOutcomes, nothing_known
from repairkit.estimators.linear.rows import (
    MetricShare,
    OutcomeTable,
    RegressionRows,
    metric_shares,
    squares_by_image,
)
from repairkit.estimators.samples import rank_correlation, student_quantile

Floats = NDArray[np.float64]

_COVARIATES = 9
_GROUP = 8
_LEAST_ROWS_PER_IMAGE = 4
_LEAST_IMAGES = 8
_FEW_PLAYERS = 32
_MANY_PLAYERS = 4096
_MOST_STEPS = 16
_MOST_WORK = 2e9
_QUICK_STEPS = 10
_PARTS = (1 / 8, 1 / 4, 1 / 2, 1.0)
_POINTS = 100


@dataclass(frozen=True)
class ControlVariate:
    """A table, its predictions for all rows of a run, and how often images are drawn for rows."""

    table: ControlTable
    predicted: OutcomeTable
    pool: ImagePool


def fit(
    rows: RegressionRows,
    outcomes: Floats,
    full: FullOutcomes,
    *,
    errors_over: ErrorsOver,
    rng: np.random.Generator | None,
    span: tuple[int, int] | None = None,
    added: AdditiveGame | None = None,
    auxiliaries: tuple[int, ...] = (),
) -> Fit:
    """Fit all metrics.

    Args:
        rows: at least `LEAST_ROWS`.
        outcomes: of the rows, (n_rows, n_metrics).
        full: outcomes with all players.
        errors_over: `rows` states errors of V on these images; `images` also of V on images like
            these (a sandwich whose clusters are images).
        rng: for the traces; None to value each player by itself, where rows are few.
        span: sizes, from - to, that the mean drop covers evenly; if None, as the shares do.
        added: the additive game that was added to the outcomes; its semivalues are added back.
        auxiliaries: see `core.game.GameFacts`, of these metrics.
    """
    residuals, drops, drop_errors = _partial_out(rows, outcomes, full, span)
    if rng is None:
        solutions, choices = _one_by_one(rows, residuals)
    else:
        solutions, choices = _penalised(rows, residuals, rng)
        residuals -= rows.times(solutions)
    shares = solutions * [choice.unshrunk for choice in choices]
    scatter = np.array([choice.variance for choice in choices])
    variances, *beside = _variances(rows, residuals, scatter, errors_over, added)
    errors = np.sqrt(variances)
    if added is not None:
        means = added.means()
        shares, errors = _with_means(shares, means, variances, *beside)
        drops = drops + means.mean(axis=0)
    return Fit(
        shares=shares,
        errors=errors,
        drops=drops,
        drop_errors=drop_errors,
        penalty=choices[0].penalty / rows.spread(),
        degrees=choices[0].degrees,
        r2=choices[0].r2,
        correlations=_correlations(rows, residuals, auxiliaries),
    )


def _correlations(rows: RegressionRows, residuals: Floats, auxiliaries: tuple[int, ...]) -> Floats:
    """How errors go with those of auxiliary metrics, (n_metrics,), empty without any.

    The covariance of two shares' errors is a sum over rows of products of residuals, with the
    weights of their variances. These are alike for all players, but for who lacks.
    """
    if not auxiliaries:
        return np.zeros(0)
    shares, weights = rows.all_sizes() / rows.n_players, rows.all_weights()
    counted = shares * (1 - shares) * (1.0 if weights is None else weights**2)
    scaled = residuals * np.sqrt(counted)[:, None]
    norms = np.sqrt((scaled**2).sum(axis=0))
    correlations = np.zeros(len(auxiliaries))
    for metric, other in enumerate(auxiliaries):
        if other >= 0 and norms[metric] * norms[other] > 0:
            product = float(scaled[:, metric] @ scaled[:, other])
            correlations[metric] = product / (norms[metric] * norms[other])
    return correlations


def _penalised(
    rows: RegressionRows, residuals: Floats, rng: np.random.Generator
) -> tuple[Floats, list[krylov.PenaltyChoice]]:
    """Ridge solutions, (n_players, n_metrics), each with the penalty chosen for its metric."""
    weights = rows.all_weights()
    column = None if weights is None else weights[:, None]
    targets = rows.transposed_times(residuals if column is None else residuals * column)
    spectra, traces = _spectra(rows, targets, rng)
    squares = residuals**2 if column is None else residuals**2 * column
    totals, spread = squares.sum(axis=0).tolist(), rows.spread()
    choices = [
        krylov.choose_penalty(
            spectra[i // _GROUP], i % _GROUP, traces, total, len(residuals), spread
        )
        for i, total in enumerate(totals)
    ]
    columns = [spectra[i // _GROUP].solve(i % _GROUP, c.penalty) for i, c in enumerate(choices)]
    return np.stack(columns, axis=1), choices


def _one_by_one(
    rows: RegressionRows, residuals: Floats
) -> tuple[Floats, list[krylov.PenaltyChoice]]:
    """The limit of an endless penalty: each player's share alone, whatever the others do.

    With few rows cross-validation sees structure in noise, and errors come out too small. Here all
    that the other players do counts as noise, and errors follow Student's law.
    """
    n_rows, weights, spread = len(residuals), rows.all_weights(), rows.spread()
    pulls = residuals if weights is None else residuals * weights[:, None]
    free = max(n_rows - _COVARIATES, 1)
    wider = student_quantile(0.95, free) / student_quantile(0.95, 10**6)
    choices = [
        krylov.PenaltyChoice(
            penalty=np.inf,
            degrees=0.0,
            unshrunk=1.0,
            variance=float(total) / free / spread * wider**2,
            r2=0.0,
        )
        for total in (pulls * residuals).sum(axis=0)
    ]
    return rows.transposed_times(pulls) / spread, choices


def _partial_out(
    rows: RegressionRows,
    outcomes: Floats,
    full: FullOutcomes,
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
    ahead = full.by_image[rows.all_images()].mean(axis=1) - full.means
    n_metrics = len(full.means)
    drops, errors = np.zeros(n_metrics), np.zeros(n_metrics)
    residuals = outcomes - full.means
    for metric in range(n_metrics):
        image = ahead[:, metric, None]
        design = np.concatenate([by_size, image, image * by_size[:, :1]], axis=1)
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

    Some images are harder than their outcome with all players says. Other rows have other
    coalitions, so this too is uncorrelated with the players' columns. None where images have too
    few rows, rows have several images, or images are few: with one image, the mean of the other
    rows and the row itself make up the sum of all, so that it would explain everything.
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


def _spectra(
    rows: RegressionRows, targets: Floats, rng: np.random.Generator
) -> tuple[list[krylov.Spectrum], krylov.Traces]:
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
    spectra = [krylov.lanczos(rows.gram_times, group, min(n - 1, most)) for group in groups]
    return spectra, krylov.Traces(spectra[0], slice(n_first, None), n - 1)


def _variances(
    rows: RegressionRows,
    residuals: Floats,
    scatter: Floats,
    errors_over: ErrorsOver,
    added: AdditiveGame | None,
) -> tuple[Floats, Floats, Floats]:
    """Of the shares, (n_players, n_metrics): the mean variance, spread as the sandwich's middle is.

    Columns are nearly orthogonal, so the sandwich's outer layers are the same for all players
    except for their columns' sums of squares. Also the covariance with the means of the game
    `added` over images like these, and the variance of these means; zeros without one.
    """
    weights = rows.all_weights()
    counted = np.ones(len(residuals)) if weights is None else weights
    flat = np.maximum((counted @ residuals**2) / len(residuals), np.finfo(float).tiny)
    pulls = residuals * counted[:, None]
    squares = rows.squares(np.concatenate([pulls, np.sqrt(counted)[:, None]], axis=1))
    middle, outer = squares[:, :-1], np.maximum(squares[:, -1:], 1e-12)
    crosses, spread = np.zeros_like(middle), np.zeros_like(middle)
    if added is not None:
        spread = added.spread()
    if errors_over == "images":
        numbers = None if added is None else added.numbers
        by_image, crosses = squares_by_image(rows, pulls, numbers)
        middle = np.maximum(middle, by_image)
    elif added is not None:  # these images are all there are; a table of some is a sample of them
        spread *= added.left
    scale = scatter * squares[:, -1].mean() / flat
    variances = middle / outer**2 * scale
    variances[squares[:, -1] <= 0] = np.inf
    return variances, crosses / outer * np.sqrt(scale), spread


def _with_means(
    shares: Floats, means: Floats, variances: Floats, crosses: Floats, spread: Floats
) -> tuple[Floats, Floats]:
    """Shares with the semivalues of the added game, and their errors."""
    factors, left = shrink(shares, variances)
    together = left + np.maximum(2 * factors * crosses, 0.0) + spread
    return factors * shares + means - means.mean(axis=0), np.sqrt(together)


# All metrics of a game


def solve(
    facts: GameFacts,
    rows: RegressionRows,
    outcomes: OutcomeTable,
    *,
    full: FullOutcomes,
    errors_over: ErrorsOver,
    entropy: tuple[int, ...] | None,
    span: tuple[int, int] | None = None,
    control: ControlVariate | None = None,
) -> Fit:
    """See `fit`; a metric about which too few rows say something gets zeros and infinite errors.

    Arguments are those of `fit`, for all metrics. `entropy` seeds the generator that estimates
    traces, None where there is none; `control` has predictions of the rows, if there are any.
    """
    whole = nothing_known((facts.n_players, facts.n_metrics))
    whole = replace(whole, correlations=np.zeros(len(facts.auxiliaries)))
    columns = outcomes.columns()
    predicted = None if control is None else control.predicted.columns()
    figures = np.zeros((2, facts.n_metrics))
    for share, part in _enough_rows(facts, rows):
        metrics = share.metrics
        numbers = columns.of(metrics, share.rows) * share.weight
        some, game = full.of(metrics, share.weight), None
        if control is not None and predicted is not None:
            known = predicted.of(metrics, share.rows) * share.weight
            game, added, figures[:, metrics] = additive_game(
                control.table,
                control.pool,
                _control_rows(part, numbers, known, some),
                metrics=metrics,
                images=share.images,
                weight=share.weight,
            )
            numbers += added
        rng = None if entropy is None else np.random.default_rng(entropy)
        fitted = fit(
            part, numbers, some, errors_over=errors_over, rng=rng, span=span, added=game,
            auxiliaries=_among(facts.auxiliaries, metrics),
        )  # fmt: skip
        whole = _with_metrics(whole, metrics, fitted)
    of_control = {} if control is None else {"coefficients": figures[0], "explained": figures[1]}
    return replace(whole, **of_control)


def _among(auxiliaries: tuple[int, ...], metrics: NDArray[np.intp]) -> tuple[int, ...]:
    """The places of auxiliary metrics among some metrics; a metric looks at images as its own."""
    if not auxiliaries:
        return ()
    places = {int(metric): place for place, metric in enumerate(metrics)}
    return tuple(places.get(auxiliaries[metric], -1) for metric in metrics)


def _enough_rows(
    facts: GameFacts, rows: RegressionRows
) -> Iterator[tuple[MetricShare, RegressionRows]]:
    """Metrics about which at least `LEAST_ROWS` rows say something, and these rows."""
    joined = None
    for share in metric_shares(facts, rows):
        if share.rows is None:
            yield share, rows
        elif len(share.rows) >= LEAST_ROWS:
            joined = rows.joined() if joined is None else joined
            yield share, joined.part(share.rows)


def _control_rows(
    rows: RegressionRows, outcomes: Floats, predicted: Floats, full: FullOutcomes
) -> ControlRows:
    images, sizes, counted = rows.all_images()[:, 0], rows.all_sizes(), rows.all_weights()
    # The variance of a value is a sum of squares with these weights.
    weights = sizes.astype(np.float64)
    if counted is not None:
        weights *= counted**2
    return ControlRows(
        outcomes=outcomes - full.means,
        predicted=predicted,
        ahead=full.by_image[images] - full.means,
        sizes=sizes,
        images=images,
        weights=weights,
    )


def _with_metrics(whole: Fit, metrics: NDArray[np.intp], fitted: Fit) -> Fit:
    """Write the fit of some metrics into the arrays of all."""
    whole.shares[:, metrics], whole.errors[:, metrics] = fitted.shares, fitted.errors
    whole.drops[metrics], whole.drop_errors[metrics] = fitted.drops, fitted.drop_errors
    if len(fitted.correlations):
        whole.correlations[metrics] = fitted.correlations
    if metrics[0]:
        return whole
    return replace(whole, penalty=fitted.penalty, degrees=fitted.degrees, r2=fitted.r2)


def halves_trace(
    rows: RegressionRows, outcomes: OutcomeTable, full: FullOutcomes
) -> list[tuple[int, float]]:
    """How well two halves of the rows agree on the first metric.

    After an eighth, a quarter, a half and all of the rows: their number, and the rank correlation
    of what every other row says with what the rest say.
    """
    columns, joined, first = outcomes.columns(), rows.joined(), np.zeros(1, np.intp)
    trace = []
    for part in _PARTS:
        n_rows = int(len(rows) * part)
        if n_rows < 2 * LEAST_ROWS:
            continue
        sides = []
        for numbers in (np.arange(0, n_rows, 2), np.arange(1, n_rows, 2)):
            half = joined.part(numbers)
            rng = np.random.default_rng(0)
            fitted = fit(
                half, columns.of(first, numbers), full.of(first), errors_over="rows", rng=rng
            )
            sides.append(fitted.shares[:, 0])
        correlation = rank_correlation(*sides)
        if np.isfinite(correlation):
            trace.append((n_rows, correlation))
    return trace


def mean_by_size(
    rows: RegressionRows, outcomes: OutcomeTable, guard: int
) -> list[list[float | int]]:
    """A hundred points at most: removals, rows, means of the first metric and of the guard.

    With more sizes than points, neighbouring sizes share a point.
    """
    values = outcomes.columns().of(np.array([0, guard]), None)
    sizes = rows.all_sizes()
    points: list[list[float | int]] = []
    for numbers in np.array_split(np.argsort(sizes, kind="stable"), min(_POINTS, len(sizes))):
        mean = values[numbers].mean(axis=0).tolist()
        points.append([float(sizes[numbers].mean()), len(numbers), *mean])
    return points
