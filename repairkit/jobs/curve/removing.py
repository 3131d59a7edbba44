"""Draw the removal curve of a ranking: freeze its first filters in turn, and judge the model.

A curve reports and chooses nothing. So it is judged on test images, beside orders that know nothing
of the values: random ones, and norms. Its cost follows from the run and the model alone, never from
the speed of the machine, unless there is a time limit.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from repairkit.core import attacked, errors
from repairkit.core.game import Coalitions
from repairkit.core.metric import Metric
from repairkit.core.process.stages import Deadline, stage
from repairkit.core.results import Figure
from repairkit.core.suite import Annotations, Array, Suite
from repairkit.data.parts import thin
from repairkit.engine.evaluator import keep_all
from repairkit.engine.model_game import ModelGame
from repairkit.formats import curve_file
from repairkit.graph.structure import bytes_of_largest_node
from repairkit.jobs.score.score_settings import NORMS
from repairkit.jobs.setup.workbench import Bench, first_images, seconds_per_pass
from repairkit.metrics.catalogue import definition_of
from repairkit.metrics.definition import GroupMetric, check_defined
from repairkit.metrics.evaluation import evaluate
from repairkit.metrics.robustness import ATTACK_SUCCESS

SIZES = (1, 2, 3, 5, 10, 20, 30)
"""How many filters are frozen, as far as the model has so many."""
N_DRAWS = 5
SHARE_OF_RUN = 0.1
"""Of a run's image passes, what its curve may take, unless the model is small."""

_LEAST_BYTES = 2**31  # moved through the largest layer: some seconds for any model
_FEWEST_IMAGES = 50
_MOST_MEASURED = 1000  # calibration images by which activations are measured
_BLOCK_BYTES = 2**27
_MOST_ROWS = 64
_SPARED = 0.7  # of the time that is left: opening and proving the fast way takes some
_N_RESAMPLES, _FEW_RESAMPLES = 1000, 200
_STREAM = 23  # of the seed

Players = NDArray[np.intp]
"""Shape (n_ranked,): players in the order in which they are frozen."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RankedFilters:
    """The filters of a run in rank order, and what else orders them.

    Attributes:
        players: the highest value first.
        method: by which they were valued.
        side: the side of the ranking that the method looked at.
        alone: what the model loses with each filter alone, (n_players,), where the run knows it.
    """

    players: Players
    method: str
    side: str = curve_file.HIGHEST
    alone: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class CurveLimits:
    """What a curve may take: passes of an image, and time; None means no limit."""

    passes: int | None = None
    deadline: Deadline | None = None


@dataclass(frozen=True, eq=False)
class _Order:
    """Filters in the order in which they are frozen, under a name."""

    name: str
    words: str
    players: Players


def allowance_of_run(bench: Bench, image_passes: int) -> int:
    """The passes of an image that a curve may take after a run of so many.

    That is a tenth of the run's, and for small models what some seconds allow.
    """
    first = first_images(bench.dataset, 1).batch(np.arange(1))
    subject = bench.subject
    moved = bytes_of_largest_node(subject.model, subject.input_name, first.shape[1:])
    return max(int(SHARE_OF_RUN * image_passes), _LEAST_BYTES // max(moved, 1))


def judging_suite(bench: Bench) -> Suite:
    """The images that judge a curve: the test part; the selection part where there is no other."""
    return bench.parts.test if len(bench.parts.test) else bench.parts.selection


def digest_of(bench: Bench, suite: Suite) -> str:
    """A digest of the data and of the rows of a suite."""
    rows = np.sort(suite.indices).astype("<i8")
    return hashlib.sha256(bench.dataset.digest.encode() + rows.tobytes()).hexdigest()


def draw_curve(
    bench: Bench, ranking: RankedFilters, allowed: CurveLimits | None = None
) -> curve_file.CurveDocument:
    """Freeze the first filters of the ranking and of other orders, and judge the model each time.

    Args:
        bench: of the run.
        ranking: its filters.
        allowed: what it may take; anything if None.

    Raises:
        BudgetError: it would take more than is allowed, or its images do not define a figure.
        RepairkitError: the model cannot be run.
    """
    began = time.monotonic()
    limits = allowed or CurveLimits()
    sizes = [0, *(size for size in SIZES if size <= len(ranking.players))]
    whole = judging_suite(bench)
    metrics = _metrics(bench, whole.annotations)
    with stage("ordering filters for the removal curve"):
        lead = _lead(ranking, metrics[0])
        orders = _orders(bench, ranking, lead)
        draws = _draws(ranking.players, bench.settings.seed)
    n_rows = 1 + (len(sizes) - 1) * (len(orders) + N_DRAWS)
    suite = _affordable(bench, whole, n_rows, limits)
    for metric in metrics:
        check_defined(metric, suite.annotations, suite.name)
    players = [order.players for order in orders] + draws
    coalitions = _coalitions(players, sizes, len(bench.roster))
    game = bench.working.game(suite, metrics, n_rows=len(coalitions))
    judge = _Judge(suite, metrics, bench.settings.seed)
    n_ordered = 1 + (len(sizes) - 1) * len(orders)
    figures: list[dict[str, Figure]] = []
    with stage("drawing the removal curve", total=len(coalitions), unit="sets") as tell:
        for outputs in _answers(game, coalitions, limits.deadline):
            with_interval = len(figures) < n_ordered
            figures.append(judge.evaluate(outputs) if with_interval else judge.figures(outputs))
            tell(len(figures))
    lines = _lines(bench, orders, sizes, figures)
    measured = min(len(bench.parts.calibration), _MOST_MEASURED)
    return {
        "metric": metrics[0].name,
        "measures": {metric.name: metric.measure.to_json() for metric in metrics},
        "part": suite.name,
        "images": digest_of(bench, suite),
        "n_images": len(suite),
        "n_part": len(whole),
        "judged": _in_words(bench, suite, whole, ranking.method),
        "sizes": sizes,
        "lead": lead,
        "seed": bench.settings.seed,
        "lines": lines,
        "evaluations": len(coalitions),
        "image_passes": len(coalitions) * len(suite) + measured,
        "seconds": round(time.monotonic() - began, 3),
    }


def _metrics(bench: Bench, about: Annotations) -> tuple[Metric, ...]:
    """The metric that ranked, accuracy, and of attacked images how often the attack succeeds."""
    names = [bench.metric_names[0]]
    names += [bench.accuracy] if bench.n_classes else []
    names += [ATTACK_SUCCESS.name] if attacked.is_attacked(about) and bench.n_classes else []
    return bench.metrics(list(dict.fromkeys(names)))


def _lead(ranking: RankedFilters, metric: Metric) -> str:
    """The line that a reader of the run looks at first.

    Highest values as a rule: what the model lives on, or, where less is better, what harms. A run
    that looked for the lowest values leads with these. So does one whose V compares groups, where
    more is better: its reader looks for harm. `repair` looks for harm always.
    """
    more = metric.measure.greater_is_better
    definition = definition_of(metric.name)
    of_groups = definition is not None and bool(definition.needs & {"groups", "two groups"})
    if ranking.method == "repair" or (of_groups and definition and not definition.takes):
        return curve_file.LOWEST if more else curve_file.HIGHEST
    return curve_file.LOWEST if ranking.side == curve_file.LOWEST else curve_file.HIGHEST


_FILTER_NORMS = {"weight-norm": "kernel norms", "activation-norm": "mean absolute activations"}
_TREE_NORMS = {"weight-norm": "norms of leaves", "activation-norm": "mean absolute answers"}


def _orders(bench: Bench, ranking: RankedFilters, lead: str) -> list[_Order]:
    ranked = ranking.players
    of_norm = _TREE_NORMS if bench.roster.unit else _FILTER_NORMS
    of = of_norm.get(ranking.method, "values")
    of = "random values" if ranking.method == "random" else of
    orders = [
        _Order(curve_file.HIGHEST, f"highest {of} first", ranked),
        _Order(curve_file.LOWEST, f"lowest {of} first", ranked[::-1]),
    ]
    for name in NORMS:
        if name != ranking.method:
            by_norm = ranked[np.argsort(-_norms(bench, name)[ranked], kind="stable")]
            orders.append(_Order(name, f"greatest {of_norm[name]} first", by_norm))
    if ranking.alone is not None:
        alone = ranking.alone[ranked]
        lowest = lead == curve_file.LOWEST
        by_loss = ranked[np.argsort(alone if lowest else -alone, kind="stable")]
        words = f"{'lowest' if lowest else 'highest'} leave-one-out values first"
        orders.append(_Order("leave-one-out", words, by_loss))
    return orders


def _norms(bench: Bench, name: str) -> NDArray[np.float64]:
    """Norms of kernels, or mean absolute activations over some calibration images, by player."""
    if name == "weight-norm":
        by_site = {n: layer.norms() for n, layer in bench.working.survey.layers.items()}
    else:
        few = bench.parts.calibration.thinned(_MOST_MEASURED)
        measured = bench.working.measure(few, magnitude=True)
        by_site = {n: level.astype(np.float64) for n, level in measured.items()}
    return np.concatenate([by_site[site.name] for site in bench.roster.sites])


def _draws(players: Players, seed: int) -> list[Players]:
    rng = np.random.default_rng([seed, _STREAM])
    # Sorted first: the draws depend on the filters and the seed, not on their values.
    pool = np.sort(players)
    return [rng.permutation(pool) for _ in range(N_DRAWS)]


def _affordable(bench: Bench, whole: Suite, n_rows: int, limits: CurveLimits) -> Suite:
    """All images, or as many as the limits allow, drawn evenly over labels and groups.

    Raises:
        BudgetError: these would be too few to say anything.
    """
    most, limit = len(whole), "a tenth of the run's passes"
    if limits.passes is not None:
        most = min(most, limits.passes // n_rows)
    if limits.deadline is not None:
        left = _SPARED * limits.deadline.left / seconds_per_pass(bench)
        if left / n_rows < most:
            most, limit = max(int(left / n_rows), 0), "the time that was left"
    if most < min(len(whole), _FEWEST_IMAGES):
        raise errors.BudgetError(
            f"{n_rows} sets of filters on {min(len(whole), _FEWEST_IMAGES)} images would take more "
            f"than {limit}"
        )
    return thin(whole, most, bench.settings.seed)


def _coalitions(orders: Sequence[Players], sizes: Sequence[int], n_players: int) -> Coalitions:
    """Everyone, then for each order the sets without its first filters."""
    rows = [np.ones(n_players, bool)]
    for players in orders:
        for before, size in pairwise(sizes):
            row = (rows[0] if before == 0 else rows[-1]).copy()
            row[players[before:size]] = False
            rows.append(row)
    return np.stack(rows)


def _answers(game: ModelGame, coalitions: Coalitions, deadline: Deadline | None) -> Iterator[Array]:
    """The outputs of all images under each row, as many rows at a time as memory has room for.

    Raises:
        BudgetError: the time is over.
    """
    start, fitting = 0, 1
    while start < len(coalitions):
        if deadline is not None and deadline.left <= 0:
            raise errors.BudgetError("the time limit was reached")
        block = game.evaluator.answer(coalitions[start : start + fitting], None, keep_all)
        yield from block
        start += len(block)
        fitting = int(np.clip(_BLOCK_BYTES // max(block[0].nbytes, 1), 1, _MOST_ROWS))


@dataclass(frozen=True, eq=False)
class _Judge:
    suite: Suite
    metrics: Sequence[Metric]
    seed: int

    def evaluate(self, outputs: Array) -> dict[str, Figure]:
        """Every metric with its 95 % interval over the images."""
        slow = any(not m.per_image and not isinstance(m, GroupMetric) for m in self.metrics)
        return evaluate(
            outputs,
            self.suite.annotations,
            self.metrics,
            form=None,
            suite=self.suite.name,
            n_resamples=_FEW_RESAMPLES if slow else _N_RESAMPLES,
            seed=self.seed,
        ).metrics

    def figures(self, outputs: Array) -> dict[str, Figure]:
        """Every metric alone."""
        about, figures = self.suite.annotations, {}
        for metric in self.metrics:
            scores = metric.score(outputs, about)
            value = float(scores @ metric.weights(about) if metric.per_image else scores)
            figures[metric.name] = Figure(value, value, value)
        return figures


def _lines(
    bench: Bench,
    orders: Sequence[_Order],
    sizes: Sequence[int],
    figures: Sequence[Mapping[str, Figure]],
) -> list[curve_file.CurveLine]:
    """The figures of the rows by line; those of the draws become their mean and range."""
    plain, step = figures[0], len(sizes) - 1
    along = [[plain, *figures[s : s + step]] for s in range(1, len(figures), step)]
    filters, most = bench.roster.filters, sizes[-1]
    lines: list[curve_file.CurveLine] = [
        {
            "name": order.name,
            "words": order.words,
            "filters": [filters[player].id for player in order.players[:most].tolist()],
            "figures": {name: [_told(row[name]) for row in rows] for name in plain},
        }
        for order, rows in zip(orders, along, strict=False)
    ]
    draws = along[len(orders) :]
    lines.append(
        {
            "name": curve_file.RANDOM,
            "words": f"random filters (mean of {len(draws)} draws)",
            "filters": [],
            "draws": len(draws),
            "figures": {
                name: [
                    _spread([draw[number][name].value for draw in draws])
                    for number in range(len(sizes))
                ]
                for name in plain
            },
        }
    )
    return lines


def _told(figure: Figure) -> curve_file.CurveFigure:
    return {
        "value": _finite(figure.value),
        "low": _finite(figure.ci_low),
        "high": _finite(figure.ci_high),
    }


def _spread(values: Sequence[float]) -> curve_file.CurveFigure:
    """The mean of some draws, the least and the greatest; the mean lies among them."""
    low, high = min(values), max(values)
    mean = min(max(math.fsum(values) / len(values), low), high)
    return {"value": _finite(mean), "low": _finite(low), "high": _finite(high)}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _in_words(bench: Bench, suite: Suite, whole: Suite, method: str) -> str:
    """Which images judged, and whether they had a say in the values."""
    n = f"{len(suite):,}" if len(suite) == len(whole) else f"{len(suite):,} of {len(whole):,}"
    if not len(bench.parts.test):
        said = f"there is no test part: {n} images of the selection part judged"
        if method in (*NORMS, curve_file.RANDOM):
            return said
        return f"{said}, which scored the filters too, so that the curve flatters the values"
    shared = [first for first, second in bench.parts.overlaps if second == "test"]
    if shared:
        return f"{n} images of the test part, which shares images with the {shared[-1]} part"
    return f"{n} images of the test part, which scored nothing"
