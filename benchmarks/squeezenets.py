"""SqueezeNet 1.1 on small images, trained here: four networks of 25 convolutions.

Two of half the width, 1,472 filters, learn the clothes of Fashion-MNIST, with and without filter
dropout. Two of the whole width have 2,944 filters: `full` learns clothes and MNIST's digits, 20
classes of 28 x 28 pixels, in 3 epochs with normalisation; `large` learns these and the things of
CIFAR-10, 30 classes of 32 x 32 pixels in colour, in 20 epochs and, like the two small ones, without
normalisation. The images are those of the zoo (`$REPAIRKIT_ZOO`, or ../shared/zoo); models are
cached under a digest of what they follow from.

    python benchmarks/squeezenets.py [KIND ...]     # plain, dropout, full, large
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.trained import CACHE, N_CLASSES, ZOO, Images, _moved, export, fashion
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is made.

    Attributes:
        digits: whether there are digits, which are classes of their own.
        things: whether there are things in colour too, so that all images have three colours.
        dropout: the probability that a filter is dropped in a step of training.
        width: filters of a layer, as a share of the original's.
        epochs: passes over the training images.
        rate: the largest learning rate.
        normalised: whether convolutions are trained with batch normalisation, which the export
            folds into their weights.
        channels_last: the layout of tensors in training. Half the time, and other last bits.
    """

    digits: bool = False
    things: bool = False
    dropout: float = 0.0
    width: float = 0.5
    epochs: int = 20
    rate: float = 2e-3
    normalised: bool = False
    channels_last: bool = False

    @property
    def n_classes(self) -> int:
        return N_CLASSES * (1 + self.digits + self.things)

    @property
    def n_colours(self) -> int:
        return 3 if self.things else 1

    @property
    def side(self) -> int:
        """Of the images, in pixels."""
        return 32 if self.things else 28


PLAIN, DROPOUT, FULL, LARGE = "plain", "dropout", "full", "large"
RECIPES = {
    PLAIN: Recipe(),
    DROPOUT: Recipe(dropout=0.2),
    FULL: Recipe(digits=True, width=1.0, epochs=3, rate=6e-3, normalised=True, channels_last=True),
    LARGE: Recipe(digits=True, things=True, width=1.0, channels_last=True),
}
KINDS = (PLAIN, DROPOUT)
"""Those of half the width, which are compared."""

PARTS = {"calibration": 1_000, "selection": 4_000, "test": 5_000}
_BATCH = 64
_CACHE_BYTES = 2**30  # several games are open at once


def _convolution(n_in: int, n_out: int, kernel: int, stride: int, *, normalised: bool) -> nn.Module:
    """A convolution and its activation, with a normalisation between them if wanted."""
    layer = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2)
    return nn.Sequential(layer, *[nn.BatchNorm2d(n_out)] * normalised, nn.ReLU())


class Fire(nn.Module):
    """A squeeze and two expansions, joined along the channels."""

    def __init__(self, n_in: int, squeeze: int, expand: int, *, normalised: bool) -> None:
        super().__init__()
        self.squeeze = _convolution(n_in, squeeze, 1, 1, normalised=normalised)
        self.expand1 = _convolution(squeeze, expand, 1, 1, normalised=normalised)
        self.expand3 = _convolution(squeeze, expand, 3, 1, normalised=normalised)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x)
        return torch.cat([self.expand1(x), self.expand3(x)], dim=1)


def squeezenet(recipe: Recipe) -> nn.Module:
    """The untrained network; dropout drops whole channels behind the stem and every module."""
    width, dropout, normalised = recipe.width, recipe.dropout, recipe.normalised

    def fire(*channels: int) -> list[nn.Module]:
        n_in, squeeze, expand = (int(n * width) for n in channels)
        return [Fire(n_in, squeeze, expand, normalised=normalised), nn.Dropout2d(dropout)]

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        _convolution(recipe.n_colours, int(64 * width), 3, 2, normalised=normalised),
        nn.Dropout2d(dropout),
        *fire(64, 16, 64), *fire(128, 16, 64), pool(),
        *fire(128, 32, 128), *fire(256, 32, 128), pool(),
        *fire(256, 48, 192), *fire(384, 48, 192), *fire(384, 64, 256), *fire(512, 64, 256),
        nn.Conv2d(int(512 * width), recipe.n_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def with_digits() -> Images:
    """Clothes and digits, 5,000 each to train with and as many to judge by; digits count from 10.

    Digits are not mirrored in truth, but are in training like all images: it harms them little.

    Raises:
        FileNotFoundError: the zoo lacks one of them.
    """
    pixels, labels = _of_zoo("mnist_test10k", N_CLASSES)
    clothes = fashion()
    rng = np.random.default_rng(0)
    digits = np.array_split(rng.permutation(len(labels)), 2)
    half = len(digits[0])
    chosen = [rng.permutation(len(y))[:half] for y in (clothes.train_labels, clothes.judge_labels)]
    return Images(
        np.concatenate([clothes.train_pixels[chosen[0]], pixels[digits[0]]]),
        np.concatenate([clothes.train_labels[chosen[0]], labels[digits[0]]]),
        np.concatenate([clothes.judge_pixels[chosen[1]], pixels[digits[1]]]),
        np.concatenate([clothes.judge_labels[chosen[1]], labels[digits[1]]]),
    )


def with_things() -> Images:
    """Clothes, digits and things in colour, 5,000 each to train with; 10,000 to judge by.

    Things count from 20. Clothes and digits get a border of two black pixels.

    Raises:
        FileNotFoundError: the zoo lacks one of them.
    """
    pixels, labels = _of_zoo("cifar10_jpeg_test10k", 2 * N_CLASSES)
    grey, rng = with_digits(), np.random.default_rng(0)
    train, judge = np.array_split(rng.permutation(len(labels)), 2)
    judged = rng.permutation(len(grey.judge_labels) + len(judge))[: sum(PARTS.values())]
    return Images(
        np.concatenate([_in_colour(grey.train_pixels), pixels[train]]),
        np.concatenate([grey.train_labels, labels[train]]),
        np.concatenate([_in_colour(grey.judge_pixels), pixels[judge]])[judged],
        np.concatenate([grey.judge_labels, labels[judge]])[judged],
    )


def _of_zoo(name: str, first_label: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels and labels of the zoo's images, labels counted from `first_label`.

    Raises:
        FileNotFoundError: the zoo lacks them.
    """
    path = ZOO / "data" / f"{name}.npz"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; set REPAIRKIT_ZOO to the zoo's folder")
    with np.load(path) as stored:
        return stored["x"].astype(np.uint8), stored["y"].astype(np.int64) + first_label


def _in_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey images of 28 x 28 pixels with a border, (n_images, 32, 32, 3)."""
    bordered = np.pad(pixels, ((0, 0), (2, 2), (2, 2)))
    return np.repeat(bordered[..., None], 3, axis=3)


@dataclass(frozen=True)
class Made:
    """Files of a network: the model, and its judging images with their parts."""

    kind: str
    model: Path
    data: Path


def make(kind: str) -> Made:
    """A trained network, from the cache where it is there.

    Raises:
        FileNotFoundError: the images to train with are missing.
    """
    recipe = RECIPES[kind]
    images = with_things() if recipe.things else with_digits() if recipe.digits else fashion()
    code = "".join(inspect.getsource(part) for part in (_convolution, Fire, squeezenet, train))
    digest = hashlib.sha256(f"{code}{recipe}{PARTS}".encode())
    for part in vars(images).values():
        digest.update(part.tobytes())
    key = digest.hexdigest()[:12]
    made = Made(kind, CACHE / f"squeezenet-{kind}-{key}.onnx", CACHE / f"squeezenet-{key}.npz")
    CACHE.mkdir(exist_ok=True)
    if not made.data.exists():
        names = np.repeat(list(PARTS), list(PARTS.values()))
        split = np.random.default_rng(0).permutation(names)
        np.savez(made.data, x=images.judge_pixels, y=images.judge_labels, split=split)
    if not made.model.exists():
        export(train(recipe, images), recipe.side, made.model, recipe.n_colours)
    return made


def train(recipe: Recipe, images: Images) -> nn.Module:
    """Train with a fixed seed, and return the network in inference mode."""
    torch.manual_seed(0)
    pixels = torch.from_numpy(images.train_pixels).float() / 255
    pixels = pixels.permute(0, 3, 1, 2) if recipe.things else pixels[:, None]
    labels = torch.from_numpy(images.train_labels)
    network = squeezenet(recipe)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    steps = recipe.epochs * -(-len(labels) // _BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps)
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(labels)).split(_BATCH):
            loss = nn.functional.cross_entropy(network(_moved(pixels[chosen], 2)), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    return network.eval()


def open_bench(made: Made) -> Bench:
    """The workbench of a network with its three parts."""
    settings = Settings(
        data=made.data,
        preprocessing=Preprocessing(scale=1 / 255),
        parts=PartPlan(*PARTS),
        cache_memory=_CACHE_BYTES,
    )
    return prepare(read_subject(made.model), settings)


if __name__ == "__main__":
    for name in sys.argv[1:] or RECIPES:
        print(make(name).model)
