"""Would other images give the same ranking?

    python benchmarks/reliability.py [--seconds 120] [--splits 3] [--workers 2] [--json FILE]
    python benchmarks/reliability.py --model MODEL --data FILE.npz [--scale 1/255]

The judging images are split in two halves by chance. `tmab` and `auto` score the filters on each
half, as `repairkit score` would and for the same time, and the halves' values are compared: their
correlation, that of their ranks, and how many of the 20 highest and lowest filters they share. By
default the network is network-1000 of trained.py. Levels of absent filters come from all images.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import trained
from benchmarks.ranking import TOP, correlations, shared
from repairkit.core.scores import Budget
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.score.scoring import score_bench
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings

OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "tmab": {"top_k": TOP, "side": "both"},
    "auto": {"top_k": TOP, "side": "both"},
}
BETTER_IF_MORE = ("correlation", "rank_correlation", "overlap_top", "overlap_bottom")


@dataclass(frozen=True)
class Line:
    """How well the halves agree by one method; passes and seconds are means of the halves.

    Overlaps are shares of the 20 filters.
    """

    model: str
    n: int
    images_per_half: int
    method: str
    correlation: float
    rank_correlation: float
    overlap_top: float
    overlap_bottom: float
    image_passes: float
    seconds: float


def open_default(workers: int) -> Bench:
    """The workbench of network-1000.

    Raises:
        FileNotFoundError: the images that it learns from are missing.
    """
    return trained.open_bench(trained.make("network-1000"), workers=workers)


def open_given(model: Path, data: Path, scale: float, workers: int) -> Bench:
    """The workbench of a model and all images of an archive."""
    everyone = PartPlan("all", "all", "all")
    settings = Settings(
        data=data, preprocessing=Preprocessing(scale=scale), parts=everyone, workers=workers
    )
    return prepare(read_subject(model), settings)


def halves(bench: Bench, seed: int) -> tuple[Bench, Bench]:
    """Two workbenches, each of which selects by one half of the images."""
    suite = bench.parts.selection
    order = np.random.default_rng(seed).permutation(len(suite))
    middle = len(order) // 2

    def of(positions: NDArray[np.int64]) -> Bench:
        chosen = suite.take(np.sort(positions))
        parts = dataclasses.replace(bench.parts, selection=chosen)
        return dataclasses.replace(bench, parts=parts)

    return of(order[:middle]), of(order[middle : 2 * middle])


def compare(model: str, pair: tuple[Bench, Bench], method: str, seconds: float) -> Line:
    """Score by both halves, one after the other."""
    how = ScoreSettings(method, OPTIONS[method], Budget(time_limit_seconds=seconds))
    found = [score_bench(bench, how) for bench in pair]
    first, second = (scored.scores.values[:, 0] for scored in found)
    return Line(
        model,
        len(first),
        len(pair[0].parts.selection),
        method,
        *correlations(first, second),
        shared(first, second),
        shared(-first, -second),
        float(np.mean([scored.document["image_passes"] for scored in found])),
        float(np.mean([scored.document["seconds"] for scored in found])),
    )


def mean_of(found: list[Line]) -> Line:
    """The means over several ways to halve the images."""
    means = {
        field.name: float(np.mean([getattr(line, field.name) for line in found]))
        for field in dataclasses.fields(Line)
        if field.type == "float"
    }
    return dataclasses.replace(found[0], **means)


def verdict(lines: list[Line]) -> str:
    """Whether `auto` is better in each respect, and if not, in which it is not."""
    by_method = {line.method: line for line in lines}
    ours, theirs = by_method["auto"], by_method["tmab"]
    behind = [
        f"{name} {getattr(ours, name):.3f} against {getattr(theirs, name):.3f}"
        for name in BETTER_IF_MORE
        if getattr(ours, name) <= getattr(theirs, name)
    ]
    return "auto is better in each respect: " + (
        f"missed ({'; '.join(behind)})" if behind else "met"
    )


def main() -> None:
    """Run, print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, help="an ONNX file; network-1000 if left out")
    parser.add_argument("--data", type=Path, help="its labelled images")
    parser.add_argument("--scale", type=Fraction, default=Fraction(1), help="of pixels, like 1/255")
    parser.add_argument("--seconds", type=float, default=120, help="for each half and method")
    parser.add_argument("--splits", type=int, default=3, help="ways to halve; means are told")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the rows here")
    asked = parser.parse_args()
    if (asked.model is None) != (asked.data is None):
        parser.error("--model and --data go together")
    try:
        if asked.model is None:
            name, bench = "network-1000", open_default(asked.workers)
        else:
            name = asked.model.stem
            bench = open_given(asked.model, asked.data, float(asked.scale), asked.workers)
    except FileNotFoundError as error:
        parser.exit(2, f"network-1000 is left out: {error}\n")
    pairs = [halves(bench, seed) for seed in range(asked.splits)]
    print("method  halves' values: r    ranks  top-20  bottom-20  image passes  seconds")
    lines = []
    for method in OPTIONS:
        found = [compare(name, pair, method, asked.seconds) for pair in pairs]
        line = mean_of(found)
        print(
            f"{method:8s}{line.correlation:17.3f}{line.rank_correlation:9.3f}"
            f"{line.overlap_top:8.2f}{line.overlap_bottom:11.2f}{line.image_passes:14,.0f}"
            f"{line.seconds:9.1f}",
            flush=True,
        )
        lines.append(line)
    print(
        f"{name}, {lines[0].n} filters, {lines[0].images_per_half} images in each half, "
        f"mean of {asked.splits} ways to halve them"
    )
    print(verdict(lines))
    if asked.json:
        asked.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
