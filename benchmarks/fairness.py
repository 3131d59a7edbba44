"""Does a repair keep what it promises, and is it better than simpler ways?

Three settings (see `shortcuts`), five seeds each: worst-group accuracy on the untouched test part
before and after, with the truth from fresh images, for the repair as `patch --fairness` makes it
and for simpler ways. With `--promises`: 40 resamplings of 200 and of 600 selection images, and of
those that promised a gain, how many kept it on fresh images.

    python benchmarks/fairness.py [--seeds 5] [SETTING ...]
    python benchmarks/fairness.py --promises [--resamplings 40] [SETTING ...]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.repairs import OURS, PLAIN, WAYS, Lab, Outcome
from benchmarks.shortcuts import SETTINGS

MAX_DROP = 0.01
N_SELECTION, N_TEST = 600, 600
SIZES = (200, 600)


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
    bar(f"the worst group rises on the test part in {rises} of {len(made)} promised", rises, made)
    slack = [o.test["accuracy"].value >= -MAX_DROP - 1e-9 for o in made if o.test]
    bar(f"the overall drop stays within {MAX_DROP:g} on the test part", sum(slack), made)
    true = [o.truth["accuracy"] >= -MAX_DROP - 1e-9 for o in made]
    bar(f"and on fresh images in {sum(true)} of {len(made)}", sum(true), made)
    covers = [hit for o in made for hit in o.covered]
    share = np.mean(covers) if covers else 0.0
    print(
        f"{'PASS' if share >= 0.9 else 'MISS'}: {sum(covers)} of {len(covers)} intervals (95 %) "
        f"hold the truth: {share:.1%}, 90 % asked for"
    )


def bar(text: str, met: int, all_of: list[Outcome]) -> None:
    """One line, passed where all meet it."""
    print(f"{'PASS' if all_of and met == len(all_of) else 'MISS'}: {text}")


def promises(names: list[str], n_resamplings: int) -> None:
    """Small selection sets drawn anew; settings take turns, networks too."""
    labs = {}
    table: dict[tuple[int, str], list[Outcome]] = defaultdict(list)
    started = time.monotonic()
    for number in range(n_resamplings):
        name, seed = names[number % len(names)], number // len(names) % 5
        key = (name, 0 if name == "digits" else seed)
        lab = labs.setdefault(key, Lab(SETTINGS[name](seed)))
        for size in SIZES:
            sample = lab.sample(np.random.default_rng([number, size]), size, 0)
            for way in (OURS, PLAIN):
                outcome = lab.repair(sample, way, seed=number, max_drop=MAX_DROP)
                table[size, way].append(outcome)
        print(f"  {number + 1}: {name} {seed}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(f"\n{n_resamplings} resamplings of {', '.join(names)}\n")
    print("| selection images | way | promised | kept | declined | mean true gain, in points |")
    print("|---|---|---|---|---|---|")
    for (size, way), outcomes in sorted(table.items()):
        promised = [o for o in outcomes if o.test is not None]
        kept = sum(o.gain > 0 for o in promised)
        gain = np.mean([100 * o.gain for o in outcomes])
        print(
            f"| {size} | {way} | {len(promised)} | {kept} | {len(outcomes) - len(promised)} "
            f"| {gain:+.1f} |"
        )
    ours = [o for (_, way), found in table.items() if way == OURS for o in found if o.test]
    share = np.mean([o.gain > 0 for o in ours]) if ours else 0.0
    word = "PASS" if share >= 0.9 else "MISS"
    print(f"\n{word}: {share:.1%} of {len(ours)} promises kept, 90 % asked for")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Do repairs keep what they promise?")
    parser.add_argument("settings", nargs="*", metavar="SETTING", default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--promises", action="store_true")
    parser.add_argument("--resamplings", type=int, default=40)
    options = parser.parse_args()
    if options.promises:
        promises(options.settings, options.resamplings)
        return
    found = compare(options.settings, options.seeds)
    print_ways(found)
    print_bars(found)


if __name__ == "__main__":
    main()
