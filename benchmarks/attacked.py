"""Networks of three architectures trained here on Fashion-MNIST, to be attacked and repaired.

`plain` is a stack of convolutions, `residual` adds shortcuts and `separable` takes convolutions
apart; all see pixels from 0 to 1, as they are: no image is moved about or mirrored in training. The
images are the zoo's (`$REPAIRKIT_ZOO`, or ../shared/zoo); weights are cached under a digest of what
they follow from.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.trained import CACHE, Images, Recipe, fashion, train


class Residual(nn.Module):
    """Two convolutions and a way round them, added."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = _normalised(n_in, n_out, stride)
        self.second = nn.Sequential(
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out)
        )
        self.around = nn.Sequential(
            nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.around(x))


def _normalised(n_in: int, n_out: int, stride: int = 1, *, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(n_in, n_out, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(n_out), nn.ReLU())


def _separable(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    pointwise = nn.Conv2d(n_in, n_out, 1, bias=False)
    depthwise = _normalised(n_in, n_in, stride, groups=n_in)
    return nn.Sequential(depthwise, pointwise, nn.BatchNorm2d(n_out), nn.ReLU())


def _head(n_in: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, 10)


def plain() -> nn.Module:
    """208 filters in four convolutions, read by a dense layer; 3.9 million multiply-adds."""
    return nn.Sequential(
        _normalised(1, 32, 2), _normalised(32, 48, 2), _normalised(48, 64), _normalised(64, 64),
        nn.Flatten(), nn.Linear(64 * 7 * 7, 10),
    )  # fmt: skip


def residual() -> nn.Module:
    """Two residual blocks behind a convolution; 208 filters."""
    return nn.Sequential(
        _normalised(1, 16, 2), Residual(16, 32, 2), Residual(32, 32, 1), *_head(32)
    )


def separable() -> nn.Module:
    """A convolution and three that are taken apart; 368 filters."""
    return nn.Sequential(
        _normalised(1, 24, 2), _separable(24, 48, 1), _separable(48, 64, 2), _separable(64, 64, 1),
        *_head(64),
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "residual": residual,
    "separable": separable,
}
EPOCHS = 14


@dataclass(frozen=True)
class Attacked:
    """A trained network and the file of its weights."""

    name: str
    network: nn.Module
    weights: Path


def make(name: str, *, epochs: int = EPOCHS) -> Attacked:
    """A trained network in evaluation mode, from the cache where it is there.

    Raises:
        FileNotFoundError: the images to train with are missing.
    """
    images = fashion()
    recipe = Recipe(fashion, NETWORKS[name], brightest=255, epochs=epochs, shift=0, truth_rows=0)
    path = CACHE / f"attacked-{name}-{_key(recipe, images)}.pt"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        temporary = path.with_suffix(".partial")
        torch.save(train(recipe, images).state_dict(), temporary)
        temporary.replace(path)
    network = NETWORKS[name]()
    network.load_state_dict(torch.load(path, weights_only=True))
    return Attacked(name, network.eval(), path)


def _key(recipe: Recipe, images: Images) -> str:
    """The digest of all that weights follow from but the libraries' versions."""
    own = (Residual, _normalised, _separable, _head, recipe.build, train)
    told = (recipe.epochs, recipe.shift, [inspect.getsource(part) for part in own])
    digest = hashlib.sha256(repr(told).encode())
    digest.update(np.ascontiguousarray(images.train_pixels).tobytes())
    return digest.hexdigest()[:12]
