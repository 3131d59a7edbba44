"""Does a repair keep what it promises, and is it better than simpler ways?

Three settings (see `shortcuts`), five seeds each: worst-group accuracy on the untouched test part
before and after, with the truth from fresh images, for the repair as `patch --fairness` makes it
and for simpler ways.

With `--promises`: 40 resamplings of 200 and of 600 selection images, from which the means come too,
and of those that promised a gain, how many kept it on fresh images; rules are put side by side.
Rows lie in FOLDER, one file for each rule; what is there is not made anew, and `--table` prints it.

    python benchmarks/fairness.py [--seeds 5] [SETTING ...]
    python benchmarks/fairness.py --promises [--resamplings 40] [SETTING ...]
                                  [--rules RULE ...] [--rows FOLDER] [--table]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.promising import RULES, TODAY, WORST, Row, Rows, bar, print_rules
from benchmarks.repairs import OURS, WAYS, Lab, Outcome
from benchmarks.shortcuts import SETTINGS

MAX_DROP = 0.01
N_SELECTION, N_TEST = 600, 600
SIZES = (200, 600)
ROWS = Path(__file__).parent / ".cache" / "promises"


def compare(names: list[str], n_seeds: int) -> list[Outcome]:
    """Every way on every setting and seed, printed as it is found."""
    found = []
    print("| setting | seed | way | frozen | worst group before -> after (test) | truth |")
    print("|---|---|---|---|---|---|")
    for name in names:
        for seed in range(n_seeds):
            lab = Lab(SETTINGS[name](seed))
            sample = lab.sample(np.random.default_rng([seed, 7]), N_SELECTION, N_TEST)
            for way in WAYS:
                outcome = lab.repair(sample, way, seed=seed, max_drop=MAX_DROP)
                found.append(replace(outcome, setting=name))
                print(_row(name, seed, outcome), flush=True)
    return found


def _row(name: str, seed: int, outcome: Outcome) -> str:
    start = f"| {name} | {seed} | {outcome.way} |"
    if outcome.test is None:
        return f"{start} declined | | |"
    change, truth = outcome.test["worst_group_accuracy"], outcome.truth["worst_group_accuracy"]
    return (
        f"{start} {outcome.n_frozen} | {100 * change.value:+.1f} "
        f"[{100 * change.ci_low:+.1f}, {100 * change.ci_high:+.1f}] | {100 * truth:+.1f} |"
    )


def print_ways(found: list[Outcome]) -> None:
    """True gains by way and setting, won or lost."""
    settings = list(dict.fromkeys(o.setting for o in found))
    print("\nTrue change of the worst group's accuracy, in points (declined counts as 0):\n")
    print(f"| way | {' | '.join(settings)} | promised | overall, worst case |")
    print("|---|" + "---|" * (len(settings) + 2))
    for way in dict.fromkeys(o.way for o in found):
        cells = []
        own = [o for o in found if o.way == way]
        for setting in settings:
            gains = [100 * o.gain for o in own if o.setting == setting]
            cells.append(f"{np.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})")
        kept = [o for o in own if o.test is not None]
        drops = [100 * o.truth["accuracy"] for o in kept]
        worst = f"{min(drops):+.1f}" if drops else ""
        print(f"| {way} | {' | '.join(cells)} | {len(kept)} of {len(own)} | {worst} |")


def print_bars(found: list[Outcome]) -> None:
    """What must hold of the repair."""
    made = [o for o in found if o.way == OURS and o.test is not None]
    rises = sum(o.test["worst_group_accuracy"].value > 0 for o in made if o.test)
    text = f"the worst group rises on the test part in {rises} of {len(made)} promised"
    bar(text, rises == len(made) > 0)
    slack = [o.test["accuracy"].value >= -MAX_DROP - 1e-9 for o in made if o.test]
    text = f"the overall drop stays within {MAX_DROP:g} on the test part"
    bar(text, sum(slack) == len(made) > 0)
    true = [o.truth["accuracy"] >= -MAX_DROP - 1e-9 for o in made]
    bar(f"and on fresh images in {sum(true)} of {len(made)}", sum(true) == len(made) > 0)
    covers = [hit for o in made for hit in o.covered]
    share = np.mean(covers) if covers else 0.0
    text = f"{sum(covers)} of {len(covers)} intervals (95 %) hold the truth: {share:.1%}"
    bar(f"{text}, 90 % asked for", share >= 0.9)


def promises(
    names: list[str], rules: list[str], sizes: list[int], n_resamplings: int, folder: Path
) -> None:
    """Small selection sets drawn anew; settings take turns, networks too."""
    labs: dict[tuple[str, int], Lab] = {}

    def try_one(key: tuple[Any, ...]) -> Row:
        name, _, size, number, _ = key
        seed = 0 if name == "digits" else number // len(names) % 5
        if (name, seed) not in labs:
            labs[name, seed] = Lab(SETTINGS[name](seed))
        sample = labs[name, seed].sample(np.random.default_rng([number, size]), size, 0)
        return labs[name, seed].promise(sample, key)

    for rule in rules:
        rows = Rows(folder / f"{rule.replace(' ', '-')}.jsonl")
        for number in range(n_resamplings):
            for size in sizes:
                key = (names[number % len(names)], WORST, size, number, rule)
                row = rows.make(key, partial(try_one, key))
                told = f"  {key}, {row.seconds:.0f} s: {row.figure or 'declined'}"
                print(told, file=sys.stderr, flush=True)


def print_promises(rows: list[Row]) -> None:
    """Rules side by side, and what must hold of every one but those of old."""
    print_rules(rows)
    for rule in dict.fromkeys(row.rule for row in rows if row.rule != TODAY):
        own = [row for row in rows if row.rule == rule]
        made = [row for row in own if row.promised]
        few = [row for row in own if row.n_images == SIZES[0]]
        n = sum(row.promised for row in few)
        text = f"{rule}: {n} of {len(few)} promised at {SIZES[0]} images, 25 of 40 asked for"
        bar(text, n >= 25 / 40 * len(few))
        kept = sum(row.kept for row in made)
        bar(f"{rule}: {kept} of {len(made)} kept, 95 % asked for", kept >= 0.95 * len(made) > 0)
        excess = [100 * row.excess for row in made if row.figure == WORST]
        mean = float(np.mean(excess)) if excess else float("nan")
        text = f"{rule}: stated less true {mean:+.1f} points on average, 1 either way asked for"
        bar(text, abs(mean) <= 1)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Do repairs keep what they promise?")
    parser.add_argument("settings", nargs="*", metavar="SETTING", default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--promises", action="store_true")
    parser.add_argument("--resamplings", type=int, default=40)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.promises:
        if not options.table:
            promises(
                options.settings, options.rules, options.sizes, options.resamplings, options.rows
            )
        print_promises([row for path in sorted(options.rows.glob("*.jsonl")) for row in Rows(path)])
        return
    found = compare(options.settings, options.seeds)
    print_ways(found)
    print_bars(found)


if __name__ == "__main__":
    main()
