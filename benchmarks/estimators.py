"""How many image passes does each estimator need to find who helps and who harms?

    python benchmarks/estimators.py [--quick] [--json FILE] [--repeats 2]

Games are simulated (see games.py); the truth is a long run, cached. An evaluation is 128 image
passes, whatever the method makes of them. Plain passes weigh them by what the engine takes for an
image on the CPU: 0.35 of a pass where neighbouring rows share images and most players, 1.3 where
each image has its own coalition.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.games import CHANCE, N_IMAGES, SimulatedGame, truth
from repairkit.core.game import Round
from repairkit.core.scores import Estimator, Run
from repairkit.estimators import (
    Auto,
    LeaveOneOut,
    Marginals,
    Permutation,
    Regression,
    Tmab,
)

GAMES = (
    ("interacting", 300, 6_000),
    ("sparse", 1_000, 8_000),
    ("flat", 1_000, 8_000),
    ("interacting", 1_000, 8_000),
    ("sparse", 3_000, 4_000),
)
QUICK_GAMES = (("interacting", 300, 3_000), ("sparse", 1_000, 1_500))
IMAGES_PER_EVALUATION = 128
SHARED_COST, SCATTERED_COST = 0.35, 1.3
TOP = 20
# Accuracy a fifth of the way from chance to the full model's.
CUT = CHANCE + 0.2 * (0.94 - CHANCE)
METHODS: dict[str, Estimator] = {
    "tmab": Tmab(top_k=TOP, side="both", truncate_at=CUT),
    "tmab-16": Tmab(top_k=TOP, side="both", truncate_at=CUT, batch_size=16),
    "permutation": Permutation(),
    "leave-one-out": LeaveOneOut(),
    "marginals": Marginals(top_k=TOP, side="both"),
    "regression": Regression(top_k=TOP, side="both"),
    "regression-16": Regression(top_k=TOP, side="both", images_per_coalition=16),
    "auto": Auto(top_k=TOP),
}
LONG, SHORT = (1_000, 3_000, 10_000, 30_000), (500, 1_000, 3_000, 5_000)
QUICK_LONG, QUICK_SHORT = (3_000, 10_000), (300, 1_000, 1_500)
REGRESSIONS = ("regression", "regression-16", "auto")


@dataclass(frozen=True)
class Line:
    """One method on one game after so many evaluations; means over repeats."""

    game: str
    n: int
    method: str
    evaluations: float
    plain_passes: float
    precision_top: float
    precision_bottom: float
    rank_correlation: float
    r2: float


def plain_cost(asked: Round) -> float:
    """Plain passes per image of a round."""
    if asked.images is None:
        return 1.0
    shared = len(asked) > 1 and bool((asked.images[0] == asked.images[1]).all())
    return SHARED_COST if shared else SCATTERED_COST


def play_until(run: Run, game: SimulatedGame, limits: list[int]) -> Iterator[tuple[float, float]]:
    """Stop at each limit of image passes; yield passes and plain passes spent."""
    spent, plain = 0, 0.0
    for limit in limits:
        while True:
            asked = run.ask()
            per_row = N_IMAGES if asked.images is None else asked.images.shape[1]
            passes = len(asked) * per_row
            if not len(asked) or spent + passes > limit:
                break
            run.tell(game.play(asked))
            spent += passes
            plain += passes * plain_cost(asked)
        yield spent, plain


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The place of each value, the least first."""
    places = np.empty(len(values))
    places[np.argsort(values, kind="stable")] = np.arange(len(values))
    return places


def judge(found: NDArray[np.float64], true: NDArray[np.float64]) -> tuple[float, ...]:
    """Precision among the highest and the lowest, rank correlation, R2."""
    order, best = np.argsort(-found, kind="stable"), np.argsort(-true, kind="stable")
    top = len(set(order[:TOP].tolist()) & set(best[:TOP].tolist())) / TOP
    bottom = len(set(order[-TOP:].tolist()) & set(best[-TOP:].tolist())) / TOP
    correlation = float(np.corrcoef(ranks(found), ranks(true))[0, 1])
    r2 = 1 - float(((found - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())
    return top, bottom, correlation, r2


def measure(
    game: SimulatedGame,
    method: str,
    evaluations: list[int],
    true: NDArray[np.float64],
    repeats: int,
) -> list[Line]:
    """One line per number of evaluations."""
    limits = [IMAGES_PER_EVALUATION * count for count in evaluations]
    n = game.facts.n_players
    table: list[list[tuple[float, ...]]] = [[] for _ in limits]
    for seed in range(repeats):
        run = METHODS[method].start(game.facts, np.random.default_rng([seed, n]))
        for at, (spent, plain) in enumerate(play_until(run, game, limits)):
            scores = run.read()
            if scores.samples.any():
                marks = judge(scores.values[:, 0], true)
                table[at].append((spent / IMAGES_PER_EVALUATION, plain, *marks))
    means = [np.mean(rows, axis=0).tolist() for rows in table if rows]
    return [Line(game.name, n, method, *row) for row in means]


def show(line: Line) -> None:
    """Print a line of the table."""
    print(
        f"{line.game:17s}{line.method:15s}{line.evaluations:9,.0f}{line.plain_passes:13,.0f}"
        f"{line.precision_top:7.2f}{line.precision_bottom:8.2f}{line.rank_correlation:8.2f}"
        f"{line.r2:8.2f}",
        flush=True,
    )


def reaches(line: Line | None, other: Line | None) -> bool:
    """Whether both precisions are at least the other's, but for one player of twenty (noise)."""
    if line is None or other is None:
        return False
    slack = 1 / TOP + 1e-9
    return (
        line.precision_top >= other.precision_top - slack
        and line.precision_bottom >= other.precision_bottom - slack
    )


def at(lines: list[Line], game: str, method: str, evaluations: float) -> Line | None:
    """The line nearest below that number of evaluations, if it is near."""
    found = [
        line
        for line in lines
        if (line.game, line.method) == (game, method)
        and 0.6 * evaluations <= line.evaluations <= 1.02 * evaluations
    ]
    return max(found, key=lambda line: line.evaluations, default=None)


def print_bars(lines: list[Line], long: tuple[int, ...]) -> None:
    """Compare with TMAB at every number of evaluations that both were read at."""
    games = list(dict.fromkeys(line.game for line in lines))
    needed = max(len(games) - 1, 1)
    for tuned, factor in (("tmab", 10), ("tmab-16", 2)):
        for method in ("regression", "auto"):
            met = []
            for game in games:
                pairs = [
                    (at(lines, game, method, count / factor), at(lines, game, tuned, count))
                    for count in long
                ]
                known = [pair for pair in pairs if None not in pair]
                met.append(bool(known) and all(reaches(*pair) for pair in known))
            word = "met" if sum(met) >= needed else "missed"
            failed = [game for game, ok in zip(games, met, strict=True) if not ok]
            print(
                f"{method} reaches {tuned}'s precision with 1/{factor} of its passes on "
                f"{sum(met)} of {len(games)} games: {word}"
                + (f" (not on {', '.join(failed)})" if failed else "")
            )
    print_engine_bar(lines, games, long)
    print_rank_bar(lines, games)


def print_engine_bar(lines: list[Line], games: list[str], long: tuple[int, ...]) -> None:
    """Plain passes of the cheapest line that reaches the longest run of TMAB under mask nodes."""
    for game in games:
        target = at(lines, game, "tmab", long[-1])
        for method in ("regression", "auto"):
            good = [
                line
                for line in lines
                if (line.game, line.method) == (game, method) and reaches(line, target)
            ]
            if target is None or not good:
                print(f"{game}: {method} against tmab with mask nodes: not reached: missed")
                continue
            passes = target.evaluations * IMAGES_PER_EVALUATION
            factor = passes / min(line.plain_passes for line in good)
            word = "met" if factor >= 20 else "missed"
            print(f"{game}: {method} takes 1/{factor:.0f} of tmab with mask nodes (1/20): {word}")


def print_rank_bar(lines: list[Line], games: list[str]) -> None:
    """Rank correlation where a player has had its thousand image passes."""
    for game in games:
        for method in ("regression", "auto"):
            line = next(
                (
                    line
                    for line in lines
                    if (line.game, line.method) == (game, method)
                    and line.evaluations * IMAGES_PER_EVALUATION >= 800 * line.n
                ),
                None,
            )
            if line is not None:
                word = "met" if line.rank_correlation >= 0.9 else "missed"
                print(
                    f"{game}: {method} at 1,000 image passes per player: rank correlation "
                    f"{line.rank_correlation:.3f} (0.90; paper .988), R2 {line.r2:.3f} (paper "
                    f".975): {word}"
                )


def checkpoints(method: str, n: int, *, quick: bool) -> list[int]:
    """Numbers of evaluations at which a method is read."""
    if method == "leave-one-out":
        return [n * N_IMAGES // IMAGES_PER_EVALUATION + 2 * N_IMAGES]
    if method not in REGRESSIONS:
        return list(QUICK_LONG if quick else LONG)
    counts = set(QUICK_SHORT if quick else SHORT)
    if n <= 1_000 and not quick:
        counts.add(round(1_000 * n / IMAGES_PER_EVALUATION))
    return sorted(counts)


def main() -> None:
    """Run, print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="two small games, once")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--games", nargs="*", help="names, such as sparse-1000; all if left out")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    asked = parser.parse_args()
    began, lines = time.monotonic(), list[Line]()
    print("game             method         evaluations plain passes  top  bottom    rank      R2")
    for name, n, n_walks in QUICK_GAMES if asked.quick else GAMES:
        game = SimulatedGame(name, n)
        if asked.games and game.name not in asked.games:
            continue
        true, _ = truth(game, n_walks=n_walks)
        for method in asked.methods:
            counts = checkpoints(method, n, quick=asked.quick)
            repeats = 1 if asked.quick or method == "leave-one-out" else asked.repeats
            for line in measure(game, method, counts, true, repeats):
                show(line)
                lines.append(line)
    if asked.quick:
        print("One run each: precisions may be off by .10. The bars are those of the full table.")
    print_bars(lines, QUICK_LONG if asked.quick else LONG)
    print(f"{time.monotonic() - began:.0f} s")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
