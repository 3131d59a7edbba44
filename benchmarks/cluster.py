"""What a Ray cluster adds, and where its driver saturates.

    python benchmarks/cluster.py [--quick] [--ray local] [--simulate] [--json FILE]

`--ray local` scores a network of stacked convolutions with one and with two workers, and tells
throughput, the driver's share of the processor, bytes sent and planning time. `--simulate` runs the
real driver on workers that are played: each part takes as long as one that was measured, and its
outcomes are replayed. The clock is the driver's own processor time, and jumps where it would only
wait; what Ray itself costs the driver per part is put on top, as measured.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from scaling import stack_of_convolutions

from repairkit.core.game import GameFacts, ImagePool, Outcomes
from repairkit.core.scores import Budget, Scores
from repairkit.engine.dispatch import DispatchedGame, Part, Report
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.linear.regression import Regression
from repairkit.jobs.score.elsewhere import ClusterOptions, Recipe, find_cluster
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings

WORKERS = (1, 2, 16, 64, 256)
LATENCIES = (0.25, 1.0, 4.0, 30.0)


@dataclass(frozen=True)
class Measured:
    """A run on so many workers; seconds are by the clock unless they are said to be the driver's.

    `driver_share` is of the processor time of driver and workers together; `planning` are the
    driver's processor seconds per round in the estimator.
    """

    workers: int
    evaluations: int
    rounds: int
    parts: int
    seconds: float
    evaluations_per_second: float
    driver_share: float
    driver_per_part: float
    planning: float
    recipe_bytes: int
    bytes_per_part: float


class Timed:
    """An estimator whose runs count the processor seconds that planning and learning take."""

    def __init__(self, inner: Regression) -> None:
        self.inner, self.seconds = inner, 0.0

    def start(self, facts: GameFacts, rng: np.random.Generator) -> Any:
        run: Any = self.inner.start(facts, rng)
        for name in ("ask", "ask_ahead", "tell"):
            setattr(run, name, self._timed(getattr(run, name)))
        return run

    def _timed(self, method: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            began = time.process_time()
            found = method(*arguments)
            self.seconds += time.process_time() - began
            return found

        return timed


class Counting:
    """A crew, and what goes through it."""

    def __init__(self, crew: Any) -> None:
        self.crew, self.n_parts, self.n_bytes = crew, 0, 0

    @property
    def n_workers(self) -> int:
        workers: int = self.crew.n_workers
        return workers

    def hand_out(self, worker: int, part: Part) -> None:
        self.n_parts += 1
        self.n_bytes += part.bits.nbytes + (0 if part.images is None else part.images.nbytes)
        self.crew.hand_out(worker, part)

    def gather(self, timeout_seconds: float) -> Sequence[Report]:
        reports: Sequence[Report] = self.crew.gather(timeout_seconds)
        self.n_bytes += sum(0 if r.scores is None else r.scores.nbytes for r in reports)
        return reports


def make_bench(folder: Path, width: int, depth: int, side: int, n_images: int) -> Bench:
    """Stacked convolutions and images of noise."""
    rng = np.random.default_rng(0)
    onnx.save(stack_of_convolutions(width, depth, side), folder / "stack.onnx")
    x = rng.standard_normal((n_images, 3, side, side)).astype(np.float32)
    np.savez(folder / "noise.npz", x=x, y=rng.integers(0, 10, n_images))
    settings = Settings(
        data=folder / "noise.npz", metrics=("loss",), device="cpu", accept_preprocessing=True
    )
    return prepare(read_subject(folder / "stack.onnx"), settings)


def cpu_seconds(processes: Sequence[int]) -> float:
    """What processes of this machine have used so far."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(recipe: Recipe, address: str, workers: int, n_evaluations: int) -> Measured:
    """Score with so many workers, once they are warm."""
    options = ClusterOptions(address, workers=workers)
    with find_cluster("ray", options).open(recipe, seed=0) as game:
        assert isinstance(game, DispatchedGame)
        crew: Any = game.crew
        counting = Counting(crew)
        game.crew = counting
        estimate(game, Regression(), budget=Budget(800), seed=1)  # all workers are warm
        counting.n_parts = counting.n_bytes = 0
        timed = Timed(Regression())
        before, driver = cpu_seconds(crew.processes()), time.process_time()
        began = time.perf_counter()
        spent = estimate(game, timed, budget=Budget(n_evaluations), seed=0).spent
        seconds = time.perf_counter() - began
        driver = time.process_time() - driver
        worked = cpu_seconds(crew.processes()) - before
    return Measured(
        workers,
        spent.evaluations,
        spent.rounds,
        counting.n_parts,
        seconds,
        spent.evaluations / seconds,
        driver / (driver + worked),
        driver / counting.n_parts,
        timed.seconds / spent.rounds,
        recipe.n_bytes,
        counting.n_bytes / counting.n_parts,
    )


class PlayedCrew:
    """Workers that are played: they take `latency` seconds per run of 128 rows, and a little luck.

    `now` is what the clock would show: the driver's processor time, and what it waited.
    """

    def __init__(self, n_workers: int, latency: float, per_part: float) -> None:
        self.n_workers, self.latency, self.per_part = n_workers, latency, per_part
        self.rng = np.random.default_rng(0)
        self.outcomes = self.rng.random((65_536, 1, 1))
        self.waited, self.began = 0.0, time.process_time()
        self.until = [0.0] * n_workers
        self.on_the_way: list[tuple[float, int, int, Part]] = []
        self.n_parts, self.busy = 0, 0.0
        self.last, self.fresh = 0.0, True

    def now(self) -> float:
        return time.process_time() - self.began + self.waited

    def hand_out(self, worker: int, part: Part) -> None:
        n_rows = len(part.bits)
        share = n_rows / 128 if part.images is not None else 1.0
        seconds = self.latency * share * float(self.rng.uniform(0.9, 1.1))
        self.waited += self.per_part
        self.until[worker] = max(self.now(), self.until[worker]) + seconds
        self.busy += seconds
        self.n_parts += 1
        self.last = self.now()
        heapq.heappush(self.on_the_way, (self.until[worker], self.n_parts, worker, part))

    def gather(self, timeout_seconds: float) -> Sequence[Report]:  # noqa: ARG002 (a Crew's)
        if self.fresh:
            self.fresh = False
            return [Report(worker) for worker in range(self.n_workers)]
        self.waited += max(self.on_the_way[0][0] - self.now(), 0.0)
        reports, now = [], self.now()
        while self.on_the_way and self.on_the_way[0][0] <= now:
            _, _, worker, part = heapq.heappop(self.on_the_way)
            n_images = 64 if part.images is None else part.images.shape[1]
            scores: NDArray[np.float64] = self.outcomes[: len(part.bits)]
            reports.append(Report(worker, part.key, np.repeat(scores, n_images, axis=1)))
        return reports


@dataclass(frozen=True)
class Simulated:
    """How busy workers were, from the end of the pilot until the last part was handed out."""

    filters: int
    workers: int
    latency: float
    busy: float
    parts_per_second: float
    driver: float


class Watching(DispatchedGame):
    """Notes the clock at the end of the first rounds, which wait for one another."""

    mark: tuple[float, float, int] | None = None

    def finish(self, number: int) -> Outcomes:
        outcomes = super().finish(number)
        crew: Any = self.crew
        if number == 1:  # everyone and no one, the pilot
            self.mark = crew.now(), crew.busy, crew.n_parts
        return outcomes


def simulate(n_filters: int, workers: int, latency: float, per_part: float, n: int) -> Simulated:
    """The real driver with played workers; `n` parts for each."""
    crew = PlayedCrew(workers, latency, per_part)
    facts = GameFacts(
        n_players=n_filters, metrics=("loss",), score_widths=(1.0,), pool=ImagePool.uniform(64)
    )
    game = Watching(crew, facts, path="played", seed=0, late_seconds=1e9, clock=crew.now)
    began = time.process_time()
    estimate(game, Unread(Regression()), budget=Budget(514 + 128 * n * workers), seed=0)
    driver = time.process_time() - began
    assert game.mark is not None
    start, busy, parts = game.mark
    seconds = crew.last - start
    beyond = sum(max(until - crew.last, 0.0) for until in crew.until)
    share = (crew.busy - busy - beyond) / (workers * seconds)
    return Simulated(
        n_filters, workers, latency, share, (crew.n_parts - parts) / seconds, driver / crew.n_parts
    )


class Unread:
    """A regression that is never solved: that is not the driver's work while workers wait."""

    def __init__(self, inner: Regression) -> None:
        self.inner = inner

    def start(self, facts: GameFacts, rng: np.random.Generator) -> Any:
        run: Any = self.inner.start(facts, rng)
        run.read = lambda: Scores.plain(facts.metrics, np.zeros((facts.n_players, 1)))
        return run


def main() -> None:
    """Print a table for each question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--ray", metavar="ADDRESS", help="measure on a Ray cluster, or local")
    parser.add_argument("--simulate", action="store_true", help="play up to 256 workers")
    parser.add_argument("--per-part", type=float, help="Ray's own seconds per part; as measured")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    told: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()}
    per_part = 1e-3
    if options.ray:
        measured = on_ray(options.ray, quick=options.quick)
        told["measured"] = [asdict(m) for m in measured]
        last = measured[-1]
        per_part = last.driver_per_part - last.planning * last.rounds / last.parts
        print_measured(measured)
    per_part = options.per_part or per_part
    if options.simulate:
        simulated = played(per_part, quick=options.quick)
        told["simulated"] = [asdict(s) for s in simulated]
        print_simulated(simulated, per_part)
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")


def on_ray(address: str, *, quick: bool) -> list[Measured]:
    """One and two workers, in turn, on the same network."""
    width, depth, side, n = (16, 4, 16, 2_000) if quick else (64, 8, 32, 4_000)
    with tempfile.TemporaryDirectory() as folder:
        bench = make_bench(Path(folder), width, depth, side, 640)
        recipe = Recipe.of(bench, bench.parts.selection, bench.metrics(("loss",)), None)
        return [measure(recipe, address, workers, n) for workers in (1, 2)]


def played(per_part: float, *, quick: bool) -> list[Simulated]:
    """Every size of cluster, with parts of every length."""
    small = [(1_000, n) for n in ((2, 256) if quick else WORKERS)]
    large = [] if quick else [(17_216, n) for n in WORKERS[3:]]
    return [
        simulate(n_filters, n, latency, per_part, 4 if quick else 10)
        for n_filters, n in small + large
        for latency in (LATENCIES if n_filters < 10_000 else LATENCIES[2:])
    ]


def print_measured(measured: Sequence[Measured]) -> None:
    """Throughput, the driver's share and what was sent."""
    print(f"{'workers':>8}{'eval/s':>10}{'driver':>9}{'planning':>13}{'a part':>12}{'sent':>14}")
    for m in measured:
        print(
            f"{m.workers:8}{m.evaluations_per_second:10.1f}{m.driver_share:9.2%}"
            f"{m.planning * 1e3:10.2f} ms{m.driver_per_part * 1e3:9.2f} ms"
            f"{m.bytes_per_part / 1024:10.1f} KiB"
        )
    print(f"model and images, once: {measured[0].recipe_bytes / 2**20:.1f} MiB")
    ratio = measured[-1].evaluations_per_second / measured[0].evaluations_per_second
    print(f"{measured[-1].workers} workers over 1: {ratio:.2f}")


def print_simulated(simulated: Sequence[Simulated], per_part: float) -> None:
    """How busy workers are, by their number and by what a part takes."""
    print(f"\nworkers busy; {per_part * 1e3:.2f} ms of Ray's own per part")
    print(f"{'filters':>8}{'workers':>9}" + "".join(f"{f'{t:g} s':>10}" for t in LATENCIES))
    for n_filters, n in dict.fromkeys((s.filters, s.workers) for s in simulated):
        row = [s for s in simulated if (s.filters, s.workers) == (n_filters, n)]
        busy = {s.latency: f"{s.busy:.1%}" for s in row}
        print(f"{n_filters:8}{n:9}" + "".join(f"{busy.get(t, ''):>10}" for t in LATENCIES))


if __name__ == "__main__":
    main()
