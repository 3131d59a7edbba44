"""How many image passes does each estimator need to find which filters help and which harm?

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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import peers, trained
from benchmarks.bars import Line, print_bars
from benchmarks.costs import Costs, MeasuredCosts, UsualCosts
from benchmarks.games import CHANCE, SimulatedGame, truth
from benchmarks.ranking import TOP, judge
from repairkit.core.game import Game
from repairkit.core.scores import Estimator, Run
from repairkit.estimators.auto import Auto
from repairkit.estimators.linear.regression import Regression
from repairkit.estimators.reference_scores import LeaveOneOut
from repairkit.estimators.walking.marginals import Marginals
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab
from repairkit.jobs.score.methods import default_truncation

Floats = NDArray[np.float64]

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
_LEAST_R2 = -99
PEERS_AT, QUICK_PEERS_AT = (1_000, 10_000), (1_000,)


@dataclass(frozen=True)
class Arena:
    """A game, what rounds cost in it, where tmab cuts walks, and how to learn the truth."""

    name: str
    game: Game
    costs: Costs
    cut: float
    learn_truth: Callable[[], tuple[Floats, float]]

    @cached_property
    def truth(self) -> tuple[Floats, float]:
        """Values (n_players,) and their reliability."""
        return self.learn_truth()


def open_arena(name: str, *, quick: bool) -> Arena:
    """A game by name, such as sparse-1000.

    Raises:
        FileNotFoundError: the images that a network learns from are missing.
    """
    if name in trained.RECIPES:
        return _open_network(name, quick=quick)
    recipe, _, count = name.partition("-")
    simulated = SimulatedGame(recipe, int(count))

    def learn_truth() -> tuple[Floats, float]:
        true, errors = truth(simulated, n_walks=QUICK_WALKS if quick else WALKS[int(count)])
        return true, 1 - float((errors**2).mean() / true.var())

    # Accuracy a fifth of the way from chance to the full model's, as `score` settles it.
    cut = CHANCE + 0.2 * (0.94 - CHANCE)
    return Arena(name, simulated, UsualCosts(), cut, learn_truth)


def _open_network(name: str, *, quick: bool) -> Arena:
    made = trained.make(name)
    game, alone = trained.open_game(made), trained.open_game(made, workers=1)

    def learn_truth() -> tuple[Floats, float]:
        truth = trained.truth(made, n_rows=QUICK_ROWS if quick else None)
        return truth.values, truth.reliability

    costs = MeasuredCosts(trained.open_bench(made, workers=1), alone)
    return Arena(name, game, costs, default_truncation(game, trained.N_CLASSES), learn_truth)


@dataclass(frozen=True)
class Reading:
    """What a method holds for the values, (n_players,), after so many image passes."""

    passes: float
    plain_passes: float
    values: Floats


def methods(cut: float) -> dict[str, Estimator]:
    """The methods, named as on the command line; -16 are those with small batches."""
    return {
        "tmab": Tmab(top_k=TOP, side="both", truncate_at=cut),
        "tmab-16": Tmab(top_k=TOP, side="both", truncate_at=cut, batch_size=16),
        "permutation": Permutation(stop="never"),
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
            images = asked.images
            per_row = len(arena.game.facts.pool) if images is None else images.shape[1]
            passes = len(asked) * per_row
            if not len(asked) or spent + passes > limit:
                break
            run.tell(arena.game.play(asked))
            spent += passes
            plain += passes * arena.costs.of(asked)
        yield spent, plain


def play(arena: Arena, method: str, evaluations: list[int], *, seed: int) -> list[Reading | None]:
    """A reading at each number of evaluations; None before there is anything to read."""
    limits = [IMAGES_PER_EVALUATION * count for count in evaluations]
    facts = arena.game.facts
    run = methods(arena.cut)[method].start(facts, np.random.default_rng([seed, facts.n_players]))
    readings: list[Reading | None] = []
    for spent, plain in play_until(run, arena, limits):
        scores = run.read()
        known = bool(scores.samples.any())
        readings.append(Reading(spent, plain, scores.values[:, 0].copy()) if known else None)
    return readings


def play_peer(
    arena: Arena, method: str, evaluations: list[int], *, seed: int
) -> list[Reading | None]:
    """The same for a peer, which is run anew for each number of evaluations."""
    readings: list[Reading | None] = []
    for count in evaluations:
        try:
            estimation = peers.estimate(method, arena.game, evaluations=count, seed=seed)
        except peers.PeerError as error:
            print(f"{arena.name:17s}{method:19s}left out at {count:,}: {error}", flush=True)
            readings.append(None)
            continue
        plain = sum(passes * arena.costs.of(like) for like, passes in estimation.rounds)
        spent = sum(passes for _, passes in estimation.rounds)
        readings.append(Reading(spent, plain, estimation.values))
    return readings


def judged(arena: Arena, method: str, repeats: list[list[Reading | None]]) -> Iterator[Line]:
    """A line for each number of evaluations, means over repeats."""
    true, _ = arena.truth
    for readings in zip(*repeats, strict=True):
        rows = [
            (r.passes / IMAGES_PER_EVALUATION, r.plain_passes, *judge(r.values, true))
            for r in readings
            if r is not None
        ]
        if rows:
            means = np.mean(rows, axis=0).tolist()
            yield Line(arena.name, arena.game.facts.n_players, method, *means)


def show(line: Line) -> None:
    """Print a line of the table."""
    print(
        f"{line.game:17s}{line.method:19s}{line.evaluations:9,.0f}{line.plain_passes:13,.0f}"
        f"{line.precision_top:7.2f}{line.precision_bottom:8.2f}{line.rank_correlation:8.2f}"
        + (f"{line.r2:8.2f}" if line.r2 > _LEAST_R2 else f"{f'<{_LEAST_R2}':>8s}"),
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
    thousand_each = round(1_000 * n / IMAGES_PER_EVALUATION)
    if n <= 1_000 and not quick and all(abs(thousand_each / c - 1) > 0.1 for c in counts):
        counts.add(thousand_each)
    return sorted(counts)


def play_all(arena: Arena, chosen: list[str], repeats: int, *, quick: bool) -> list[Line]:
    """All methods on one game; the truth is learnt when all have been played."""
    game, played = arena.game, dict[str, list[list[Reading | None]]]()
    for method in chosen:
        counts = checkpoints(method, game.facts.n_players, len(game.facts.pool), quick=quick)
        peer = method in peers.NAMES
        once = quick or peer or method == "leave-one-out"
        how = play_peer if peer else play
        played[method] = [
            how(arena, method, counts, seed=seed) for seed in range(1 if once else repeats)
        ]
    beside = "" if arena.name in JUDGED else "beside the five; "
    print(f"{arena.name:17s}{beside}reliability of the truth {arena.truth[1]:.4f}")
    lines = [line for method, runs in played.items() for line in judged(arena, method, runs)]
    for line in lines:
        show(line)
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
    parser.add_argument(
        "--add", nargs="*", type=Path, default=[], help="rows of earlier runs; not played again"
    )
    asked = parser.parse_args()
    began = time.monotonic()
    lines = [Line(**row) for path in asked.add for row in json.loads(path.read_text())]
    lines.sort(key=lambda line: ((*JUDGED, *BESIDE).index(line.game), METHODS.index(line.method)))
    done = {line.game for line in lines}
    print(f"judged: {', '.join(JUDGED)}; beside them: {', '.join(BESIDE)}")
    print(
        "game             method             evaluations plain passes  top  bottom    rank      R2"
    )
    for line in lines:
        show(line)
    masks = dict[str, float]()
    for name in asked.games or (QUICK if asked.quick else (*JUDGED, *BESIDE)):
        try:
            arena = open_arena(name, quick=asked.quick)
        except FileNotFoundError as error:
            print(f"{name:17s}is left out: {error}")
            continue
        if name not in done:
            lines += play_all(arena, asked.methods, asked.repeats, quick=asked.quick)
        masks[name] = arena.costs.masks
        if asked.json:
            asked.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")
    if asked.quick:
        print("One run each: precisions may be off by .10. The bars are those of the full table.")
    print_bars([line for line in lines if line.game in masks and line.game in JUDGED], masks)
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
