"""How often 95 % intervals of few rows hold, by ridge's errors and as `repairkit ask` has them.

The game is the packaged sample's, of 104 filters, on one image, on ten and on seventy. A regression
of few rows is read in both ways and held against one of 30,000 rows of the same images. Single
images are judged by loss; their accuracy is often the same in every row, which no interval tells.

    python benchmarks/few_rows.py
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from repairkit import api
from repairkit.core.scores import Budget, Scores
from repairkit.engine.model_game import ModelGame
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.linear.regression import Regression, RegressionRun, widen_errors
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject

SAMPLE = Path(__file__).parents[1] / "samples" / "digits" / "model.onnx"
ROWS = (40, 80, 160, 400, 800, 1_600)
_TRUE_ROWS, _GAMES, _SEEDS = 30_000, 4, 3
_MOST_REMOVED = 0.2
_NORMAL = 1.96


def run_of(game: ModelGame, n_rows: int, seed: int) -> RegressionRun:
    """A regression of so many rows."""
    method = Regression(sizes="falling", most_removed=_MOST_REMOVED, round_rows=min(n_rows, 4096))
    run = estimate(game, method, budget=Budget(n_rows + 2), seed=seed).run
    assert isinstance(run, RegressionRun)
    return run


def held(scores: Scores, truth: Scores) -> float:
    """The share of filters whose interval holds the long run's value, whose error counts too."""
    errors = np.hypot(scores.std_errors, truth.std_errors)
    gaps = np.abs(scores.values - truth.values)
    return float((gaps <= _NORMAL * errors)[:, 0].mean())


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    print("| metric | images | rows | ridge's errors hold | widened, they hold | rank |")
    print("|---|---|---|---|---|---|")
    for metric, sizes in (("loss", (1, 10, 70)), ("accuracy", (10, 70))):
        settings = replace(api.find_settings(SAMPLE), metrics=(metric,))
        bench = prepare(read_subject(SAMPLE), settings)
        selection = bench.parts.selection
        for n_images in sizes:
            found: dict[int, list[tuple[float, float, float]]] = {n: [] for n in ROWS}
            for _ in range(_GAMES):
                chosen = selection.take(rng.choice(len(selection), n_images, replace=False))
                game = bench.working.game(chosen, bench.metrics((metric,)))
                truth = run_of(game, _TRUE_ROWS, 99).read()
                for n_rows in ROWS:
                    for seed in range(_SEEDS):
                        run = run_of(game, n_rows, seed)
                        plain = run.read()
                        widen_errors(run)
                        rank = np.corrcoef(plain.values[:, 0], truth.values[:, 0])[0, 1]
                        found[n_rows].append((held(plain, truth), held(run.read(), truth), rank))
            for n_rows, each in found.items():
                plain_held, wide_held, rank = np.mean(each, axis=0)
                shown = f"{100 * plain_held:.0f} % | {100 * wide_held:.0f} % | {rank:.2f}"
                print(f"| {metric} | {n_images} | {n_rows:,} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
