"""How often does `monitor` raise a false alarm, and after how many images does it find a fall?

Streams of right and wrong answers are drawn at a rate that is known. While it is just the floor,
which is the worst case of a promise that holds, every alarm is false: there are 1,000 looks at 20
new images each, and `monitor` is judged after every single image. Beside it stand an exact test
that is made anew at each look, and the same test made once, at the end. Gains are differences of
two models' answers: -1, 0 or 1.

Then the rate falls to 5 points below the floor, from the first image on or after 10,000 images at 2
points above the floor, and the images until the alarm are counted.

    python benchmarks/monitoring.py [--streams 4000] [--falls 400]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.promising import bar, bounds_of_share
from repairkit.metrics import betting

LEVEL = 0.05
N_LOOKS, PER_LOOK = 1000, 20
RATES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
FALL, MARGIN, LATE = 0.05, 0.02, 10_000
AFTER = 20_000
FLOORS = (0.5, 0.7, 0.8, 0.9, 0.95)
N_FIGURES = (1, 3, 11)
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Gains:
    """Shares of images that are gained and lost."""

    gained: float
    lost: float

    @property
    def floor(self) -> float:
        """The mean on the scale from 0 to 1."""
        return (1 + self.gained - self.lost) / 2

    def draw(self, rng: np.random.Generator, n: int) -> Scores:
        """Outcomes on that scale."""
        odds = [self.lost, 1 - self.lost - self.gained, self.gained]
        return rng.choice([0.0, 0.5, 1.0], size=n, p=odds)


GAINS = (Gains(0.03, 0.03), Gains(0.12, 0.05), Gains(0.01, 0.02))


def draw(rate: float, rng: np.random.Generator, n: int) -> Scores:
    """Right answers, 1, and wrong ones, 0."""
    return (rng.random(n) < rate).astype(np.float64)


def tests_of_rates(floor: float) -> Callable[[Scores], NDArray[np.bool_]]:
    """At each look, whether an exact one-sided test says that the rate is below the floor."""
    sizes = np.arange(1, N_LOOKS + 1) * PER_LOOK
    few = binom.ppf(LEVEL, sizes, floor)
    few = np.where(binom.cdf(few, sizes, floor) <= LEVEL, few, few - 1)
    return lambda scores: np.cumsum(scores)[sizes - 1] <= few


def tests_of_means(floor: float) -> Callable[[Scores], NDArray[np.bool_]]:
    """The same for gains, by the normal test."""
    sizes = np.arange(1, N_LOOKS + 1) * PER_LOOK

    def test(scores: Scores) -> NDArray[np.bool_]:
        means = np.cumsum(scores)[sizes - 1] / sizes
        squares = np.cumsum(scores**2)[sizes - 1] / sizes
        errors = np.sqrt(np.maximum(squares - means**2, 1e-12) / sizes)
        return (means - floor) / errors < norm.ppf(LEVEL)

    return test


def share(count: int, n: int) -> str:
    """A share of streams with its interval."""
    low, high = bounds_of_share(count, n)
    return f"{count / n:.1%} ({low:.1%} to {high:.1%})"


def false_alarms(n_streams: int) -> None:
    """Print the table of false alarms."""
    print("| outcomes | monitor, after every image | a test at each look | one test at the end |")
    print("|---|---|---|---|")
    most = 0.0
    cases: list[tuple[str, float, Callable[[np.random.Generator, int], Scores], bool]] = [
        *((f"rate {rate:.0%}", rate, partial(draw, rate), True) for rate in RATES),
        *(
            (f"gains: {one.gained:.0%} gained, {one.lost:.0%} lost", one.floor, one.draw, False)
            for one in GAINS
        ),
    ]
    for number, (name, floor, sample, exact) in enumerate(cases):
        rng = np.random.default_rng([number, n_streams])
        test = (tests_of_rates if exact else tests_of_means)(floor)
        ours = again = once = 0
        for _ in range(n_streams):
            scores = sample(rng, N_LOOKS * PER_LOOK)
            ours += betting.find_fall(scores, floor, LEVEL) is not None
            looks = test(scores)
            again += bool(looks.any())
            once += bool(looks[-1])
        most = max(most, ours / n_streams)
        cells = (share(count, n_streams) for count in (ours, again, once))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    bar(f"at most {most:.1%} of {n_streams} streams have a false alarm, 5 % allowed", most <= LEVEL)


def images_until(rng: np.random.Generator, floor: float, before: int, level: float) -> float:
    """Images from the fall to the alarm; infinity where there is none in 20,000."""
    scores = np.concatenate([draw(floor + MARGIN, rng, before), draw(floor - FALL, rng, AFTER)])
    found = betting.find_fall(scores, floor, level)
    if found is None:
        return np.inf
    return found.end - before if found.end > before else np.nan  # a false alarm before


def one_test(floor: float, level: float, power: float) -> int:
    """Images after which one exact test finds the fall with this probability."""
    for n in range(20, 20_000, 10):
        few = binom.ppf(level, n, floor)
        few = few if binom.cdf(few, n, floor) <= level else few - 1
        if binom.cdf(few, n, floor - FALL) >= power:
            return n
    return 20_000


def falls(n_streams: int) -> None:
    """Print the table of falls."""
    print(
        "| floor | figures watched | at once: median, 95 % | after 10,000 good images | "
        "the same, without bets that begin anew | one test of fixed size: 50 %, 95 % sure |"
    )
    print("|---|---|---|---|---|---|")
    every = betting.EVERY
    for floor in FLOORS:
        for n_figures in N_FIGURES:
            level = LEVEL / n_figures
            cells = []
            for before, restarts in ((0, True), (LATE, True), (LATE, False)):
                betting.EVERY = every if restarts else 10**9
                rng = np.random.default_rng([int(100 * floor), before])
                late = [images_until(rng, floor, before, level) for _ in range(n_streams)]
                ends = np.nanquantile(late, [0.5, 0.95], method="inverted_cdf")
                cells.append(", ".join(f"{end:,.0f}" for end in ends))
            betting.EVERY = every
            cells.append(", ".join(f"{one_test(floor, level, p):,}" for p in (0.5, 0.95)))
            print(f"| {floor:.0%} | {n_figures} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="False alarms and falls of monitor")
    parser.add_argument("--streams", type=int, default=4000)
    parser.add_argument("--falls", type=int, default=400)
    options = parser.parse_args()
    false_alarms(options.streams)
    falls(options.falls)


if __name__ == "__main__":
    main()
