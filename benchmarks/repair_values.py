"""What does a table of single removals beside the rows gain `repair`, at the same cost?

    python benchmarks/repair_values.py [--model MODEL.onnx --data FILE.npz] [--rows 3000 10000]
        [--images N] [--long ROWS] [--repeats 4] [--json FILE]

Values by rows alone and with a table, at the cost of so many rows, are judged against a long run of
rows alone on the same images: how many of its 10 most harmful filters are among the 10 most
harmful found, the rank correlation, the root mean squared error, and how often a 95 % interval
holds the long run's value (of errors for these images). Costs are counted in rows; `cpu` is what a
repeat took in processor seconds, so that the counting itself can be judged.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from repairkit.api.job_settings import open_job
from repairkit.core.game import Game
from repairkit.core.scores import Budget
from repairkit.core.suite import Suite
from repairkit.data.parts import PartPlan
from repairkit.estimators.driving.driver import Estimation, estimate
from repairkit.estimators.linear.repair_values import RepairRegression
from repairkit.estimators.samples import rank_correlation
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings

Floats = NDArray[np.float64]
SAMPLE = Path(__file__).parent.parent / "samples" / "digits" / "model.onnx"
TOP = 10


@dataclass(frozen=True)
class Line:
    """How well values of one kind, at one cost, agree with the long run; means over repeats."""

    rows: int
    way: str
    precision: float
    rank: float
    error: float
    stated: float
    covered: float
    table_images: float
    explained: float
    cpu: float


def open_bench(model: str, data: str | None) -> Bench:
    """The packaged sample by group-balanced loss, or a model by loss; half of the data selects."""
    parts = PartPlan(calibration="all", selection=0.5, test=0.5)
    if model == "sample":
        subject, settings = open_job(SAMPLE, None, None, trust=False)
        return prepare(subject, replace(settings, metrics=("group_loss",), parts=parts))
    assert data is not None, "a model needs --data"
    return prepare(
        read_subject(Path(model)), Settings(data=Path(data), metrics=("loss",), parts=parts)
    )


def values_of(game: Game, rows: int, *, table: bool, seed: int) -> Estimation:
    """Values for so many rows' cost; errors are those for these images."""
    estimator = RepairRegression(
        errors_over="rows", side="highest", top_k=TOP, rows=rows if table else None
    )
    return estimate(game, estimator, budget=Budget(rows), seed=seed)


def judge(game: Game, truth: Estimation, rows: int, *, table: bool, repeats: int) -> Line:
    """One line of the table."""
    true, unsure = truth.scores.values[:, 0], truth.scores.std_errors[:, 0]
    worst = set(np.argsort(-true)[:TOP].tolist())
    began = time.process_time()
    found = [values_of(game, rows, table=table, seed=seed) for seed in range(repeats)]
    cpu = (time.process_time() - began) / repeats
    values = np.stack([each.scores.values[:, 0] for each in found])
    errors = np.stack([each.scores.std_errors[:, 0] for each in found])
    known = [each.statistics for each in found]
    hits = [len(worst & set(np.argsort(-own)[:TOP].tolist())) / TOP for own in values]
    return Line(
        rows,
        "table" if table else "rows",
        float(np.mean(hits)),
        float(np.mean([rank_correlation(own, true) for own in values])),
        float(np.sqrt(((values - true) ** 2).mean())),
        float(np.sqrt((errors**2).mean())),
        float((abs(values - true) <= 1.96 * np.hypot(errors, unsure)).mean()),
        float(np.mean([each.get("table_images", 0.0) for each in known])),
        float(np.mean([each.get("pilot_variance_explained", 0.0) for each in known])),
        cpu,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sample")
    parser.add_argument("--data")
    parser.add_argument("--rows", type=int, nargs="+", default=[3_000, 10_000, 30_000, 100_000])
    parser.add_argument("--images", type=int, help="of the selection images, the first so many")
    parser.add_argument("--long", type=int, default=2_000_000, help="rows of the long run")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)

    bench = open_bench(asked.model, asked.data)
    suite: Suite = bench.parts.selection
    if asked.images is not None:
        suite = suite.take(np.arange(min(asked.images, len(suite))))
    game = bench.working.game(suite, bench.metrics(bench.metric_names))
    print(f"{len(bench.roster)} filters, {len(suite)} images, {bench.metric_names[0]}", flush=True)
    truth = values_of(game, asked.long, table=False, seed=999)
    reliability = truth.statistics["reliability"]
    print(f"long run of {asked.long:,} rows: reliability {reliability:.3f}", flush=True)
    print("rows     way    prec@10   rank   error  stated covered images explained    cpu")
    lines = []
    for rows in asked.rows:
        for table in (False, True):
            line = judge(game, truth, rows, table=table, repeats=asked.repeats)
            lines.append(line)
            print(
                f"{line.rows:<8,} {line.way:<6} {line.precision:7.2f} {line.rank:6.3f} "
                f"{line.error:7.4f} {line.stated:7.4f} {line.covered:7.3f} "
                f"{line.table_images:6.0f} {line.explained:9.2f} {line.cpu:6.1f}",
                flush=True,
            )
    if asked.json is not None:
        told = {"reliability": reliability, "lines": [asdict(line) for line in lines]}
        asked.json.write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
