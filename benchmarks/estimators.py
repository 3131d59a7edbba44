"""How many image passes does each estimator need to find who helps and who harms?

    python benchmarks/estimators.py [--quick] [--json FILE] [--repeats 2] [--games NAME ...]

Five games are judged: three simulated (see games.py) and two networks trained here, played in the
engine (see trained.py); further simulated ones are shown beside them. The truth is a long run,
cached. An evaluation is 128 image passes, whatever the method makes of them. Plain passes weigh
them by what the engine takes for an image on the CPU, in passes of the untouched model (see
costs.py). shapiq's estimators (see peers.py) take part where they can.
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

from benchmarks import peers, trained
from benchmarks.bars import TOP, Line, print_bars
from benchmarks.costs import Costs, MeasuredCosts, UsualCosts
from benchmarks.games import CHANCE, SimulatedGame, truth
from repairkit.core.game import Game
from repairkit.core.scores import Estimator, Run
from repairkit.estimators import (
    Auto,
    LeaveOneOut,
    Marginals,
    Permutation,
    Regression,
    Tmab,
)
from repairkit.workflows.scoring import default_truncation

JUDGED = ("interacting-300", "flat-1000", "sparse-3000", "network-130", "network-1000")
BESIDE = ("sparse-1000", "interacting-1000")
QUICK = ("interacting-300", "network-130")
# Walks behind the truth of a simulated game, image passes behind that of a quick network.
WALKS = {300: 6_000, 1_000: 8_000, 3_000: 4_000}
QUICK_WALKS, QUICK_ROWS = 3_000, 1_000_000
IMAGES_PER_EVALUATION = 128
REGRESSIONS = ("regression", "regression-16", "auto")
LONG, SHORT = (1_000, 3_000, 10_000, 30_000), (500, 1_000, 3_000, 5_000)
QUICK_LONG, QUICK_SHORT = (3_000, 10_000), (300, 1_000, 1_500)
PEERS_AT, QUICK_PEERS_AT = (1_000, 10_000), (1_000,)


@dataclass(frozen=True)
class Arena:
    """A game with its truth (n_players,), what rounds cost in it, and where tmab cuts walks."""

    name: str
    game: Game
    true: NDArray[np.float64]
    reliability: float
    costs: Costs
    cut: float


def open_arena(name: str, *, quick: bool) -> Arena:
    """A game by name, such as sparse-1000.

    Raises:
        FileNotFoundError: the images that a network learns from are missing.
    """
    if name in trained.RECIPES:
        return _open_network(name, quick=quick)
    recipe, _, count = name.partition("-")
    simulated = SimulatedGame(recipe, int(count))
    true, errors = truth(simulated, n_walks=QUICK_WALKS if quick else WALKS[int(count)])
    reliability = 1 - float((errors**2).mean() / true.var())
    # Accuracy a fifth of the way from chance to the full model's, as `score` settles it.
    cut = CHANCE + 0.2 * (0.94 - CHANCE)
    return Arena(name, simulated, true, reliability, UsualCosts(), cut)


def _open_network(name: str, *, quick: bool) -> Arena:
    made = trained.make(name)
    game, alone = trained.open_game(made), trained.open_game(made, workers=1)
    found = trained.truth(made, alone, n_rows=QUICK_ROWS if quick else None)
    costs = MeasuredCosts(trained.open_bench(made, workers=1), alone)
    cut = default_truncation(game, trained.N_CLASSES)
    return Arena(name, game, found.values, found.reliability, costs, cut)


def methods(cut: float) -> dict[str, Estimator]:
    """The methods, named as on the command line; -16 are those with small batches."""
    return {
        "tmab": Tmab(top_k=TOP, side="both", truncate_at=cut),
        "tmab-16": Tmab(top_k=TOP, side="both", truncate_at=cut, batch_size=16),
        "permutation": Permutation(),
        "leave-one-out": LeaveOneOut(),
        "marginals": Marginals(top_k=TOP, side="both"),
        "regression": Regression(top_k=TOP, side="both"),
        "regression-16": Regression(top_k=TOP, side="both", images_per_coalition=16),
        "auto": Auto(top_k=TOP),
    }


METHODS = (*methods(0.0), *peers.NAMES)


def play_until(run: Run, arena: Arena, limits: list[int]) -> Iterator[tuple[float, float]]:
    """Stop at each limit of image passes; yield passes and plain passes spent."""
    spent, plain = 0, 0.0
    for limit in limits:
        while True:
            asked = run.ask()
            whole = asked.images is None
            per_row = len(arena.game.facts.pool) if whole else asked.images.shape[1]
            passes = len(asked) * per_row
            if not len(asked) or spent + passes > limit:
                break
            run.tell(arena.game.play(asked))
            spent += passes
            plain += passes * arena.costs.of(asked)
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


def measure(arena: Arena, method: str, evaluations: list[int], repeats: int) -> list[Line]:
    """One line per number of evaluations; means over repeats."""
    limits = [IMAGES_PER_EVALUATION * count for count in evaluations]
    n = arena.game.facts.n_players
    table: list[list[tuple[float, ...]]] = [[] for _ in limits]
    for seed in range(repeats):
        rng = np.random.default_rng([seed, n])
        run = methods(arena.cut)[method].start(arena.game.facts, rng)
        for at, (spent, plain) in enumerate(play_until(run, arena, limits)):
            scores = run.read()
            if scores.samples.any():
                marks = judge(scores.values[:, 0], arena.true)
                table[at].append((spent / IMAGES_PER_EVALUATION, plain, *marks))
    means = [np.mean(rows, axis=0).tolist() for rows in table if rows]
    return [Line(arena.name, n, method, *row) for row in means]


def measure_peer(arena: Arena, method: str, evaluations: list[int]) -> list[Line]:
    """One line per budget that the peer can spend, each a run of its own."""
    lines = []
    for count in evaluations:
        try:
            found = peers.estimate(method, arena.game, evaluations=count, seed=0)
        except peers.PeerError as error:
            print(f"{arena.name:17s}{method:19s} is left out at {count:,}: {error}", flush=True)
            continue
        plain = sum(passes * arena.costs.of(like) for like, passes in found.rounds)
        spent = sum(passes for _, passes in found.rounds) / IMAGES_PER_EVALUATION
        marks = judge(found.values, arena.true)
        lines.append(Line(arena.name, arena.game.facts.n_players, method, spent, plain, *marks))
    return lines


def show(line: Line) -> None:
    """Print a line of the table."""
    print(
        f"{line.game:17s}{line.method:19s}{line.evaluations:9,.0f}{line.plain_passes:13,.0f}"
        f"{line.precision_top:7.2f}{line.precision_bottom:8.2f}{line.rank_correlation:8.2f}"
        f"{line.r2:8.2f}",
        flush=True,
    )


def checkpoints(method: str, n: int, n_images: int, *, quick: bool) -> list[int]:
    """Numbers of evaluations at which a method is read."""
    if method in peers.NAMES:
        return list(QUICK_PEERS_AT if quick else PEERS_AT)
    if method == "leave-one-out":
        return [(n + 3) * n_images // IMAGES_PER_EVALUATION + 1]
    if method not in REGRESSIONS:
        return list(QUICK_LONG if quick else LONG)
    counts = set(QUICK_SHORT if quick else SHORT)
    if n <= 1_000 and not quick:
        counts.add(round(1_000 * n / IMAGES_PER_EVALUATION))
    return sorted(counts)


def play_all(arena: Arena, chosen: list[str], repeats: int, *, quick: bool) -> list[Line]:
    """All methods on one game, shown as they come."""
    game, lines = arena.game, list[Line]()
    print(
        f"{arena.name:17s}{'' if arena.name in JUDGED else 'beside the five; '}"
        f"reliability of the truth {arena.reliability:.4f}"
    )
    for method in chosen:
        counts = checkpoints(method, game.facts.n_players, len(game.facts.pool), quick=quick)
        if method in peers.NAMES:
            found = measure_peer(arena, method, counts)
        else:
            once = quick or method == "leave-one-out"
            found = measure(arena, method, counts, 1 if once else repeats)
        for line in found:
            show(line)
        lines += found
    print(f"{arena.name:17s}plain passes per image: {arena.costs}", flush=True)
    return lines


def main() -> None:
    """Run, print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="two small games, once")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--games", nargs="*", default=[], choices=[*JUDGED, *BESIDE])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    asked = parser.parse_args()
    began, lines, masks = time.monotonic(), list[Line](), dict[str, float]()
    print(f"judged: {', '.join(JUDGED)}; beside them: {', '.join(BESIDE)}")
    print(
        "game             method             evaluations plain passes  top  bottom    rank      R2"
    )
    for name in asked.games or (QUICK if asked.quick else (*JUDGED, *BESIDE)):
        try:
            arena = open_arena(name, quick=asked.quick)
        except FileNotFoundError as error:
            print(f"{name:17s}is left out: {error}")
            continue
        lines += play_all(arena, asked.methods, asked.repeats, quick=asked.quick)
        masks[name] = arena.costs.masks
        if asked.json:
            asked.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")
    if asked.quick:
        print("One run each: precisions may be off by .10. The bars are those of the full table.")
    print_bars([line for line in lines if line.game in JUDGED], masks)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
