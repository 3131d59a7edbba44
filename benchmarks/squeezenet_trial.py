"""A trial at the paper's size: few filters carry a network, another seed finds the same ones.

    python benchmarks/squeezenet_trial.py critical [NETWORK] [--seconds 240]
    python benchmarks/squeezenet_trial.py repeat NETWORK METHOD [--seeds 4] [--per-filter N]
    python benchmarks/squeezenet_trial.py signs NETWORK METHOD [--seeds 4] [--per-filter N]

critical  `repairkit score --time-limit` on a whole SqueezeNet of squeezenets.py (2,944 filters).
          Accuracy on test images with its top filters frozen, and with as many at random.
repeat    the top 10 of several seeds, pair by pair, beside the overlap that each run predicted; of
          `leave-one-out`, whose errors are over images, of runs on disjoint images.
signs     what runs say is surely above or below zero, judged by a long run over coalitions of all
          sizes; of `leave-one-out`, where a run has a tenth of the images, by all of them.

Networks: full and large (the SqueezeNets, of 20 and 30 classes), network-130, network-1000
(trained.py), resnet8, mnist8 (the zoo).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import squeezenets, trained
from benchmarks.long_run import Truth, cached, long_run, one_by_one
from benchmarks.trained import CACHE, ZOO
from repairkit.core.filters import Filter
from repairkit.core.game import Round
from repairkit.core.scores import Scores
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.formats.run_file import RunDocument, RunFolder
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.score.scoring import score_bench
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings
from repairkit.report.wording import known_sentences

TOP = 10
LEAVE_ONE_OUT = "leave-one-out"
_N_DRAWS = 10
_AT_RANDOM = (5, 30)
_MANY = 10
_ALLOWED = 0.05
_OF_THE_ZOO = {"resnet8": ("mlperf_resnet8", "cifar10_jpeg_test10k"),
                  "mnist8": ("cntk_mnist8", "mnist_test10k")}  # fmt: skip
_SQUEEZENETS = (squeezenets.FULL, squeezenets.LARGE)
NETWORKS = (*_SQUEEZENETS, *trained.RECIPES, *_OF_THE_ZOO)
Floats = NDArray[np.float64]
Positions = NDArray[np.intp]


@dataclass(frozen=True)
class Network:
    """Files of a trained network, and what a pixel is multiplied by."""

    name: str
    model: Path
    data: Path
    scale: float
    parts: PartPlan

    @classmethod
    def of(cls, name: str) -> Network:
        """By name; made where it is not in the cache.

        Raises:
            FileNotFoundError: the zoo is missing.
        """
        everyone = PartPlan("all", "all", "all")
        if name in _SQUEEZENETS:
            made = squeezenets.make(name)
            parts = PartPlan(*squeezenets.PARTS)
            return cls(name, made.model, made.data, 1 / 255, parts)
        if name in trained.RECIPES:
            found = trained.make(name)
            scale = 1 / trained.RECIPES[name].brightest
            return cls(name, found.model, found.data, scale, everyone)
        model, data = _OF_THE_ZOO[name]
        paths = ZOO / "models" / f"{model}.onnx", ZOO / "data" / f"{data}.npz"
        return cls(name, *paths, 1.0, everyone)

    def open(self, seed: int) -> Bench:
        """Its workbench. The seed changes what is drawn, and never the images of a part."""
        settings = Settings(
            data=self.data,
            preprocessing=Preprocessing(scale=self.scale),
            parts=self.parts,
            seed=seed,
            accept_preprocessing=True,
        )
        return prepare(read_subject(self.model), settings)


@dataclass(frozen=True)
class Scored:
    """A run: its scores and `run.json`, and the processor seconds that it took."""

    scores: Scores
    document: RunDocument
    cpu_seconds: float

    @property
    def values(self) -> Floats:
        return self.scores.values[:, 0]

    def __str__(self) -> str:
        known = self.document["known"]
        return (
            f"{self.document['image_passes']:,} image passes, {self.cpu_seconds:.0f} CPU s; "
            f"{known['above']} surely above zero, {known['below']} below; expected overlap "
            f"{known['expected_overlap']:.1f} of {known['top_k']}"
        )


def score(
    network: Network,
    method: str,
    seed: int,
    *,
    per_filter: int | None,
    share: int = 1,
    part: int = 0,
) -> Scored:
    """As `repairkit score` does.

    Args:
        network: whose filters.
        method: of the estimators'.
        seed: of what the method draws.
        per_filter: evaluations per filter; the command's usual budget if None.
        share: into how many parts the selection images are cut, by chance.
        part: which of them to score on.
    """
    bench = network.open(seed)
    suite = bench.parts.selection
    order = np.random.default_rng(0).permutation(len(suite))
    chosen = suite.take(np.sort(np.array_split(order, share)[part]))
    began = time.process_time()
    found = score_bench(bench, ScoreSettings(method, per_filter=per_filter), suite=chosen)
    spent = time.process_time() - began
    result = Scored(found.scores, found.document, spent)
    print(f"  {network.name}, {method}, seed {seed}: {result}", flush=True)
    return result


def shared_top(first: Scored, second: Scored) -> int:
    """How many of the highest two runs have in common."""
    k = first.document["known"]["top_k"]
    return len(set(first.scores.ranking()[:k]) & set(second.scores.ranking()[:k]))


def repeat(network: Network, method: str, n_seeds: int, per_filter: int | None) -> bool:
    """Pairs of runs beside what they predicted; whether the mean prediction is within 2."""
    of_images = method == LEAVE_ONE_OUT
    runs = [
        score(
            network, method, seed, per_filter=per_filter, share=n_seeds if of_images else 1,
            part=seed if of_images else 0,
        )
        for seed in range(n_seeds)
    ]  # fmt: skip
    expected, seen, ratios = [], [], []
    for first, second in itertools.combinations(runs, 2):
        expected += [run.document["known"]["expected_overlap"] for run in (first, second)]
        seen.append(shared_top(first, second))
        ratios.append(_spread_of_differences(first.scores, second.scores))
    k = runs[0].document["known"]["top_k"]
    met = abs(np.mean(expected) - np.mean(seen)) <= 2
    print(
        f"| {network.name} | {len(runs[0].values):,} | {method} | "
        f"{np.mean([run.document['image_passes'] for run in runs]):,.0f} | "
        f"{np.mean(expected):.1f} ({min(expected):.1f} to {max(expected):.1f}) | "
        f"{np.mean(seen):.1f} ({min(seen)} to {max(seen)}) of {k}, {len(seen)} pairs | "
        f"{np.mean(ratios):.2f} | {'PASS' if met else 'MISS'} |",
        flush=True,
    )
    return bool(met)


def _spread_of_differences(first: Scores, second: Scores) -> float:
    """The spread of differences between two runs in units of the noise they state; 1 is right."""
    noise = [s.std_errors[:, 0] if s.noise is None else s.noise for s in (first, second)]
    total = np.hypot(*noise)
    told = np.isfinite(total) & (total > 0)
    differences = (first.values[:, 0] - second.values[:, 0])[told] / total[told]
    return float(np.sqrt((differences**2).mean()))


def signs(
    network: Network, method: str, n_seeds: int, per_filter: int | None, truth_rows: int
) -> bool:
    """Signs that runs are sure of, judged by a long run; whether 5 % at most are wrong."""
    of_images = method == LEAVE_ONE_OUT
    truth, errors = _all_images(network) if of_images else _long_run(network, truth_rows)
    n_said, n_other, n_wrong, n_broken = 0, 0, 0, 0
    for seed in range(n_seeds):
        run = score(
            network, method, seed, per_filter=per_filter, share=_MANY if of_images else 1,
            part=seed if of_images else 0,
        )  # fmt: skip
        assert run.scores.joint is not None
        low, high = run.scores.joint.T
        said = np.where(low > 0, 1, np.where(high < 0, -1, 0))
        surely_wrong = (said != 0) & (said * truth + 2 * errors < 0)
        n_said += int((said != 0).sum())
        n_other += int((said * truth < 0).sum())
        n_wrong += int(surely_wrong.sum())
        n_broken += bool(surely_wrong.any())
    met = n_other <= _ALLOWED * n_said
    print(
        f"| {network.name} | {method} | {n_seeds} | {n_said:,} | {n_other} | {n_wrong}, in "
        f"{n_broken} runs | {'PASS' if met else 'MISS'} |",
        flush=True,
    )
    return met


def _all_images(network: Network) -> tuple[Floats, Floats]:
    """Leave-one-out on all selection images, and its errors over others like them."""
    whole = score(network, LEAVE_ONE_OUT, 0, per_filter=None)
    return whole.values, whole.scores.std_errors[:, 0]


def _long_run(network: Network, n_rows: int) -> tuple[Floats, Floats]:
    """Values with Shapley's weights and no truncation, and their errors; cached."""
    digest = hashlib.sha256(network.model.read_bytes() + network.data.read_bytes()).hexdigest()[:12]

    def compute() -> Truth:
        bench = network.open(0)
        game = bench.working.game(bench.parts.selection, bench.metrics(("accuracy",)))
        n = game.facts.n_players
        ends = game.play(Round(np.stack([np.ones(n, bool), np.zeros(n, bool)]))).values[:, 0]
        shape, both = (n, len(game.suite)), (float(ends[0]), float(ends[1]))
        return Truth.of(
            *(
                long_run(one_by_one(game), both, shape, n_rows=n_rows // 2, seed=seed)
                for seed in (1, 2)
            )
        )

    found = cached(CACHE / f"{network.name}-trial-{digest}-{n_rows}.npz", compute)
    print(f"  long run: {found.image_passes:,} passes, reliability {found.reliability:.3f}")
    return found.values, found.errors


def critical(network: Network, seconds: float) -> bool:
    """The command with a time limit; whether its top 5 take accuracy below a tenth."""
    with tempfile.TemporaryDirectory() as place:
        document, ranking, wall, cpu = _command(network, seconds, Path(place) / "run")
    bench = network.open(0)
    game = bench.working.game(bench.parts.test, bench.metrics(("accuracy",)))
    columns = np.array([bench.roster.column(Filter.parse(name)) for name in ranking])
    n = len(columns)

    def accuracy(frozen: Positions) -> float:
        coalition = np.ones((1, n), bool)
        coalition[0, frozen] = False
        return float(game.play(Round(coalition)).values[0, 0])

    rng = np.random.default_rng(0)
    print(
        f"{n:,} filters; {wall:.0f} s, {cpu:.0f} CPU s, {document['image_passes']:,} image passes"
    )
    for sentence in known_sentences(document):
        print(f"  {sentence}")
    print(f"| frozen | most valuable | at random, mean (least to most) of {_N_DRAWS} draws |")
    print("|---|---|---|")
    start, after = accuracy(columns[:0]), {}
    for size in (5, 1, 2, 3, 4, 10, 30):
        after[size] = accuracy(columns[:size])
        n_draws = _N_DRAWS if size in _AT_RANDOM else 0
        draws = [accuracy(rng.choice(n, size, replace=False)) for _ in range(n_draws)]
        print(f"| {size} | {after[size]:.3f} | {_spread(draws)} |", flush=True)
    for name in ranking[:TOP]:
        print(f"  {name}")
    met = after[5] < start / 10
    print(
        f"{'PASS' if met else 'MISS'}: the top 5 take accuracy from {start:.3f} to {after[5]:.3f}"
    )
    return met


def _spread(draws: list[float]) -> str:
    return f"{np.mean(draws):.3f} ({min(draws):.3f} to {max(draws):.3f})" if draws else ""


def _command(
    network: Network, seconds: float, place: Path
) -> tuple[RunDocument, list[str], float, float]:
    """`repairkit score --time-limit`: run.json, filters in order, wall and processor seconds."""
    calibration, selection, test = squeezenets.PARTS
    words = ["score", str(network.model), "--data", str(network.data), "--scale", "1/255"]
    words += ["--calibration", calibration, "--selection", selection, "--test", test]
    words += ["--time-limit", f"{seconds:g}", "-o", str(place), "--quiet"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, "-m", "repairkit", *words], check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    folder = RunFolder(place)
    rows = sorted(folder.read_rows(), key=lambda row: -row.number("value"))
    return folder.read(), [row.filter for row in rows], wall, cpu


def main() -> None:
    """Run one experiment; exit code 1 where what must hold does not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("experiment", choices=["critical", "repeat", "signs"])
    parser.add_argument("network", nargs="?", choices=NETWORKS, default="full")
    parser.add_argument("method", nargs="?", default="auto")
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--per-filter", type=int, help="evaluations; the usual number if left out")
    parser.add_argument("--truth-rows", type=int, default=400_000, help="of the long run")
    asked = parser.parse_args()
    if asked.experiment == "critical" and asked.network not in _SQUEEZENETS:
        parser.error(f"critical is for {' or '.join(_SQUEEZENETS)}")
    network = Network.of(asked.network)
    if asked.experiment == "critical":
        sys.exit(not critical(network, asked.seconds))
    if asked.experiment == "repeat":
        sys.exit(not repeat(network, asked.method, asked.seeds, asked.per_filter))
    sys.exit(not signs(network, asked.method, asked.seeds, asked.per_filter, asked.truth_rows))


if __name__ == "__main__":
    main()
