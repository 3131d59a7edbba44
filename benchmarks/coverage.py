"""Do intervals hold what they say?

    python benchmarks/coverage.py [--quick] [--json FILE] [--runs 20]

The share of players whose long-run value lies in the interval, over many seeds, on simulated games
and on table games of eight players whose values are known exactly. Sequential methods state
intervals for all players and looks together, so theirs may hold more often than stated, but
not less often. The truth of a simulated game has an error of its own, which is added.

"Statement" rows are about the top k: of the runs that name them, the share that is right up to
epsilon.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.games import SimulatedGame, truth
from repairkit.core.game import Game
from repairkit.core.scores import Budget, Estimator
from repairkit.estimators.auto import Auto
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.linear.regression import Regression
from repairkit.estimators.walking.marginals import Marginals
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab
from tests.games import TableGame, any_values, noisy

JOINT = ("tmab", "marginals")
SIMULATED: dict[str, tuple[Estimator, int]] = {
    "regression": (Regression(), 60_000),
    "regression (shapley)": (Regression(sizes="shapley"), 60_000),
    "auto": (Auto(top_k=20), 60_000),
    "permutation": (Permutation(batch_size=16, stop="never"), 6_000),
    "tmab": (Tmab(top_k=20, batch_size=16), 6_000),
    "marginals": (Marginals(top_k=20), 12_000),
}
TABLES: dict[str, tuple[Estimator, int]] = {
    "regression (shapley)": (Regression(sizes="shapley"), 4_000),
    "permutation": (Permutation(batch_size=4, chunk=9, stop="never"), 2_000),
    "tmab": (Tmab(top_k=2, batch_size=4), 2_000),
    "marginals": (Marginals(top_k=2, batch_size=4), 2_000),
}

STATEMENTS: dict[str, tuple[Estimator, int]] = {
    "tmab": (Tmab(top_k=2, epsilon=0.02, batch_size=8, value_range=1.0), 100_000),
    "marginals": (Marginals(top_k=2, epsilon=0.02, batch_size=8, value_range=1.0), 100_000),
    "regression (shapley)": (Regression(sizes="shapley", top_k=2), 60_000),
    "auto": (Auto(top_k=2, epsilon=0.02), 60_000),
}
_SHARES = np.array([0.5, 0.3, 0.12, 0.1, 0.0, -0.2])


@dataclass(frozen=True)
class Line:
    """One method on one game: what it says, and the share of intervals that held."""

    game: str
    method: str
    nominal: float
    covered: float
    runs: int


def measure(
    game: Game,
    name: str,
    method: tuple[str, Estimator, int],
    true: tuple[NDArray[np.float64], NDArray[np.float64]],
    runs: int,
) -> Line:
    """Run with many seeds; `true` are values (n_players,) and their standard errors."""
    label, estimator, allowed = method
    values, errors = true
    held, nominal = [], 0.0
    for seed in range(runs):
        scores = estimate(game, estimator, budget=Budget(allowed), seed=seed).scores
        nominal = scores.confidence
        half = (scores.ci_high[:, 0] - scores.ci_low[:, 0]) / 2
        middle = (scores.ci_high[:, 0] + scores.ci_low[:, 0]) / 2
        held.append(np.abs(middle - values) <= np.hypot(half, 1.96 * errors) + 1e-12)
    return Line(name, label, nominal, float(np.mean(held)), runs)


def measure_statement(name: str, estimator: Estimator, allowed: int, runs: int) -> Line:
    """Two players ahead by a little, one harmful, and interactions: is the top 2 right?"""
    epsilon = getattr(estimator, "epsilon", 0.0)
    players = (np.arange(2**6)[:, None] >> np.arange(6) & 1).astype(float)
    right, nominal = [], 0.0
    for seed in range(runs):
        values = players @ _SHARES[:, None] + 0.1 * any_values(6, seed=seed)
        game = TableGame(noisy(values, noise=0.3, seed=seed))
        true = estimate(game, Exact(), budget=Budget(), seed=0).scores.values[:, 0]
        end = estimate(game, estimator, budget=Budget(allowed), seed=seed)
        nominal = end.scores.confidence
        if end.scores.decided.all():
            chosen = end.scores.ranking()[:2]
            right.append(bool((true[chosen] >= np.sort(true)[-2] - epsilon).all()))
    share = float(np.mean(right)) if right else float("nan")
    return Line("table-6", f"{name}: statement", nominal, share, len(right))


def verdict(line: Line) -> str:
    """Against the bar of 93 to 98 %; of those that hold jointly, at least as much as is said."""
    if line.method.endswith("statement") and not line.runs:
        return "no run made it"
    if line.method in JOINT or line.method.endswith("statement"):
        return "met" if line.covered >= line.nominal else "missed"
    return "met" if 0.93 <= line.covered <= 0.98 else "missed"


def main() -> None:
    """Run, print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="few seeds, small games")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--runs", type=int, default=20)
    asked = parser.parse_args()
    runs = 5 if asked.quick else asked.runs
    lines: list[Line] = []
    games: list[tuple[Game, str, dict[str, tuple[Estimator, int]], tuple[NDArray[np.float64], ...]]]
    games = []
    for seed in range(1 if asked.quick else 3):
        table = TableGame(noisy(any_values(8, seed=seed), noise=0.3, seed=seed))
        exact = estimate(table, Exact(), budget=Budget(), seed=0).scores.values[:, 0]
        games.append((table, f"table-8-{seed}", TABLES, (exact, np.zeros(8))))
    for recipe, n_walks in (("interacting", 6_000),) + (
        () if asked.quick else (("sparse", 6_000),)
    ):
        game = SimulatedGame(recipe, 300)
        games.append((game, game.name, SIMULATED, truth(game, n_walks=n_walks)))
    print("game            method                             nominal  covered")
    for game, name, methods, true in games:
        for label, (estimator, allowed) in methods.items():
            line = measure(game, name, (label, estimator, allowed), (true[0], true[1]), runs)
            print(
                f"{name:16s}{label:34s}{line.nominal:6.2f}{line.covered:9.3f}  {verdict(line)}",
                flush=True,
            )
            lines.append(line)
    for label, (estimator, allowed) in STATEMENTS.items():
        line = measure_statement(label, estimator, allowed, runs)
        print(
            f"{line.game:16s}{line.method:34s}{line.nominal:6.2f}{line.covered:9.3f}  "
            f"{verdict(line)} ({line.runs} of {runs} runs made it)",
            flush=True,
        )
        if line.runs:
            lines.append(line)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
