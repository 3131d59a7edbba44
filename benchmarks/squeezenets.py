"""SqueezeNet 1.1 of half the width, trained here on Fashion-MNIST with and without filter dropout.

1,472 filters in 25 convolutions on images of 28 x 28 pixels. The images are those of the zoo
(`$REPAIRKIT_ZOO`, or ../shared/zoo); models are cached under a digest of what they follow from.

    python benchmarks/squeezenets.py
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.trained import CACHE, Images, _moved, fashion
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings

PLAIN, DROPOUT = "plain", "dropout"
KINDS = {PLAIN: 0.0, DROPOUT: 0.2}
"""The probability that a filter is dropped in a step of training."""

PARTS = {"calibration": 1_000, "selection": 4_000, "test": 5_000}
_EPOCHS = 20
_BATCH = 64
_CACHE_BYTES = 2**30  # several games are open at once


class Fire(nn.Module):
    """A squeeze and two expansions, joined along the channels."""

    def __init__(self, n_in: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(n_in, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1(x)), torch.relu(self.expand3(x))], dim=1)


def squeezenet(dropout: float) -> nn.Module:
    """The untrained network; `dropout` drops whole channels behind the stem and every module."""

    def fire(n_in: int, squeeze: int, expand: int) -> list[nn.Module]:
        return [Fire(n_in, squeeze, expand), nn.Dropout2d(dropout)]

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(1, 32, 3, 2, 1), nn.ReLU(), nn.Dropout2d(dropout),
        *fire(32, 8, 32), *fire(64, 8, 32), pool(),
        *fire(64, 16, 64), *fire(128, 16, 64), pool(),
        *fire(128, 24, 96), *fire(192, 24, 96), *fire(192, 32, 128), *fire(256, 32, 128),
        nn.Conv2d(256, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


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
    images = fashion()
    code = "".join(inspect.getsource(part) for part in (Fire, squeezenet, train))
    digest = hashlib.sha256(f"{code}{KINDS[kind]}{_EPOCHS}{PARTS}".encode())
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
        _export(train(KINDS[kind], images), made.model)
    return made


def train(dropout: float, images: Images) -> nn.Module:
    """Train with a fixed seed, and return the network in inference mode."""
    torch.manual_seed(0)
    pixels = torch.from_numpy(images.train_pixels).float()[:, None] / 255
    labels = torch.from_numpy(images.train_labels)
    network = squeezenet(dropout)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    steps = _EPOCHS * -(-len(labels) // _BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(_EPOCHS):
        for chosen in torch.randperm(len(labels)).split(_BATCH):
            loss = nn.functional.cross_entropy(network(_moved(pixels[chosen], 2)), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    return network.eval()


def _export(network: nn.Module, path: Path) -> None:
    temporary = path.with_suffix(".partial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is old, and writes the plainest graph
        torch.onnx.export(
            network,
            (torch.zeros(1, 1, 28, 28),),
            temporary,
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        )
    temporary.replace(path)


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
    for name in KINDS:
        print(make(name).model)
