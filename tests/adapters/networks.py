"""Small networks of the kinds that people train with PyTorch, with weights as after training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

SIDE = 16


def _conv(n_in: int, n_out: int, size: int, **more: int) -> nn.Sequential:
    """A convolution without bias, normalised, with ReLU6."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, size, padding=size // 2, bias=False, **more),
        nn.BatchNorm2d(n_out),
        nn.ReLU6(inplace=True),
    )


class Plain(nn.Sequential):
    """Convolutions with a bias, and no normalisation."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(12, 5),
        )


class Fire(nn.Module):
    """SqueezeNet's block: one squeezes, two expand side by side."""

    def __init__(self, n_in: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(n_in, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(nn.Module):
    """Fire blocks, and a convolution that makes the output."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(inplace=True), Fire(8, 4, 8), Fire(16, 4, 8)
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(16, 5, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class Residual(nn.Module):
    """ResNet's basic block."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
            if stride > 1
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.downsample(x))


class ResNet(nn.Module):
    """Residual sums, with and without a convolution beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 8, 3)
        self.layer1 = Residual(8, 8, 1)
        self.layer2 = Residual(8, 12, 2)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer2(self.layer1(self.stem(x))).mean((2, 3)))


class Inverted(nn.Module):
    """MobileNetV2's block: widen, depthwise, narrow without an activation."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        wide = 3 * n_in
        self.conv = nn.Sequential(
            _conv(n_in, wide, 1),
            _conv(wide, wide, 3, stride=stride, groups=wide),
            nn.Conv2d(wide, n_out, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.is_residual = n_in == n_out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.is_residual else self.conv(x)


class MobileNet(nn.Module):
    """Depthwise convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(_conv(3, 6, 3), Inverted(6, 6, 1), Inverted(6, 8, 2))
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Dense(nn.Module):
    """DenseNet's layer: normalise, convolve, and keep what came in."""

    def __init__(self, n_in: int, grown: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, 2 * grown, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * grown)
        self.conv2 = nn.Conv2d(2 * grown, grown, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(y)))], 1)


class DenseNet(nn.Module):
    """Normalisation in front of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.block = nn.Sequential(Dense(8, 4), Dense(12, 4))
        self.transition = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1))
        self.norm5 = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.transition(self.block(self.conv0(x)))
        return self.classifier(torch.relu(self.norm5(x)).mean((2, 3)))


class UNet(nn.Module):
    """A segmenter: transposed convolutions on the way up, and a map of classes as output."""

    def __init__(self) -> None:
        super().__init__()
        self.down = _conv(3, 6, 3)
        self.bottom = _conv(6, 8, 3)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.merge = _conv(12, 6, 3)
        self.head = nn.Conv2d(6, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        high = self.down(x)
        low = self.bottom(nn.functional.max_pool2d(high, 2))
        return self.head(self.merge(torch.cat([high, torch.relu(self.norm(self.up(low)))], 1)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "squeezenet": SqueezeNet,
    "resnet": ResNet,
    "mobilenet": MobileNet,
    "densenet": DenseNet,
    "unet": UNet,
}


def trained(name: str, seed: int = 0) -> nn.Module:
    """A network whose normalisations have seen images, in evaluation mode."""
    torch.manual_seed(seed)
    network = NETWORKS[name]()
    for part in network.modules():
        if isinstance(part, nn.Conv2d) and part.bias is not None:
            nn.init.uniform_(part.bias, 0.1, 0.5)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, 0.3, 1.0)  # no channel is dead behind its activation
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(16, 3, SIDE, SIDE))
    return network.eval()
