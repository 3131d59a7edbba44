"""What it costs that means come from the images that choose, and what it brings.

The packaged sample, drawn anew: 150 images are apart and 300 choose. Means come from the 150, or
from the 300 that choose; or all 450 choose and give the means. The true change of the worst group
is told by fresh images; where a repair is declined it counts as 0.

    python benchmarks/means.py [--resamplings 10]
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.repairs import Lab
from benchmarks.shortcuts import SETTINGS
from repairkit.core.errors import TargetNotMetError
from repairkit.core.suite import Suite
from repairkit.data.parts import Parts
from repairkit.jobs.repair.objective import FAIRNESS_OBJECTIVE, Objective
from repairkit.jobs.repair.patching import choose_patch
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.setup.preparing import patched_outputs

N_APART, N_CHOOSING = 150, 300
# Leave-one-out values and small repairs: some seconds each, so that draws are many.
HOW = PatchSettings(fairness=True, at_most=4, score=ScoreSettings("leave-one-out"))
APART, OWN, ALL = "150 others", "the 300 that choose", "450, which all choose"


@dataclass(frozen=True)
class Found:
    """Of one draw and way: the true change of the worst group, and whether it was promised."""

    way: str
    gain: float
    promised: bool
    filters: tuple[str, ...] = ()


def try_ways(lab: Lab, draw: int) -> list[Found]:
    """All ways on one draw of images."""
    sample = lab.sample(np.random.default_rng([draw, 150]), N_CHOOSING, N_APART)
    choosing = lab.whole.take(sample.selection, "selection")
    apart = lab.whole.take(sample.test, "calibration")
    both = np.concatenate([sample.selection, sample.test])
    everyone = lab.whole.take(both, "selection")
    ways = {APART: (apart, choosing), OWN: (choosing, choosing), ALL: (everyone, everyone)}
    return [_repair(lab, way, *suites, seed=draw) for way, suites in ways.items()]


def _repair(lab: Lab, way: str, means: Suite, choosing: Suite, *, seed: int) -> Found:
    objective = Objective.of(FAIRNESS_OBJECTIVE)
    parts = Parts(means, choosing, choosing, (), "drawn by the benchmark")
    settings = replace(lab.bench.settings, metrics=objective.values, seed=seed)
    bench = replace(lab.bench, parts=parts, settings=settings)
    try:
        made = choose_patch(bench, HOW, objective, None)
    except TargetNotMetError:
        return Found(way, 0.0, promised=False)
    before, after = lab.before, patched_outputs(bench, made.patch, lab.fresh)
    worst, about = lab.metrics[0], lab.fresh.annotations
    gain = float(worst.score(after, about)) - float(worst.score(before, about))
    return Found(way, gain, True, tuple(f.id for f in made.patch.filters))


def main() -> None:
    """Print a row for each source of the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resamplings", type=int, default=10)
    asked = parser.parse_args()
    lab = Lab(SETTINGS["digits"](0))
    found: list[Found] = []
    for draw in range(asked.resamplings):
        for one in try_ways(lab, draw):
            found.append(one)
            print(f"  draw {draw}, {one.way}: {100 * one.gain:+.1f} {one.filters}", file=sys.stderr)
    print(
        "| means from | promised | true change of the worst group, points | less that of others |"
    )
    print("|---|---|---|---|")
    gains = {w: np.array([100 * o.gain for o in found if o.way == w]) for w in (APART, OWN, ALL)}
    for way, own in gains.items():
        n = sum(o.promised for o in found if o.way == way)
        gap = own - gains[APART]
        error = gap.std(ddof=1) / np.sqrt(len(gap))
        told = f"{own.mean():+.1f} ({own.min():+.1f} to {own.max():+.1f})"
        less = f"{gap.mean():+.1f} (standard error {error:.1f})"
        print(f"| {way} | {n} of {len(own)} | {told} | {less} |")


if __name__ == "__main__":
    main()
