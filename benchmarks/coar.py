"""Per-image attributions from kept rows against COAR, at equal forward passes.

COAR (Shah, Ilyas & Madry, "Decomposing and Editing Predictions by Modeling Model Computation", ICML
2024) ablates random sets of a share alpha of a model's components, runs every ablated model on
every example, and fits a linear model per example: its coefficients are the components'
attributions. They are judged by how well they predict: the correlation, over held-out random sets
of 5 % of the components, of the predicted with the true output, which is the margin of the right
class (its logit less the log of the sum of the others' exponentials).

Here both sides play the same game: absent filters yield their means, and the output is that margin.
repairkit scores with `--keep-rows`, each row a coalition of its own on one image, and is asked for
each image alone: `repairkit ask RUN --metric benchmarks.coar:margin --images NUMBER`. COAR spends
the same passes on coalitions that all images share. Its linear model is fitted by least squares, as
it is defined, and beside that by ridge with cross-validation, which is not COAR's but shows what
comes of the solver. Intervals are over images (bootstrap).

    python benchmarks/coar.py [network-130 network-1000 resnet8] [--images 20] [--per-filter 1 2]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

sys.path.insert(0, str(Path(__file__).parent.parent))

import repairkit
from benchmarks.trained import RECIPES, ZOO, make
from repairkit.core.errors import DataError
from repairkit.core.game import Round
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.engine.model_game import ModelGame
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject

Floats = NDArray[np.float64]

METRIC = "benchmarks.coar:margin"
ALPHA = 0.05
N_HELD_OUT = 200
N_CALIBRATION = 500
PER_FILTER = (0.5, 1, 2, 4)
WAYS: Mapping[str, tuple[str, dict[str, object]]] = {
    "regression": ("regression", {}),
    "repair": ("repair", {"entry_cost": 1.0}),
    "repair at 5 %": (
        "repair",
        {"entry_cost": 1.0, "least_removed": ALPHA, "most_removed": ALPHA},
    ),
}
"""Methods of `score`, and their settings: an image with one filter less costs a pass here."""
_LEAST = 1e-7
_DRAWS = 2000


def margin(
    outputs: NDArray[Any], labels: NDArray[Any], attributes: Mapping[str, Any]
) -> NDArray[np.float64]:
    """The logit of the right class less the log of the sum of the others' exponentials."""
    del attributes
    scores = outputs.astype(np.float64).reshape(len(outputs), -1)
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        scores = np.log(np.maximum(scores, _LEAST))
    rows = np.arange(len(scores))
    right = scores[rows, labels]
    others = scores.copy()
    others[rows, labels] = -np.inf
    highest = others.max(axis=1)
    rest: Floats = right - highest - np.log(np.exp(others - highest[:, None]).sum(axis=1))
    return rest


@dataclass(frozen=True)
class Task:
    """A network, and the images whose predictions are decomposed: `numbers` in its data."""

    name: str
    model: Path
    settings: repairkit.Settings
    numbers: NDArray[np.int64]


def make_task(name: str, folder: Path, n_images: int) -> Task:
    """The network, some of its judging images for the task, and others for the means.

    Raises:
        FileNotFoundError: the zoo is missing.
    """
    if name in RECIPES:
        made = make(name)
        model, scale = made.model, 1 / RECIPES[name].brightest
        stored = np.load(made.data)
    else:
        model, scale = ZOO / "models" / "mlperf_resnet8.onnx", 1.0
        stored = np.load(ZOO / "data" / "cifar10_jpeg_test10k.npz")
    order = np.random.default_rng(0).permutation(len(stored["y"]))[: N_CALIBRATION + n_images]
    split = np.array(["calibration"] * N_CALIBRATION + ["selection"] * n_images)
    data = folder / f"{name}.npz"
    np.savez(data, x=stored["x"][order], y=stored["y"][order], split=split)
    settings = repairkit.Settings(
        data=data,
        metrics=(METRIC,),
        parts=PartPlan(test="none"),
        preprocessing=Preprocessing(scale=scale),
        accept_preprocessing=True,
    )
    return Task(name, model, settings, np.arange(N_CALIBRATION, N_CALIBRATION + n_images))


def open_game(task: Task) -> ModelGame:
    """The game of the network on the images."""
    bench = prepare(read_subject(task.model), task.settings)
    return bench.working.game(bench.parts.selection, bench.metrics(bench.metric_names))


def random_sets(n_rows: int, n_players: int, seed: int) -> NDArray[np.bool_]:
    """Coalitions that lack a random share alpha of the players each."""
    rng = np.random.default_rng(seed)
    size = max(round(ALPHA * n_players), 1)
    coalitions = np.ones((n_rows, n_players), bool)
    for row in coalitions:
        row[rng.permutation(n_players)[:size]] = False
    return coalitions


def coar(coalitions: NDArray[np.bool_], outputs: Floats) -> tuple[Floats, Floats]:
    """Attributions (n_images, n_players), by least squares and by ridge."""
    present = coalitions.astype(np.float64)
    centred, target = present - present.mean(axis=0), outputs - outputs.mean(axis=0)
    plain = np.linalg.lstsq(centred, target, rcond=None)[0].T
    penalties = np.geomspace(1e-3, 1e4, 22)
    return plain, np.stack([RidgeCV(penalties).fit(centred, column).coef_ for column in target.T])


def ours(task: Task, way: str, n_rows: int, folder: Path) -> tuple[Floats, int, float]:
    """Attributions by `ask`, the image passes of the run, and the seconds of an asking."""
    method, options = WAYS[way]
    run = folder / f"{task.name}-{way}-{n_rows}".replace(" ", "-")
    scored = repairkit.score(
        task.model,
        method=method,
        settings=task.settings,
        options=options,
        max_evaluations=n_rows,
        out=run,
        keep_rows=True,
    )
    began = time.monotonic()
    values = []
    for number in task.numbers.tolist():
        try:
            values.append(repairkit.ask(run, metric=METRIC, images=[number]).scores.values[:, 0])
        except DataError:  # no row saw it
            values.append(np.zeros(len(scored.bench.roster)))
    seconds = (time.monotonic() - began) / len(task.numbers)
    return np.stack(values), scored.document["image_passes"], seconds


def correlations(values: Floats, held_out: NDArray[np.bool_], truth: Floats) -> Floats:
    """Pearson's, of predicted and true outputs, per image; 0 where a prediction is constant."""
    predicted = -(~held_out).astype(np.float64) @ values.T
    first, second = predicted - predicted.mean(axis=0), truth - truth.mean(axis=0)
    scale = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    found: Floats = np.divide(
        (first * second).sum(axis=0), scale, out=np.zeros(len(scale)), where=scale > 1e-12
    )
    return found


def shown(found: Floats) -> str:
    """The mean over images with a 95 % interval."""
    rng = np.random.default_rng(0)
    means = found[rng.integers(0, len(found), (_DRAWS, len(found)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{found.mean():.2f} [{low:.2f}, {high:.2f}]"


def study(task: Task, folder: Path, budgets: Sequence[float]) -> None:
    """Print a row of the table for each budget and way."""
    played = open_game(task)
    n, n_images = played.facts.n_players, len(task.numbers)
    held_out = random_sets(N_HELD_OUT, n, seed=1)
    truth = played.play(Round(held_out)).scores[:, :, 0]
    print(f"\n{task.name}: {n} filters, {n_images} images, sets of {(~held_out[0]).sum()}\n")
    print("| rows | passes per image and filter | ask | COAR | its rows, ridge | an asking |")
    print("|---|---|---|---|---|---|", flush=True)
    for per_filter in budgets:
        for way in WAYS:
            values, passes, seconds = ours(task, way, int(per_filter * n * n_images), folder)
            coalitions = random_sets(max(passes // n_images, 1), n, seed=2)
            outputs = played.play(Round(coalitions)).scores[:, :, 0]
            cells = [values, *coar(coalitions, outputs)]
            line = " | ".join(shown(correlations(each, held_out, truth)) for each in cells)
            paid = passes / n_images / n
            print(f"| {way} | {paid:.2f} | {line} | {seconds:.1f} s |", flush=True)


def main() -> None:
    """Study the networks that are named."""
    parser = argparse.ArgumentParser(description="See the head of this file.")
    parser.add_argument("names", nargs="*", default=[*RECIPES, "resnet8"])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--per-filter", type=float, nargs="+", default=PER_FILTER)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.names:
            try:
                task = make_task(name, Path(folder), asked.images)
            except FileNotFoundError as error:
                print(f"\n{name}: {error}")
                continue
            study(task, Path(folder), asked.per_filter)


if __name__ == "__main__":
    main()
