"""A small PyTorch network as an adapter gives it, its ONNX twin, and images that it reads."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from repairkit.core.framework import Layer
from repairkit.core.suite import Array

SIDE, CLASSES = 12, 4


@dataclass
class TorchModel:
    """The least that keeps `FrameworkModel`, and `patched` for convolutions with a bias."""

    network: nn.Sequential
    channels_last: bool = False
    framework: str = "pytorch"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (SIDE, SIDE, 1) if self.channels_last else (1, SIDE, SIDE)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return ()

    def outputs(self, images: Array) -> Array:
        with torch.no_grad():
            return self.network(self._tensor(images)).numpy()

    def freezing(self, *_: Any) -> Any:
        raise NotImplementedError

    def loss_gradients(
        self, images: Array, labels: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], Array]:
        shown = torch.from_numpy(images).requires_grad_()
        losses = nn.functional.cross_entropy(
            self.network(self._tensor(shown)), torch.from_numpy(labels), reduction="none"
        )
        (gradients,) = torch.autograd.grad(losses.sum(), shown)
        return losses.detach().numpy().astype(np.float64), gradients.numpy()

    def export(self, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.network,
                (torch.zeros(1, 1, SIDE, SIDE),),
                str(path),
                dynamo=False,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            )

    def patched(self, file: Any, _: Any) -> TorchModel:
        network = copy.deepcopy(self.network)
        for frozen in file.patch.frozen:
            # The exporter names a node after the module: "/0/Conv".
            layer = network[int(frozen.filter.site.split("/")[1])]
            with torch.no_grad():
                layer.weight[frozen.filter.channel] = 0
                layer.bias[frozen.filter.channel] = frozen.constant
        return TorchModel(network, self.channels_last)

    def _tensor(self, images: Any) -> torch.Tensor:
        tensor = images if isinstance(images, torch.Tensor) else torch.from_numpy(images)
        return tensor.permute(0, 3, 1, 2) if self.channels_last else tensor


def draw_pixels(n: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noisy images with a faint bright quarter, which is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    pixels = rng.integers(60, 160, (n, SIDE, SIDE))
    half = SIDE // 2
    for image, label in zip(pixels, labels, strict=True):
        row, column = half * (label // 2), half * (label % 2)
        image[row : row + half, column : column + half] += 25
    return pixels.astype(np.uint8), labels


def trained(seed: int, width: int = 8) -> nn.Sequential:
    """A network that reads `draw_pixels` well, on pixels from 0 to 1, mean 0.5, deviation 0.25."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, 2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(width * (SIDE // 2) ** 2, CLASSES),
    )  # fmt: skip
    pixels, labels = draw_pixels(1024, seed)
    images = (torch.from_numpy(pixels).float()[:, None] / 255 - 0.5) / 0.25
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(3):
        for rows in torch.randperm(len(labels)).split(64):
            loss = nn.functional.cross_entropy(
                network(images[rows]), torch.from_numpy(labels)[rows]
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network.eval()
