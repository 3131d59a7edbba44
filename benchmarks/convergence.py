"""TMAB run to its own end, against Monte Carlo that gives every filter as many samples.

The game is simulated (`games.py`, sparse-300), so that a run to the end takes minutes. TMAB stops
sampling a filter once it is surely in or out of the top k; Monte Carlo cannot. So Monte Carlo gets
as many samples of every filter as TMAB took of the one that it sampled most, and the two are
compared as the paper does: the share of samples, and how far the values agree (rank correlation and
R2 of the top k). Both truncate walks in the same way, and both are also judged by the true values.

    python benchmarks/convergence.py [--epsilon 0.01 0.003] [--top-k 30] [--seeds 3]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.games import SimulatedGame, truth
from benchmarks.ranking import correlations
from repairkit.core.scores import Budget
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab

GAME, N_PLAYERS, N_WALKS = "sparse", 300, 20_000
_BATCH, _CUT, _PATIENCE = 128, 0.2, 1  # the paper's


def row(game: SimulatedGame, true: np.ndarray, epsilon: float, top_k: int, seed: int) -> list[str]:
    """A line of the table."""
    began = time.process_time()
    bandit = Tmab.paper(epsilon=epsilon, top_k=top_k)
    ours = estimate(game, bandit, budget=Budget(), seed=seed)
    counts, values = ours.scores.samples, ours.scores.values[:, 0]
    walks = Permutation(
        batch_size=_BATCH, truncate_at=_CUT, truncate_patience=_PATIENCE, stop="never", chunk=16
    )
    most = int(counts.max())
    # Enough for whole walks; cut ones give more samples than TMAB took, so costs are scaled.
    budget = Budget(max_evaluations=most * (N_PLAYERS + 1) // 2)
    plain = estimate(game, walks, budget=budget, seed=seed + 1_000)
    theirs = plain.scores.values[:, 0]
    passes = plain.spent.image_passes * most / int(plain.scores.samples.max())
    top = np.argsort(-theirs, kind="stable")[:top_k]
    chosen = np.argsort(-values, kind="stable")[:top_k]
    shared = len(set(top.tolist()) & set(chosen.tolist())) / top_k
    real = np.argsort(-true, kind="stable")[:top_k]
    right = len(set(real.tolist()) & set(chosen.tolist())) / top_k
    both = np.union1d(top, chosen)
    return [
        f"{epsilon:g}",
        str(seed),
        f"{counts.mean():,.0f}, {most:,}",
        f"{counts.mean() / most:.1%}",
        f"{ours.spent.image_passes / passes:.1%}",
        f"{shared:.2f}",
        f"{correlations(values[both], theirs[both])[1]:.3f}",
        f"{correlations(values[both], theirs[both])[0] ** 2:.3f}",
        f"{correlations(values, theirs)[1]:.3f}",
        f"{right:.2f}",
        f"{time.process_time() - began:.0f} s",
    ]


def main() -> None:
    """Print the table, a row for each epsilon and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.01, 0.003])
    parser.add_argument("--top-k", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    game = SimulatedGame(GAME, N_PLAYERS)
    true, _ = truth(game, n_walks=N_WALKS)
    head = (
        "epsilon", "seed", "samples of a filter: mean, most", "of Monte Carlo's samples",
        "of its image passes", "top k shared", "rank correlation of these", "R2 of these",
        "rank correlation of all", "of the true top k", "CPU",
    )  # fmt: skip
    print("|", " | ".join(head), "|")
    print("|", " | ".join("---" for _ in head), "|")
    for epsilon in asked.epsilon:
        for seed in range(asked.seeds):
            print("|", " | ".join(row(game, true, epsilon, asked.top_k, seed)), "|", flush=True)


if __name__ == "__main__":
    main()
