"""Attentions as PyTorch's two exporters write them: heads are found, frozen and proven."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

import repairkit  # noqa: E402
from repairkit.graph.kinds.sites import survey  # noqa: E402
from tests.running import run  # noqa: E402

WIDTH, HEADS, TOKENS = 24, 4, 9


class Fused(torch.nn.Module):
    """One projection for queries, keys and values, as in timm."""

    def __init__(self) -> None:
        super().__init__()
        self.all = torch.nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Any) -> Any:
        n, tokens, width = x.shape
        parts = self.all(x).reshape(n, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        heads = torch.nn.functional.scaled_dot_product_attention(*parts.unbind(0))
        return heads.transpose(1, 2).reshape(n, tokens, width)


class Separate(torch.nn.Module):
    """Three projections, and the softmax written out, as in older models of Hugging Face."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList([torch.nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.drop = torch.nn.Dropout(0.1)

    def forward(self, x: Any) -> Any:
        n, tokens, width = x.shape
        shape = (n, tokens, HEADS, width // HEADS)
        q, k, v = (part(x).view(shape).transpose(1, 2) for part in self.parts)
        odds = torch.softmax(q @ k.transpose(-1, -2) / shape[-1] ** 0.5, dim=-1)
        return (self.drop(odds) @ v).transpose(1, 2).reshape(n, tokens, width)


class Own(torch.nn.Module):
    """PyTorch's own attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Any) -> Any:
        return self.attention(x, x, x, need_weights=False)[0]


class Vision(torch.nn.Module):
    """Patches, a class token, one attention, and a last layer on the class token."""

    def __init__(self, attention: Callable[[], torch.nn.Module]) -> None:
        super().__init__()
        self.patch = torch.nn.Conv2d(1, WIDTH, 4, 4)
        self.first = torch.nn.Parameter(torch.randn(1, 1, WIDTH))
        self.attention, self.norm = attention(), torch.nn.LayerNorm(WIDTH)
        self.last = torch.nn.Linear(WIDTH, 3)

    def forward(self, x: Any) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1)
        return self.last((x + self.attention(self.norm(x)))[:, 0])


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("attention", [Fused, Separate, Own])
def test_heads_of_exported_models_are_frozen_and_proven(
    attention: Callable[[], torch.nn.Module], dynamo: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    path, patched = tmp_path / "model.onnx", tmp_path / "patched.onnx"
    network, side = Vision(attention).eval(), 4 * 3
    sizes: dict[str, Any] = {"dynamic_axes": {"x": {0: "n"}}}
    if dynamo:
        sizes = {"dynamic_shapes": ({0: torch.export.Dim("n", min=1)},)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.randn(2, 1, side, side),), path, input_names=["x"],
            opset_version=18, dynamo=dynamo, verbose=False, **sizes,
        )  # fmt: skip
    found = survey(onnx.load(path), include=["heads"])
    (site,) = (s for s in found.sites if s.kind == "AttentionHeads")
    assert site.level_shape == (HEADS, WIDTH // HEADS)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(40, 1, side, side)).astype(np.float32), np.arange(40) % 3
    repairkit.patch(
        path, data, remove=[f"{site.name}:{head}" for head in (1, 2)], include=["heads"],
        out=patched, accept_preprocessing=True,
    )  # fmt: skip
    model = onnx.load(patched)
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(site.tensor))
    *_, heads = run(model, {"x": data[0][:6]})
    assert heads.shape == (6, HEADS, TOKENS + 1, WIDTH // HEADS)
    assert np.ptp(heads[:, 1:3], axis=(0, 2)).max() < 1e-5
    assert np.ptp(heads[:, [0, 3]], axis=(0, 2)).min() > 1e-2
