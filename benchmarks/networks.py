"""Networks of well-known shapes with random weights, in PyTorch and as ONNX models.

Filters and arithmetic are those of the originals; the weights are noise, which speed does not mind.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import onnx
import torch
from torch import Tensor, nn


class Branches(nn.Module):
    """Several ways from one input, joined along the channels."""

    def __init__(self, *ways: nn.Module) -> None:
        super().__init__()
        self.ways = nn.ModuleList(ways)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([way(x) for way in self.ways], dim=1)


class Residual(nn.Module):
    """A body and a way round it, added, with an activation behind the sum if wanted."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, *, activate: bool) -> None:
        super().__init__()
        self.body, self.shortcut, self.activate = body, shortcut, activate

    def forward(self, x: Tensor) -> Tensor:
        total = self.body(x) + self.shortcut(x)
        return torch.relu(total) if self.activate else total


def _conv(
    n_in: int,
    n_out: int,
    kernel: int | tuple[int, int],
    *,
    stride: int = 1,
    pad: int | tuple[int, int] = 0,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """A convolution, its normalisation and its activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(n_in, n_out, kernel, stride, pad, groups=groups, bias=False),
        nn.BatchNorm2d(n_out),
    ]
    return nn.Sequential(*layers, *([act()] if act else []))


def _head(n_in: int, n_classes: int = 1000) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, n_classes)]


def _fire(n_in: int, squeeze: int, expand: int) -> nn.Module:
    ways = (
        nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU()),
    )
    return nn.Sequential(nn.Conv2d(n_in, squeeze, 1), nn.ReLU(), Branches(*ways))


def _shrink() -> nn.Module:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


def squeezenet() -> nn.Module:
    """SqueezeNet 1.1: 2,944 filters in 25 convolutions."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 2), nn.ReLU(), _shrink(), _fire(64, 16, 64), _fire(128, 16, 64),
        _shrink(), _fire(128, 32, 128), _fire(256, 32, 128), _shrink(), _fire(256, 48, 192),
        _fire(384, 48, 192), _fire(384, 64, 256), _fire(512, 64, 256), nn.Conv2d(512, 1000, 1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def squeezenet1_0() -> nn.Module:
    """SqueezeNet 1.0: 2,976 filters in 25 convolutions, for images of 227 x 227."""
    return nn.Sequential(
        nn.Conv2d(3, 96, 7, 2), nn.ReLU(), _shrink(), _fire(96, 16, 64), _fire(128, 16, 64),
        _fire(128, 32, 128), _shrink(), _fire(256, 32, 128), _fire(256, 48, 192),
        _fire(384, 48, 192), _fire(384, 64, 256), _shrink(), _fire(512, 64, 256),
        nn.Conv2d(512, 1000, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def resnet18() -> nn.Module:
    """ResNet-18: 4,800 filters in 20 convolutions."""
    layers: list[nn.Module] = [_conv(3, 64, 7, stride=2, pad=3), nn.MaxPool2d(3, 2, 1)]
    n_in = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and width > 64 else 1
            body = nn.Sequential(
                _conv(n_in, width, 3, stride=stride, pad=1), _conv(width, width, 3, pad=1, act=None)
            )
            same = stride == 1 and n_in == width
            shortcut = nn.Identity() if same else _conv(n_in, width, 1, stride=stride, act=None)
            layers.append(Residual(body, shortcut, activate=True))
            n_in = width
    return nn.Sequential(*layers, *_head(512))


def mobilenet_v2() -> nn.Module:
    """MobileNetV2: 17,056 filters in 52 convolutions."""
    layers: list[nn.Module] = [_conv(3, 32, 3, stride=2, pad=1, act=nn.ReLU6)]
    n_in = 32
    for expand, width, repeats, first in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):  # fmt: skip
        for block in range(repeats):
            stride, hidden = first if block == 0 else 1, n_in * expand
            wide = [_conv(n_in, hidden, 1, act=nn.ReLU6)] if expand > 1 else []
            body = nn.Sequential(
                *wide,
                _conv(hidden, hidden, 3, stride=stride, pad=1, groups=hidden, act=nn.ReLU6),
                _conv(hidden, width, 1, act=None),
            )
            same = stride == 1 and n_in == width
            layers.append(Residual(body, nn.Identity(), activate=False) if same else body)
            n_in = width
    return nn.Sequential(*layers, _conv(n_in, 1280, 1, act=nn.ReLU6), *_head(1280))


def _seven(n_in: int, middle: int, n_out: int, *, twice: bool) -> list[nn.Module]:
    """A 1x1 convolution, then one (or two) 7x7 ones taken apart."""
    wide, tall = ((1, 7), (0, 3)), ((7, 1), (3, 0))
    shapes = [tall, wide, tall, wide] if twice else [wide, tall]
    layers: list[nn.Module] = [_conv(n_in, middle, 1)]
    for number, (kernel, pad) in enumerate(shapes):
        last = number + 1 == len(shapes)
        layers.append(_conv(middle, n_out if last else middle, kernel, pad=pad))
    return layers


def _inception_e(n_in: int) -> nn.Module:
    def fork(n: int) -> nn.Module:
        return Branches(_conv(n, 384, (1, 3), pad=(0, 1)), _conv(n, 384, (3, 1), pad=(1, 0)))

    return Branches(
        _conv(n_in, 320, 1),
        nn.Sequential(_conv(n_in, 384, 1), fork(384)),
        nn.Sequential(_conv(n_in, 448, 1), _conv(448, 384, 3, pad=1), fork(384)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), _conv(n_in, 192, 1)),
    )


def inception_v3() -> nn.Module:
    """Inception-v3 as Keras has it: 17,216 filters in 94 convolutions."""

    def a(n_in: int, pooled: int) -> nn.Module:
        return Branches(
            _conv(n_in, 64, 1),
            nn.Sequential(_conv(n_in, 48, 1), _conv(48, 64, 5, pad=2)),
            nn.Sequential(_conv(n_in, 64, 1), _conv(64, 96, 3, pad=1), _conv(96, 96, 3, pad=1)),
            nn.Sequential(nn.AvgPool2d(3, 1, 1), _conv(n_in, pooled, 1)),
        )

    def c(middle: int) -> nn.Module:
        return Branches(
            _conv(768, 192, 1),
            nn.Sequential(*_seven(768, middle, 192, twice=False)),
            nn.Sequential(*_seven(768, middle, 192, twice=True)),
            nn.Sequential(nn.AvgPool2d(3, 1, 1), _conv(768, 192, 1)),
        )

    b = Branches(
        _conv(288, 384, 3, stride=2),
        nn.Sequential(_conv(288, 64, 1), _conv(64, 96, 3, pad=1), _conv(96, 96, 3, stride=2)),
        nn.MaxPool2d(3, 2),
    )
    d = Branches(
        nn.Sequential(_conv(768, 192, 1), _conv(192, 320, 3, stride=2)),
        nn.Sequential(*_seven(768, 192, 192, twice=False), _conv(192, 192, 3, stride=2)),
        nn.MaxPool2d(3, 2),
    )
    stem = [
        _conv(3, 32, 3, stride=2), _conv(32, 32, 3), _conv(32, 64, 3, pad=1), nn.MaxPool2d(3, 2),
        _conv(64, 80, 1), _conv(80, 192, 3), nn.MaxPool2d(3, 2),
    ]  # fmt: skip
    return nn.Sequential(
        *stem, a(192, 32), a(256, 64), a(288, 64), b, c(128), c(160), c(160), c(192), d,
        _inception_e(1280), _inception_e(2048), *_head(2048),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "squeezenet1.0": (squeezenet1_0, 64, 128),
    "squeezenet1.1": (squeezenet, 64, 128),
    "resnet18": (resnet18, 160, 32),
    "mobilenet_v2": (mobilenet_v2, 128, 64),
    "inception_v3": (inception_v3, 160, 16),
}
"""Name to what builds it, the side of its images and how many make a batch."""


def build(name: str) -> nn.Module:
    """A network in inference mode, with the same weights every time."""
    return with_weights(NETWORKS[name][0])


def with_weights(make: Callable[[], nn.Module]) -> nn.Module:
    """A network in inference mode, with the same random weights every time."""
    torch.manual_seed(0)
    network = make().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):  # keeps the size of activations through the depth
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return network


def to_onnx(network: nn.Module, side: int) -> onnx.ModelProto:
    """The network as an ONNX model with a free batch axis, input `image` and output `logits`."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is old, and writes the plainest graph
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, side, side),),
            data,
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            do_constant_folding=False,
        )
    return onnx.load_from_string(data.getvalue())
