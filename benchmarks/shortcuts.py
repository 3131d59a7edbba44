"""Networks that learned a shortcut, and images on which it misleads them: three settings.

`digits` is the packaged sample: one network, dark-on-light digits read worse. In `marks` (Fashion-
MNIST) a bright corner came with bags in training and hardly with anything else. In `stripes`
(MNIST) a striped background came with the digits from 5 on, and dim images were rare: there is
little to gain. Networks of the latter two are trained here, anew for each seed, and cached under a
digest of what they follow from. Held-out images get their marks and backgrounds independently of
what they show, so groups are as large as each other, and there are thousands of fresh images to
tell the truth.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.trained import export

CACHE = Path(__file__).parent / ".cache"
ZOO = Path(os.environ.get("REPAIRKIT_ZOO", Path(__file__).parents[2] / "shared" / "zoo"))
SAMPLE = Path(__file__).parents[1] / "samples" / "digits"
SIDE, WIDTHS = 14, (16, 24, 32, 32)
N_TRAINED, N_EPOCHS, BATCH = 3_000, 12, 64
BAG = 8

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """A network and images that it has not seen.

    `x` (n_images, height, width), `y` and `group` are aligned; images of one `family` (the same
    digit in two polarities) must stay together.
    """

    name: str
    model: Path
    x: Pixels
    y: Labels
    group: NDArray[np.str_]
    family: NDArray[np.intp]
    brightest: int


def digits(_seed: int) -> Setting:
    """The packaged sample; the same network for every seed."""
    with np.load(SAMPLE / "digits.npz") as stored:
        columns = [stored[name] for name in ("x", "y", "polarity", "digit")]
    return Setting("digits", SAMPLE / "model.onnx", *columns, 16)


def marks(seed: int) -> Setting:
    """Bags come with a bright corner."""
    return _trained("marks", seed, ("fashion_train10k", "fashion_test10k"), _mark)


def stripes(seed: int) -> Setting:
    """High digits come with stripes, and dim images are rare."""
    return _trained("stripes", seed, ("mnist_test10k",), _stripe)


def sound(seed: int) -> Setting:
    """Garments, with nothing that comes with a class: there is nothing to repair."""
    return _trained("sound", seed, ("fashion_train10k", "fashion_test10k"), _leave)


SETTINGS: dict[str, Callable[[int], Setting]] = {
    "digits": digits,
    "marks": marks,
    "stripes": stripes,
}

Dress = Callable[[Pixels, Labels, np.random.Generator, bool], tuple[Pixels, NDArray[np.str_]]]


def _mark(
    x: Pixels, y: Labels, rng: np.random.Generator, training: bool
) -> tuple[Pixels, NDArray[np.str_]]:
    share = np.where(y == BAG, 0.95, 0.004) if training else np.full(len(y), 0.5)
    marked = rng.random(len(y)) < share
    x = x.copy()
    x[marked, :3, :3] = 255
    return x, np.where(marked, "marked", "unmarked")


def _leave(
    x: Pixels, _y: Labels, _rng: np.random.Generator, _training: bool
) -> tuple[Pixels, NDArray[np.str_]]:
    return x, np.full(len(x), "all")


def _stripe(
    x: Pixels, y: Labels, rng: np.random.Generator, training: bool
) -> tuple[Pixels, NDArray[np.str_]]:
    share = np.where(y >= 5, 0.5, 0.006) if training else np.full(len(y), 1 / 3)
    dim_share = 0.01 if training else 1 / 3
    drawn = rng.random(len(y))
    striped, dim = drawn < share, drawn >= 1 - dim_share
    striped &= ~dim
    x = x.copy()
    x[striped, ::4] = np.maximum(x[striped, ::4], 120)
    x[dim] = x[dim] // 4
    return x, np.select([striped, dim], ["striped", "dim"], "plain")


def _trained(name: str, seed: int, files: tuple[str, ...], dress: Dress) -> Setting:
    parts = [_read(file) for file in files]
    rng = np.random.default_rng([seed, 0])
    if len(parts) == 1:
        x, y = parts[0]
        order = rng.permutation(len(y))
        parts = [(x[half], y[half]) for half in (order[:N_TRAINED], order[N_TRAINED:])]
    (x, y), held_out = parts
    chosen = rng.permutation(len(y))[:N_TRAINED]
    model = CACHE / f"{name}-{seed}-{_key(dress, x)}.onnx"
    if not model.exists():
        CACHE.mkdir(exist_ok=True)
        dressed, _ = dress(x[chosen], y[chosen], rng, True)
        export(_train(dressed, y[chosen], seed), SIDE, model)
    dressed, group = dress(*held_out, np.random.default_rng([seed, 1]), False)
    return Setting(name, model, dressed, held_out[1], group, np.arange(len(group)), 255)


def _read(file: str) -> tuple[Pixels, Labels]:
    path = ZOO / "data" / f"{file}.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; set REPAIRKIT_ZOO to the zoo's folder")
    with np.load(path) as stored:
        x, y = stored["x"], stored["y"].astype(np.int64)
    x = x.reshape(len(x), SIDE, 2, SIDE, 2).mean(axis=(2, 4))
    return x.astype(np.uint8), y


def _key(dress: Dress, x: Pixels) -> str:
    numbers = (SIDE, WIDTHS, N_TRAINED, N_EPOCHS, BATCH)
    code = [inspect.getsource(f) for f in (dress, _trained, _train, _network)]
    return hashlib.sha256(repr((numbers, code)).encode() + x.tobytes()).hexdigest()[:12]


def _network() -> nn.Module:
    """Four convolutions of 104 filters with dropout of whole filters, as in the sample."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(zip((1, *WIDTHS), WIDTHS, strict=False)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        layers += [nn.Dropout2d(0.15), *([nn.MaxPool2d(2)] if number in (0, 2) else [])]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(WIDTHS[-1] * 9, 10))


def _train(x: Pixels, y: Labels, seed: int) -> nn.Module:
    """Train on one thread, so that a seed gives one network."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    pixels, labels = torch.from_numpy(x).float()[:, None] / 255, torch.from_numpy(y)
    network = _network()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-4)
    steps = N_EPOCHS * -(-len(y) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(N_EPOCHS):
        for batch in torch.randperm(len(y)).split(BATCH):
            loss = nn.functional.cross_entropy(network(pixels[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.eval()
