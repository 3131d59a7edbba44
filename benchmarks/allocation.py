"""What does a marginal cost where images go by spread and cost, and what does a pass buy?

    python benchmarks/allocation.py [--models NAME ...] [--players N] [--images N] [--share .25]

Side by side in one run, on the same images and filters: `stars` with as many images for every
filter, and `stars` with images by spread and cost, both at the same share of the cost of all images
for all filters. First the costs that are known beforehand, from arithmetic, are held against
processor time, layer by layer. Times are ratios to plain passes of the untouched model that are
timed in between.

SqueezeNet 1.0 and ResNet-18 are written here in PyTorch and have random weights; their images are
noise, and the labels are what they answer. ResNet-8 is the one of MLPerf Tiny, on CIFAR-10
(`$REPAIRKIT_ZOO`, or ../shared/zoo). A value is what the log-likelihood loses without the filter.
Filters are every so many of the model's, so that all layers take part.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import networks, trained
from repairkit.core.game import GameFacts, Outcomes, Round
from repairkit.core.scores import Budget
from repairkit.data.parts import PartPlan
from repairkit.engine.cones.cone_costs import cone_shares, per_filter
from repairkit.engine.model_game import ModelGame
from repairkit.estimators.driving.driver import Estimation, estimate
from repairkit.estimators.samples import rank_correlation
from repairkit.estimators.walking.stars import Stars
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings

Floats = NDArray[np.float64]

NAMES = ("squeezenet1.0", "resnet18", "mlperf_resnet8")
BAR = 0.25
_SIDES = {"squeezenet1.0": 64, "resnet18": 64}
_LABELLED = 64
_TIMED = 64  # images of a plain pass
_REPEATS = 3


class SomePlayers:
    """A game of some of another's players; all others are present."""

    def __init__(self, game: ModelGame, players: NDArray[np.intp]) -> None:
        self.game, self.players = game, players
        facts = game.facts
        self.facts = GameFacts(
            n_players=len(players),
            metrics=facts.metrics,
            score_widths=facts.score_widths,
            pool=facts.pool,
            images_of=facts.images_of,
        )
        self.seconds = 0.0

    def play(self, round: Round) -> Outcomes:
        rows = np.ones((len(round), self.game.facts.n_players), bool)
        rows[:, self.players] = round.coalitions
        began = time.process_time()
        outcomes = self.game.play(Round(rows, round.images))
        self.seconds += time.process_time() - began
        return outcomes


@dataclass(frozen=True)
class Line:
    """One way on one model; costs in plain passes.

    `error_times_passes` is the mean squared standard error times the passes spent, as run.json has
    it; `timed` is a marginal's processor time over that of a plain pass. The coalitions' own passes
    are left out of both: one for each star, which all filters of a model share.
    """

    model: str
    way: str
    passes_per_marginal: float
    timed: float
    passes: float
    error_times_passes: float


def open_bench(name: str, n_images: int, folder: Path) -> Bench:
    """The workbench of a model, whose images are all selection images."""
    rng = np.random.default_rng(0)
    data = folder / f"{name}.npz"
    if name == "mlperf_resnet8":
        model = trained.ZOO / "models" / f"{name}.onnx"
        with np.load(trained.ZOO / "data" / "cifar10_jpeg_test10k.npz") as stored:
            np.savez(data, x=stored["x"][:n_images], y=stored["y"][:n_images])
    else:
        model, side = folder / f"{name}.onnx", _SIDES[name]
        network = networks.build(name)
        onnx.save(networks.to_onnx(network, side), model)
        images = rng.standard_normal((n_images, 3, side, side)).astype(np.float32)
        np.savez(data, x=images, y=_answers(model, images))
    settings = Settings(data=data, parts=PartPlan("all", "all", "all"), workers=1)
    return prepare(read_subject(model), settings)


def _answers(model: Path, images: NDArray[np.float32]) -> NDArray[np.int64]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    parts = [
        session.run(None, {"image": images[i : i + _LABELLED]})[0].argmax(axis=1)
        for i in range(0, len(images), _LABELLED)
    ]
    return np.concatenate(parts).astype(np.int64)


def plain_seconds(bench: Bench) -> float:
    """Processor seconds of an image through the untouched model."""
    suite = bench.parts.selection.take(np.arange(min(_TIMED, len(bench.parts.selection))))
    began = time.process_time()
    bench.working.run_plain(suite)
    return (time.process_time() - began) / len(suite)


def check_costs(
    bench: Bench, game: ModelGame, shares: dict[str, float], n_images: int
) -> dict[str, float]:
    """Print what a marginal of each site takes, by arithmetic and by time; the latter by site."""
    n, rng, rows = game.facts.n_players, np.random.default_rng(0), []
    for site, part in bench.roster.slices.items():
        chosen = rng.choice(np.arange(n)[part], min(6, part.stop - part.start), replace=False)
        star = np.ones((1 + len(chosen), n), bool)
        star[1 + np.arange(len(chosen)), chosen] = False
        ratios = []
        for _ in range(_REPEATS):
            plain = plain_seconds(bench)
            images = np.tile(rng.permutation(len(game.suite))[:n_images], (len(star), 1))
            game.play(Round(star[:2], images[:2]))
            began = time.process_time()
            game.play(Round(star, images))
            ratios.append((time.process_time() - began) / (len(chosen) * n_images) / plain)
        rows.append((part.stop - part.start, shares[site], float(np.median(ratios))))
    table = np.array(rows)
    weights = table[:, 0] / table[:, 0].sum()
    print(
        f"  {len(table)} sites: by arithmetic {table[:, 1].min():.2f} to {table[:, 1].max():.2f}, "
        f"mean {weights @ table[:, 1]:.3f}; by time {table[:, 2].min():.2f} to "
        f"{table[:, 2].max():.2f}, mean {weights @ table[:, 2]:.3f}; correlation "
        f"{np.corrcoef(table[:, 1:].T)[0, 1]:.3f}",
        flush=True,
    )
    return dict(zip(bench.roster.slices, table[:, 2].tolist(), strict=True))


def tell_least(some: SomePlayers, costs: Mapping[str, Floats]) -> None:
    """Print what images by spread and cost come to where both are known from the first image on.

    A player of spread s and cost c gets images in proportion to s / sqrt(c), so that the average
    marginal costs sum(s sqrt(c)) / sum(s / sqrt(c)): no choice is left, and no pilot is paid.
    """
    n = some.facts.n_players
    lacking = np.concatenate([np.ones((1, n), bool), ~np.eye(n, dtype=bool)])
    scores = some.play(Round(lacking)).scores[:, :, 0]
    spreads = (scores[0] - scores[1:]).std(axis=1)
    squares = float((spreads**2).sum())
    for name, cost in costs.items():
        root = np.sqrt(cost)
        total = float(spreads @ root)
        print(
            f"  at its best, costs by {name}: the average marginal "
            f"{total / (spreads / root).sum():.3f} plain passes ({cost.mean():.3f} even, "
            f"{root.sum() / (1 / root).sum():.3f} were all spreads equal); "
            f"{squares * cost.sum() / total**2:.2f} times the precision of a pass, so that an even "
            f"marginal's costs {total**2 / squares / n:.3f}; rank correlation of spread and cost "
            f"{rank_correlation(spreads, cost):.2f}",
            flush=True,
        )


def measure(name: str, asked: argparse.Namespace, folder: Path) -> list[Line]:
    """Both ways on one model."""
    bench = open_bench(name, asked.images, folder)
    suite = bench.parts.selection
    game = bench.working.game(suite, bench.metrics(("loss",)))
    shares = cone_shares(bench.working, suite)
    assert shares is not None
    n = len(bench.roster)
    print(f"{name}: {n} filters, {len(suite)} images, {game.path}")
    players = np.unique(np.linspace(0, n - 1, min(asked.players, n)).round().astype(np.intp))
    by_arithmetic = per_filter(bench.working, shares)[players]
    if not asked.no_check:
        timed = check_costs(bench, game, dict(shares), asked.batch)
        by_time = per_filter(bench.working, timed)[players]
        both = {"arithmetic": by_arithmetic, "time": by_time}
        tell_least(SomePlayers(game, players), both)
    costs = tuple((1, cost) for cost in by_arithmetic.tolist())
    lines = []
    for way in () if asked.least else ("even", "spread and cost"):
        some = SomePlayers(game, players)
        settings = Stars(
            most_removed=asked.removed,
            share=asked.share,
            batch_size=asked.batch,
            even=way == "even",
            costs=costs,
        )
        before = plain_seconds(bench)
        end: Estimation = estimate(some, settings, budget=Budget(), seed=0)
        plain = (before + plain_seconds(bench)) / 2
        told = end.statistics
        images = end.scores.samples.sum() * asked.batch
        line = Line(
            name,
            way,
            told["passes_per_marginal"],
            (some.seconds / plain - told["stars"] * asked.batch) / images,
            told["plain_passes"],
            told["squared_error_times_passes"],
        )
        lines.append(line)
        print(
            f"  {way:16s} a marginal {line.passes_per_marginal:.3f} plain passes by arithmetic, "
            f"{line.timed:.3f} by time; {line.passes:,.0f} passes, "
            f"squared error x passes {line.error_times_passes:.4g}",
            flush=True,
        )
    if asked.least:
        return lines
    even, ours = lines
    gain = even.error_times_passes / ours.error_times_passes
    print(
        f"  images by spread and cost: {gain:.2f} times the precision of a pass; the average "
        f"marginal costs {ours.timed:.3f} plain passes in place of {even.timed:.3f} "
        f"({'met' if ours.timed < BAR else 'missed'}, bar {BAR})",
        flush=True,
    )
    return lines


def main() -> None:
    """Run, print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--players", type=int, default=150)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--removed", type=float, default=0.0, help="share that coalitions may lack")
    parser.add_argument("--no-check", action="store_true", help="leave out the check of costs")
    parser.add_argument("--least", action="store_true", help="only what is possible at best")
    parser.add_argument("--json", type=Path, help="write the rows here")
    asked = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.models:
            lines += measure(name, asked, Path(folder))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
