"""Repairs of a network that others trained, on images that others took, judged by 8,000 fresh ones.

ResNet-8 of MLPerf Tiny answers 10,000 labelled CIFAR-10 images that are JPEG copies, a natural
shift (`$REPAIRKIT_ZOO`, or ../shared/zoo). For each draw, 500 and 1,500 images are the selection
images, from which the means come too; 8,000 others tell the truth and nothing else. Objectives are
the class that fares worst, classes being the groups, and overall accuracy, with no groups named.

    python benchmarks/real_repairs.py [--draws 10] [--sizes 500 1500] [--rules RULE ...]
                                      [--objectives NAME ...] [--rows FOLDER] [--table]

Rows lie in FOLDER, one file for each rule: what is there is not made anew, and rules may be made by
processes side by side. `--table` prints what is there.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.promising import (
    ACCURACY,
    NEW,
    RULES,
    TODAY,
    WORST,
    Judge,
    Row,
    Rows,
    bar,
    print_rules,
    try_rule,
)
from repairkit.data.parts import PartPlan, Parts
from repairkit.jobs.repair.objective import Objective
from repairkit.jobs.setup.preparing import prepare, with_parts
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings

ZOO = Path(os.environ.get("REPAIRKIT_ZOO", Path(__file__).parents[2] / "shared" / "zoo"))
ROWS = Path(__file__).parent / ".cache" / "real_repairs"
NAME, DATA = "mlperf_resnet8", "cifar10_jpeg_test10k"
N_FRESH = 8_000
SIZES = (500, 1_500)


class Lab:
    """The network on the bench, for one objective; the model as it is has answered all images."""

    def __init__(self, objective: str) -> None:
        self.objective = objective
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "images.npz"
        with np.load(ZOO / "data" / f"{DATA}.npz") as stored:
            labels = stored["y"].astype(np.int64)
            np.savez(path, x=stored["x"], y=labels, group=labels)
        self.labels = labels
        settings = Settings(
            data=path,
            metrics=Objective.of(objective).values,
            groups=("group",) if objective == WORST else (),
            parts=PartPlan("all", "all", "all"),
            workers=1,
        )
        self.bench = prepare(read_subject(ZOO / "models" / f"{NAME}.onnx"), settings)
        self.whole = self.bench.parts.selection
        self.answers = self.bench.working.run_plain(self.whole)

    def draw(self, number: int, n_images: int) -> tuple[Bench, Judge]:
        """The bench with the selection images of a draw, and its judge."""
        order = np.random.default_rng([number, 41]).permutation(len(self.whole))
        chosen, rest = order[:n_images], order[-N_FRESH:]
        selection, fresh = self.whole.take(chosen, "selection"), self.whole.take(rest, "fresh")
        parts = Parts(selection, selection, fresh, (), "drawn by the benchmark")
        settings = replace(self.bench.settings, seed=number)
        bench = with_parts(self.bench, parts, settings)
        return bench, Judge(bench, fresh, self.labels[rest], self.answers[rest])

    def make(self, key: tuple[Any, ...]) -> Row:
        """The row of a key, whose setting and objective are the lab's."""
        _, _, size, number, _ = key
        return try_rule(key, *self.draw(number, size))


def make(
    rules: list[str], objectives: list[str], sizes: list[int], n_draws: int, folder: Path
) -> None:
    """The rows that are missing, draw by draw."""
    files = {rule: Rows(folder / f"{rule.replace(' ', '-')}.jsonl") for rule in rules}
    labs = {objective: Lab(objective) for objective in objectives}
    for number in range(n_draws):
        for objective, lab in labs.items():
            for size in sizes:
                for rule, rows in files.items():
                    key = (NAME, objective, size, number, rule)
                    row = rows.make(key, partial(lab.make, key))
                    print(told(row), file=sys.stderr, flush=True)


def told(row: Row) -> str:
    """A row as one line."""
    start = f"{row.objective} {row.n_images} {row.draw} {row.rule}, {row.seconds:.0f} s: "
    if not row.promised:
        return f"{start}declined"
    changes = ", ".join(f"{name} {value:+.4f}" for name, value in row.true.items())
    return (
        f"{start}{row.n_frozen} frozen, {row.figure} {row.stated[0]:+.4f} stated; true: {changes}"
    )


def print_bars(rows: list[Row]) -> None:
    """What must hold: promises are kept, and there are more and better ones than by a third."""
    for rule in dict.fromkeys(row.rule for row in rows if not row.rule.startswith(TODAY)):
        made = [row for row in rows if row.rule == rule and row.promised]
        kept = sum(row.kept for row in made)
        share = kept / len(made) if made else 0.0
        bar(f"{rule}: {kept} of {len(made)} promises kept, 90 % asked for", share >= 0.9)
        old = {row.key[:-1]: row for row in rows if row.rule == rule.replace(NEW, TODAY)}
        own = [row for row in rows if row.rule == rule]
        pairs = [(row, old[row.key[:-1]]) for row in own if row.key[:-1] in old]
        if pairs:
            promised = [sum(p[i].promised for p in pairs) for i in (0, 1)]
            gains = [np.mean([100 * p[i].gain for p in pairs]) for i in (0, 1)]
            text = f"{rule}: {promised[0]} promises on {len(pairs)} draws, {promised[1]} by {TODAY}"
            bar(text, promised[0] > promised[1])
            text = f"{rule}: mean true gain {gains[0]:+.2f} points, {gains[1]:+.2f} by {TODAY}"
            bar(text, gains[0] > gains[1])


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser(description="Repairs of a network that others trained")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--objectives", nargs="+", choices=(WORST, ACCURACY))
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        objectives = options.objectives or [WORST, ACCURACY]
        make(options.rules, objectives, options.sizes, options.draws, options.rows)
    rows = [row for path in sorted(options.rows.glob("*.jsonl")) for row in Rows(path)]
    print_rules(rows)
    print_bars(rows)


if __name__ == "__main__":
    main()
