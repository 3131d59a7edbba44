"""The paper's experiments in kind, on SqueezeNets trained on Fashion-MNIST.

    python benchmarks/paper.py [--quick] [--only NAME ...] [--json FILE] [-o FILE.md]

critical     accuracy against the number of filters frozen, the most valuable and at random
classes      filters that one class alone needs
truncation   how V falls as filters leave at random, and what cutting walks there saves
bandit       samples per filter, and values against a long run, for TMAB and plain Monte Carlo
dropout      the same network trained with filters dropped at random

Filters are valued on the selection part and frozen on the test part, which chose nothing. `-o`
writes the tables as Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.long_run import Part, Truth, cached, long_run, one_by_one
from benchmarks.ranking import correlations
from benchmarks.squeezenets import CACHE, DROPOUT, KINDS, PLAIN
from benchmarks.study import N_DRAWS, QUICK, Effort, Study, Table, study
from repairkit.core.errors import BudgetError
from repairkit.core.game import Round
from repairkit.core.scores import Budget
from repairkit.engine.model_game import ModelGame
from repairkit.estimators.driving.driver import Estimation, estimate
from repairkit.estimators.registry import make_estimator
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab
from repairkit.jobs.score.methods import default_truncation

SIZES = (5, 10, 20, 30)
_CLASS_FILTERS = 10
_EXCLUDED = 0.2
_TOP = 100
logger = logging.getLogger(__name__)


def critical(effort: Effort, kind: str = PLAIN) -> Table:
    """Accuracy against the number of filters frozen."""
    found = study(kind, effort)
    ranked = np.argsort(-found.values[:, 0], kind="stable")
    rows: list[tuple[Any, ...]] = [(0, float(found.frozen(ranked[:0])[0]), "", "", "")]
    for size in SIZES:
        draws = found.frozen_at_random(size)
        rows.append(
            (
                size,
                float(found.frozen(ranked[:size])[0]),
                float(draws.mean()),
                f"{draws.min():.3f} to {draws.max():.3f}",
                float(found.frozen(ranked[-size:])[0]),
            )
        )
    return Table(
        f"Few filters carry the network ({kind})",
        ("frozen", "most valuable", "at random, mean", f"of {N_DRAWS} draws", "least valuable"),
        rows,
        (
            f"Accuracy on 5,000 test images of a SqueezeNet of {found.n_filters:,} filters; the "
            "paper destroyed Inception-v3 by freezing 10 to 30 of its 17,216.",
        ),
    )


def classes(effort: Effort) -> Table:
    """Filters that one class needs and the network as a whole does not."""
    found = study(PLAIN, effort)
    overall, n = found.values[:, 0], found.n_filters
    specific = np.ones(n, bool)
    specific[np.argsort(-overall, kind="stable")[: round(_EXCLUDED * n)]] = False
    plain = found.frozen(np.zeros(0, np.intp))
    rows: list[tuple[Any, ...]] = []
    for label in range(found.bench.n_classes):
        own = np.where(specific, found.values[:, 1 + label], -np.inf)
        chosen = np.argsort(-own, kind="stable")[:_CLASS_FILTERS]
        after = found.frozen(chosen)
        others = [i + 1 for i in range(found.bench.n_classes) if i != label]
        rows.append(
            (
                label,
                float(plain[1 + label]),
                float(after[1 + label]),
                float(plain[others].mean()),
                float(after[others].mean()),
            )
        )
    return Table(
        "Filters that one class alone needs",
        ("class", "its recall", f"{_CLASS_FILTERS} frozen", "mean of the others", "frozen"),
        rows,
        (
            f"The {_CLASS_FILTERS} filters of most value for a class's recall, those in the top "
            "fifth for overall accuracy left out, as in the paper; all classes were valued by the "
            "same forward passes. Recall on the test part.",
        ),
    )


def truncation(effort: Effort) -> Table:
    """How V falls as filters leave at random."""
    rows: list[tuple[Any, ...]] = []
    for kind in KINDS:
        found = study(kind, effort)
        points = np.array(found.curve)
        bound = default_truncation(found.accuracy, found.bench.n_classes)
        below = points[points[:, 2] < bound]
        cut = float(below[0, 0]) / found.n_filters if len(below) else 1.0
        at = [float(np.interp(share * found.n_filters, points[:, 0], points[:, 2]))
              for share in (0.02, 0.05, 0.1, 0.2, 0.5)]  # fmt: skip
        rows.append((kind, float(points[0, 2]), *at, f"{bound:.2f}", f"{cut:.1%}"))
    return Table(
        "Truncation: accuracy after random filters are gone",
        ("network", "none gone", "2 %", "5 %", "10 %", "20 %", "50 %", "cut below", "reached at"),
        rows,
        (
            f"Means of {effort.walks} untruncated walks over 128 selection images each. A walk "
            "that is cut where V has fallen to a fifth of what is above chance spends that share "
            "of a full walk; the paper saved an order of magnitude.",
        ),
    )


def bandit(effort: Effort) -> Table:
    """TMAB against plain Monte Carlo, judged by a long run."""
    found = study(PLAIN, effort)
    true = truth(found, effort.truth_rows)
    bound = default_truncation(found.accuracy, found.bench.n_classes)
    top_k = min(_TOP, found.n_filters // 10)
    budget = effort.evaluations
    tried = {
        "Monte Carlo, untruncated": (Permutation(stop="never"), budget),
        "Monte Carlo, truncated": (Permutation(truncate_at=bound, stop="never"), budget),
        "TMAB, the paper's letter": (Tmab.paper(truncate_at=bound, top_k=top_k), budget),
        "TMAB, corrected": (Tmab(truncate_at=bound, top_k=top_k), budget),
        "auto": (make_estimator("auto"), budget),
    }
    rows = []
    for name, (estimator, most) in tried.items():
        for spent in (most // 8, most // 3, most):
            logger.info("%s, %d evaluations of 128 images", name, spent)
            each = 128 if name == "auto" else 1  # auto's coalitions are tried on one image
            result = _spend(found.accuracy, estimator, spent * each)
            if result is not None:
                rows.append((name, *_judged(result, true, top_k)))
    return Table(
        "TMAB and Monte Carlo against a long run",
        ("method", "image passes", f"of the top {top_k}", "R2 of these", "rank correlation of all",
         "samples of a filter: least, median, most"),
        rows,
        (
            f"Truth: {true.image_passes:,} image passes with unbiased weights, reliability "
            f"{true.reliability:.3f}. The paper reports R2 .975 and rank correlation .988 between "
            "TMAB and Monte Carlo for the top filters.",
        ),
    )  # fmt: skip


def _spend(game: ModelGame, estimator: Any, evaluations: int) -> Estimation | None:
    """An estimation within a budget; None where a budget is too small for any value."""
    try:
        return estimate(game, estimator, budget=Budget(max_evaluations=evaluations), seed=0)
    except BudgetError as error:
        logger.info("no row: %s", error)
        return None


def _judged(result: Estimation, true: Truth, top_k: int) -> tuple[Any, ...]:
    values, counts = result.scores.values[:, 0], result.scores.samples
    best = np.argsort(-true.values, kind="stable")[:top_k]
    chosen = np.argsort(-values, kind="stable")[:top_k]
    shared = len(set(best.tolist()) & set(chosen.tolist())) / top_k
    r2 = float(np.corrcoef(values[best], true.values[best])[0, 1] ** 2)
    ranks = correlations(values, true.values)[1]
    spread = f"{counts.min():,}, {int(np.median(counts)):,}, {counts.max():,}"
    return f"{result.spent.image_passes:,}", f"{shared:.2f}", r2, ranks, spread


def truth(found: Study, n_rows: int) -> Truth:
    """By two long runs side by side, cached by the model's digest."""
    digest = hashlib.sha256(found.made.model.read_bytes()).hexdigest()[:12]
    path = CACHE / f"squeezenet-{found.made.kind}-truth-{digest}-{n_rows}.npz"

    def compute() -> Truth:
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            args = [found.made.kind] * 2, [n_rows // 2] * 2, [1, 2]
            return Truth.of(*pool.map(half_of_truth, *args))

    return cached(path, compute)


def half_of_truth(kind: str, n_rows: int, seed: int) -> Part:
    """One long run."""
    game = study(kind, QUICK).accuracy
    n = game.facts.n_players
    ends = game.play(Round(np.stack([np.ones(n, bool), np.zeros(n, bool)]))).values[:, 0].tolist()
    shape = n, len(game.suite)
    return long_run(one_by_one(game), tuple(ends), shape, n_rows=n_rows, seed=seed)


def dropout(effort: Effort) -> Table:
    """What dropping filters in training does to the values."""
    rows: list[tuple[Any, ...]] = []
    for kind in KINDS:
        found = study(kind, effort)
        values = found.values[:, 0]
        positive = np.sort(values[values > 0])[::-1]
        shares = [float(positive[:k].sum() / positive.sum()) for k in (10, 100)]
        rows.append((kind, float(found.frozen(np.zeros(0, np.intp))[0]), *shares, _halving(found)))
    return Table(
        "The dropout effect",
        ("network", "test accuracy", "top 10's share of positive value", "top 100's",
         "filters frozen, in rank order, that halve the accuracy"),
        rows,
        ("Filters were dropped with probability 0.2 behind the stem and every fire module.",),
    )  # fmt: skip


def _halving(found: Study) -> int:
    """The least number of filters, the most valuable first, whose loss halves the accuracy."""
    ranked = np.argsort(-found.values[:, 0], kind="stable")
    half = found.frozen(ranked[:0])[0] / 2
    sizes: Iterator[int] = iter(range(1, found.n_filters))
    return next(size for size in sizes if found.frozen(ranked[:size])[0] <= half)


EXPERIMENTS: dict[str, Callable[[Effort], list[Table]]] = {
    "critical": lambda effort: [critical(effort), critical(effort, DROPOUT)],
    "classes": lambda effort: [classes(effort)],
    "truncation": lambda effort: [truncation(effort)],
    "bandit": lambda effort: [bandit(effort)],
    "dropout": lambda effort: [dropout(effort)],
}


def main() -> None:
    """Run the experiments and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="minutes, for figures that say little")
    parser.add_argument("--only", nargs="+", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    parser.add_argument("--json", type=Path, help="also write the tables as JSON")
    parser.add_argument("-o", "--out", type=Path, help="also write the tables as Markdown")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tables = []
    for name in options.only:
        for table in EXPERIMENTS[name](QUICK if options.quick else Effort()):
            tables.append(table)
            print(table.markdown(), flush=True)
    if options.json:
        told = [{"title": t.title, "columns": t.columns, "rows": t.rows} for t in tables]
        options.json.write_text(json.dumps(told, indent=1), encoding="utf-8")
    if options.out:
        options.out.write_text("\n".join(t.markdown() for t in tables), encoding="utf-8")


if __name__ == "__main__":
    main()
