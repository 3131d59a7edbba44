"""Two small networks trained here, and the games of their filters in repairkit's own engine.

network-130 learns scikit-learn's digits of 8 x 8 pixels, network-1000 Fashion-MNIST of the zoo
(`$REPAIRKIT_ZOO`, or ../shared/zoo). A game's value is the share of the judging images answered
rightly; none of these was trained on. Models and truths are cached under digests of what they
follow from.

    python benchmarks/trained.py [NAME ...]
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from repairkit.core.suite import Array

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.long_run import Part, Truth, cached, long_run, one_by_one
from repairkit.core.game import Round
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.engine.model_game import ModelGame
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings
from repairkit.metrics.definition import auxiliary_of

CACHE = Path(__file__).parent / ".cache"
ZOO = Path(os.environ.get("REPAIRKIT_ZOO", Path(__file__).parents[2] / "shared" / "zoo"))
N_JUDGED = 2_000
N_CLASSES = 10
_BATCH = 64


@dataclass(frozen=True)
class Images:
    """Pixels (n_images, height, width) and labels, to train with and to judge by."""

    train_pixels: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    judge_pixels: NDArray[np.uint8]
    judge_labels: NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """How a network is made.

    Attributes:
        images: reads its images; raises FileNotFoundError where they are missing.
        build: makes the untrained network.
        brightest: the pixel value that becomes 1.
        epochs: passes over the training images.
        shift: pixels by which training images are moved about, at most.
        truth_rows: image passes of the long run.
    """

    images: Callable[[], Images]
    build: Callable[[], nn.Module]
    brightest: int
    epochs: int
    shift: int
    truth_rows: int


def digits() -> Images:
    """Half of the digits to train with, the other half to judge by."""
    bunch: Any = load_digits()
    pixels, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    first, second = np.array_split(order, 2)
    return Images(pixels[first], labels[first], pixels[second], labels[second])


def fashion() -> Images:
    """Fashion-MNIST, 10,000 images to train with and 10,000 to judge by."""
    parts: list[Array] = []
    for name in ("fashion_train10k", "fashion_test10k"):
        path = ZOO / "data" / f"{name}.npz"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; set REPAIRKIT_ZOO to the zoo's folder")
        with np.load(path) as stored:
            parts += [stored["x"].astype(np.uint8), stored["y"].astype(np.int64)]
    return Images(*parts)


def _layer(n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with its normalisation and activation."""
    pad = kernel // 2
    convolution = nn.Conv2d(n_in, n_out, kernel, stride, pad, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU())


def _head(n_in: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, 10)


def small() -> nn.Module:
    """130 filters in three convolutions; 0.2 million multiply-adds on 8 x 8 pixels."""
    return nn.Sequential(_layer(1, 26, 3), _layer(26, 40, 3, 2), _layer(40, 64, 3, 2), *_head(64))


def large() -> nn.Module:
    """1,000 filters in nine convolutions; 0.9 million multiply-adds on 28 x 28 pixels."""
    return nn.Sequential(
        _layer(1, 32, 3, 2),
        _layer(32, 32, 3, 2, groups=32), _layer(32, 64, 1),
        _layer(64, 64, 3, 2, groups=64), _layer(64, 128, 1),
        _layer(128, 128, 3, groups=128), _layer(128, 192, 1),
        _layer(192, 192, 3, 2, groups=192), _layer(192, 168, 1),
        *_head(168),
    )  # fmt: skip


RECIPES = {
    "network-130": Recipe(digits, small, brightest=16, epochs=60, shift=0, truth_rows=6_000_000),
    "network-1000": Recipe(fashion, large, brightest=255, epochs=25, shift=2, truth_rows=6_000_000),
}


@dataclass(frozen=True)
class Trained:
    """Files of a network: the model and its judging images."""

    name: str
    model: Path
    data: Path


def make(name: str) -> Trained:
    """A trained network, from the cache where it is there.

    Raises:
        FileNotFoundError: the images to train with are missing.
    """
    recipe = RECIPES[name]
    images = recipe.images()
    key = _key(recipe, images)
    made = Trained(name, CACHE / f"{name}-{key}.onnx", CACHE / f"{name}-{key}.npz")
    if not (made.model.exists() and made.data.exists()):
        CACHE.mkdir(exist_ok=True)
        np.savez(made.data, x=images.judge_pixels, y=images.judge_labels)
        export(train(recipe, images), images.train_pixels.shape[1], made.model)
    return made


def _key(recipe: Recipe, images: Images) -> str:
    """The digest of all that a network follows from but the libraries' versions."""
    numbers = (recipe.brightest, recipe.epochs, recipe.shift, _BATCH)
    code = [inspect.getsource(f) for f in (recipe.build, _layer, _head, train, _moved)]
    digest = hashlib.sha256(repr((numbers, code)).encode())
    for part in vars(images).values():
        digest.update(part.tobytes())
    return digest.hexdigest()[:12]


def train(recipe: Recipe, images: Images) -> nn.Module:
    """Train with a fixed seed on one thread, and return the network in inference mode."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pixels = torch.from_numpy(images.train_pixels).float()[:, None] / recipe.brightest
    labels = torch.from_numpy(images.train_labels)
    network = recipe.build()
    steps = recipe.epochs * -(-len(labels) // _BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(labels)).split(_BATCH):
            batch = _moved(pixels[chosen], recipe.shift)
            loss = nn.functional.cross_entropy(network(batch), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def _moved(batch: Tensor, shift: int) -> Tensor:
    """The batch moved by up to `shift` pixels, and mirrored in one case of two."""
    if not shift:
        return batch
    down, right = torch.randint(-shift, shift + 1, (2,)).tolist()
    moved = torch.roll(batch, (down, right), (2, 3))
    return moved.flip(3) if torch.rand(()) < 0.5 else moved


def export(network: nn.Module, side: int, path: Path, n_colours: int = 1) -> None:
    """Write the network with a free batch axis, to a temporary name first."""
    temporary = path.with_suffix(".partial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is old, and writes the plainest graph
        torch.onnx.export(
            network,
            (torch.zeros(1, n_colours, side, side),),
            temporary,
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )
    temporary.replace(path)


def open_bench(made: Trained, *, workers: int | None = None) -> Bench:
    """The workbench of a trained network and all its judging images."""
    everyone = PartPlan("all", "all", "all")
    scale = 1 / RECIPES[made.name].brightest
    settings = Settings(
        data=made.data, preprocessing=Preprocessing(scale=scale), parts=everyone, workers=workers
    )
    return prepare(read_subject(made.model), settings)


def open_game(made: Trained, *, workers: int | None = None) -> ModelGame:
    """The game of a trained network: 0/1 accuracy on the first `N_JUDGED` judging images.

    As in a scoring by `regression` or `auto`, soft hits come beside hits.
    """
    bench = open_bench(made, workers=workers)
    suite = bench.parts.selection
    judged = suite.take(np.arange(min(N_JUDGED, len(suite))))
    metrics = bench.metrics(("accuracy",))
    return bench.working.game(judged, metrics, auxiliaries=[auxiliary_of(m) for m in metrics])


def truth(made: Trained, *, n_rows: int | None = None) -> Truth:
    """By two long runs side by side, each of half the recipe's image passes, or of `n_rows`.

    Cached by the model's digest.
    """
    rows = n_rows or RECIPES[made.name].truth_rows
    digest = hashlib.sha256(made.model.read_bytes() + made.data.read_bytes()).hexdigest()[:12]
    path = CACHE / f"{made.name}-truth-{digest}-{N_JUDGED}-{rows}.npz"

    def compute() -> Truth:
        # Spawned: a fork would share the runtime's threads with its parent.
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            halves = pool.map(half_of_truth, (made, made), (rows // 2, rows // 2), (1, 2))
            return Truth.of(*halves)

    return cached(path, compute)


def half_of_truth(made: Trained, n_rows: int, seed: int) -> Part:
    """One long run on one core."""
    game = open_game(made, workers=1)
    n = game.facts.n_players
    both = np.stack([np.ones(n, bool), np.zeros(n, bool)])
    most, least = game.play(Round(both)).values[:, 0].tolist()
    shape = n, len(game.suite)
    return long_run(one_by_one(game), (most, least), shape, n_rows=n_rows, seed=seed)


def main() -> None:
    """Make what is not there yet, and say how good it is."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in sys.argv[1:] or list(RECIPES):
        found = truth(make(name))
        print(
            f"{name}: truth from {found.image_passes:,} image passes, standard errors "
            f"{np.sqrt((found.errors**2).mean()):.5f}, spread of values {found.values.std():.5f}, "
            f"reliability {found.reliability:.4f}"
        )


if __name__ == "__main__":
    main()
