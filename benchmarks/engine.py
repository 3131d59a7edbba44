"""What does a coalition cost, and what does a marginal contribution cost?

    python benchmarks/engine.py [--quick] [--json FILE] [--models NAME ...] [--workers 1 2]
                                [--device cpu|cuda]

Ways, interleaved in every repeat and compared by medians: a plain ONNX Runtime pass of the
untouched model on as many threads as there are workers; PyTorch eager with forward hooks, which is
what one would write by hand; mask nodes; a new session per coalition; the engine; the engine with
tight caches. A *coalition* is a row at random on one batch of images. A *marginal* is one of many
filters less than a coalition that lacks a twentieth, whose own pass is counted in; a *step of a
walk* has one filter less than the row before. On a card there are no sessions per coalition, and
memory is not measured. Inception-v3 is written in PyTorch after the one of Keras applications,
layer by layer.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from peaks import TIGHT_BYTES, Peak, measure_peak
from rounds import random_rows, star_rows, walk_rows
from ways import NAMES, ZOO, Ways, make_subject

from repairkit.core.errors import DeviceError
from repairkit.core.game import Coalitions
from repairkit.engine.evaluator import Evaluator, keep_all
from repairkit.engine.ort import choose_device

EIGHT, EACH, STEP = "8 coalitions of 1/8 batch", "a coalition per image", "step of a walk"
BARS = {
    ("marginal", "ratio_to_plain"): 0.35,
    ("marginal", "ratio_to_eager"): 1 / 12,
    ("coalition", "ratio_to_plain"): 1.1,
    (EIGHT, "ratio_to_plain"): 1.3,
    (EACH, "ratio_to_plain"): 2.2,
}
_SLOW_REPEATS = 3

Key = tuple[str, str, int]
"""The way, what is evaluated, and on how many workers."""


@dataclass(frozen=True)
class Task:
    """Something to be timed: `count` coalitions or marginals at once."""

    way: str
    what: str
    count: int
    run: Callable[[], object]


@dataclass(frozen=True)
class Result:
    """A row of the table.

    `cpu_ratio_to_plain` compares processor time with that of a plain pass on one thread: steadier
    than the clock where others use the machine.
    """

    model: str
    way: str
    what: str
    device: str
    workers: int
    seconds: float
    ratio_to_plain: float
    ratio_to_eager: float | None
    peak_mib: float | None
    cpu_ratio_to_plain: float


def measure(
    ways: Ways, workers: tuple[int, ...], *, repeats: int, n_steps: int
) -> dict[Key, list[tuple[float, float]]]:
    """Wall and processor seconds of every way, a list of one per repeat."""
    seconds: dict[Key, list[tuple[float, float]]] = defaultdict(list)
    rng = np.random.default_rng(2)
    for repeat in range(repeats + 1):  # the first warms up
        for n in workers:
            slow = n == workers[0] and repeat <= _SLOW_REPEATS
            for task in (
                *_tasks(ways, n, rng, n_steps),
                *(_slow_tasks(ways, n, rng) if slow else ()),
            ):
                start, busy = time.perf_counter(), time.process_time()
                task.run()
                if repeat:
                    passed = time.perf_counter() - start, time.process_time() - busy
                    wall, processor = (value / task.count for value in passed)
                    seconds[task.way, task.what, n].append((wall, processor))
    return seconds


def _tasks(ways: Ways, n: int, rng: np.random.Generator, n_steps: int) -> Iterator[Task]:
    """What is measured for a number of workers; rows and batches are drawn anew each time."""
    n_players, n_images, engine = len(ways.roster), len(ways.suite), ways.engine(n)

    def ask(evaluator: Evaluator, rows: Coalitions) -> Callable[[], object]:
        batch = np.tile(rng.permutation(n_images), (len(rows), 1))
        return lambda: evaluator.answer(rows, batch, keep_all)

    one, star = random_rows(rng, 1, n_players), star_rows(rng, n_steps + 1, n_players)
    eight, many = random_rows(rng, 8, n_players), random_rows(rng, n_images, n_players)
    images = rng.permutation(n_images)
    shares = images[: n_images // 8 * 8].reshape(8, -1)
    yield Task("plain", "pass", 1, ways.plain(n))
    yield Task("engine", "coalition", 1, ask(engine, one))
    yield Task("engine", "marginal", n_steps, ask(engine, star))
    yield _walk(engine, rng, n_steps, n_players, n_images)
    yield Task("engine", EIGHT, 1, lambda: engine.answer(eight, shares, keep_all))
    yield Task("engine", EACH, 1, lambda: engine.answer(many, images[:, None], keep_all))
    if not ways.stacked:
        yield Task("tight", "marginal", n_steps, ask(ways.engine(n, TIGHT_BYTES), star))
    if ways.has_eager:
        yield Task("eager", "coalition", 1, lambda: ways.run_eager(one[0], n))


def _walk(
    engine: Evaluator, rng: np.random.Generator, n_steps: int, n_players: int, n_images: int
) -> Task:
    rows = walk_rows(rng, n_steps + 1, n_players)
    batch = np.tile(rng.permutation(n_images), (len(rows), 1))
    engine.answer(rows[:2], batch[:2], keep_all)  # the state that a long walk has
    return Task("engine", STEP, n_steps, lambda: engine.answer(rows[1:], batch[1:], keep_all))


def _slow_tasks(ways: Ways, n: int, rng: np.random.Generator) -> Iterator[Task]:
    """What nobody waits for twice."""
    one = random_rows(rng, 1, len(ways.roster))
    everyone = np.arange(len(ways.suite))[None]
    yield Task("masks", "coalition", 1, lambda: ways.masks(n).answer(one, everyone, keep_all))
    if not ways.stacked:
        yield Task("session", "coalition", 1, lambda: ways.run_session(one[0]))


def results_of(
    ways: Ways, seconds: dict[Key, list[tuple[float, float]]], peaks: dict[str, Peak]
) -> list[Result]:
    """Medians and their ratios."""
    both = {key: np.median(times, axis=0).tolist() for key, times in seconds.items()}
    medians = {key: wall for key, (wall, _) in both.items()}
    alone = both["plain", "pass", min(n for _, _, n in both)][1]
    rows = []
    for (way, what, n), (median, processor) in both.items():
        eager = medians.get(("eager", "coalition", n))
        peak = peaks[way].mib if way in peaks else None
        rows.append(
            Result(
                ways.subject.name, way, what, ways.device, n, median,
                median / medians["plain", "pass", n], None if eager is None else median / eager,
                peak, processor / alone,
            )
        )  # fmt: skip
    return rows


def print_peaks(name: str, peaks: dict[str, Peak]) -> None:
    """Whether memory stays under twice the plain session's plus what caches may take."""
    for way in ("engine", "tight"):
        found, limit = peaks[way], 2 * peaks["plain"].mib + peaks[way].budget_mib
        told = f"peak MiB, plain {peaks['plain'].mib:.0f}, caches {found.budget_mib:.0f}"
        _print_bar(name, told, found.mib, limit, met=found.mib <= limit)


def print_table(rows: list[Result]) -> None:
    """Every figure."""
    print(
        f"{'model':32}{'way':9}{'what':27}{'workers':>7}{'ms':>10}{'/plain':>8}{'/eager':>8}{'cpu':>7}"
    )
    for row in rows:
        eager = "" if row.ratio_to_eager is None else f"{row.ratio_to_eager:.3f}"
        print(
            f"{row.model:32}{row.way:9}{row.what:27}{row.workers:7}{row.seconds * 1e3:10.2f}"
            f"{row.ratio_to_plain:8.3f}{eager:>8}{row.cpu_ratio_to_plain:7.3f}"
        )


def print_bars(rows: list[Result]) -> None:
    """Which bars are met, on the largest number of workers."""
    most = max(row.workers for row in rows)
    times = {(r.model, r.what, r.workers): r.seconds for r in rows if r.way == "engine"}
    for row in rows:
        for (what, ratio), bar in BARS.items():
            value = getattr(row, ratio)
            if row.way == "engine" and row.what == what and row.workers == most and value:
                _print_bar(row.model, f"{what}, {ratio}", value, bar, met=value <= bar)
    for (model, what, workers), seconds in times.items():
        if workers == 1 and most == 2 and what == "marginal":
            gain = seconds / times[model, what, 2]
            _print_bar(model, "two workers over one", gain, 1.7, met=gain >= 1.7)


def _print_bar(model: str, what: str, value: float, bar: float, *, met: bool) -> None:
    print(f"{'pass' if met else 'MISS'}  {model:32}{what:44}{value:7.3f}  bar {bar:.3f}")


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=None, choices=NAMES)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--size", type=int, help="side of the images")
    parser.add_argument("--batch", type=int, help="images in a batch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=60, help="marginals in one measurement")
    parser.add_argument("--quick", action="store_true", help="two models, three repeats")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--stacked", action="store_true", help="the steps of a card, on the CPU")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.steps = 3, 16
    if arguments.models is None:
        arguments.models = list(NAMES[:2] if arguments.quick else NAMES)
    if arguments.device == "cuda" or arguments.stacked:
        arguments.workers = [1]
    return arguments


def run_model(name: str, arguments: argparse.Namespace) -> list[Result]:
    """All figures of one model."""
    subject, workers = make_subject(name, arguments.size, arguments.batch), arguments.workers
    ways = Ways(subject, device=arguments.device, stacked=arguments.stacked)
    print(f"{subject.name}: {len(ways.roster)} filters in {len(ways.roster.sites)} sites")
    print(f"  engine: {ways.engine(workers[0]).path}")
    peaks: dict[str, Peak] = {}
    if not ways.stacked:
        peaks = {way: measure_peak(way, subject) for way in ("plain", "engine", "tight")}
        print_peaks(subject.name, peaks)
    seconds = measure(ways, tuple(workers), repeats=arguments.repeats, n_steps=arguments.steps)
    return results_of(ways, seconds, peaks)


def main() -> None:
    """Measure, print, and write if asked."""
    arguments = read_arguments()
    try:
        choose_device(arguments.device)
    except DeviceError as error:
        raise SystemExit(str(error)) from None
    print(f"ONNX Runtime {onnxruntime.__version__}, {os.cpu_count()} cores, load {os.getloadavg()}")
    rows: list[Result] = []
    for name in arguments.models:
        if name == "mlperf_resnet8" and not (ZOO / f"{name}.onnx").is_file():
            print(f"{name}: no model zoo at {ZOO}, left out")
            continue
        rows += run_model(name, arguments)
    print_table(rows)
    print_bars(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
