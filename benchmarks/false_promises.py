"""How often is a repair promised where nothing helps?

Groups that have nothing to do with the images: those of one class are shared out at random, anew
for each run. So every group truly has the accuracy of all images, whichever fares worst does so by
chance, and the true change is told by all fresh images together. A promise is false where what is
promised does not truly rise.

`sound` is a network that learned no shortcut, judged on images like those it was trained on: each
of its filters helps. `marks` did learn one (see `shortcuts`), and a promise there can be true. Two
and ten groups, 200 and 600 selection images, a network for each of five seeds.

    python benchmarks/false_promises.py [--runs 50] [--rules RULE ...] [--rows FOLDER] [--table]
                                        [SETTING ...]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.promising import RULES, WORST, Row, Rows, bar, bounds_of_share
from benchmarks.repairs import Lab
from benchmarks.shortcuts import Labels, marks, sound

NETWORKS = {"sound": sound, "marks": marks}
SETTINGS = tuple(f"{name}, {n} groups" for name in NETWORKS for n in (2, 10))
SIZES = (200, 600)
N_NETWORKS = 5
MOST_FALSE = 0.05
ROWS = Path(__file__).parent / ".cache" / "false_promises"


def at_random(labels: Labels, n_groups: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Groups that share out the images of each class evenly."""
    groups = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        groups[members] = np.arange(len(members)) % n_groups
    return groups


def make(settings: list[str], rules: list[str], n_runs: int, folder: Path) -> None:
    """The rows that are missing."""
    labs: dict[tuple[str, int], Lab] = {}

    def try_one(key: tuple[Any, ...]) -> Row:
        setting, _, size, number, _ = key
        name, n_groups = setting.split(", ")[0], int(setting.split()[1])
        seed = number % N_NETWORKS
        if (setting, seed) not in labs:
            plain = NETWORKS[name](seed)
            names = np.char.add("group ", (np.arange(len(plain.y)) % n_groups).astype(str))
            labs[setting, seed] = Lab(replace(plain, group=names))
        lab = labs[setting, seed]
        rng = np.random.default_rng([number, size, n_groups])
        groups = at_random(lab.setting.y, n_groups, rng)
        return lab.promise(lab.sample(rng, size, 0), key, groups)

    for rule in rules:
        rows = Rows(folder / f"{rule.replace(' ', '-')}.jsonl")
        for number in range(n_runs):
            for setting in settings:
                for size in SIZES:
                    key = (setting, WORST, size, number, rule)
                    row = rows.make(key, partial(try_one, key))
                    found = (
                        f"{row.figure} {row.true[row.figure]:+.4f}" if row.figure else "declined"
                    )
                    print(f"  {key}, {row.seconds:.0f} s: {found}", file=sys.stderr, flush=True)


def print_table(rows: list[Row]) -> None:
    """Shares of false promises with their intervals, and the bar."""
    print("| rule | setting | images | runs | promised | false | share, 95 % interval |")
    print("|---|---|---|---|---|---|---|")
    cells: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.rule, row.setting, row.n_images), []).append(row)
    for (rule, setting, size), found in sorted(cells.items()):
        print(f"| {rule} | {setting} | {size} | {_told(found)} |")
    for rule in sorted({row.rule for row in rows}):
        own = [row for row in rows if row.rule == rule]
        print(f"| {rule} | all | | {_told(own)} |")
    for rule in sorted({row.rule for row in rows}):
        own = [row for row in rows if row.rule == rule]
        share = sum(row.promised and not row.kept for row in own) / len(own)
        bar(
            f"{rule}: {share:.1%} of {len(own)} runs promise falsely, 5 % allowed",
            share <= MOST_FALSE,
        )


def _told(rows: list[Row]) -> str:
    false = sum(row.promised and not row.kept for row in rows)
    low, high = bounds_of_share(false, len(rows))
    share = f"{false / len(rows):.1%} ({low:.1%} to {high:.1%})"
    return f"{len(rows)} | {sum(row.promised for row in rows)} | {false} | {share}"


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser(description="Repairs promised where nothing helps")
    parser.add_argument("settings", nargs="*", metavar="SETTING", default=list(SETTINGS))
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not options.table:
        make(options.settings, options.rules, options.runs, options.rows)
    print_table([row for path in sorted(options.rows.glob("*.jsonl")) for row in Rows(path)])


if __name__ == "__main__":
    main()
