"""Networks whose filters do one thing each, and images for them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, save

N, SPOILT = 900, "conv:1"


def write_network(folder: Path, head: NDArray[np.float64], bias: NDArray[np.float64]) -> Path:
    """Channels pass as they are, and a dense layer makes class scores of them."""
    n = len(head)
    weights = {
        "kernel": np.eye(n, dtype=np.float32)[:, :, None, None],
        "zero": np.zeros(n, np.float32),
        "head": head.astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "zero"], ["seen"], "conv"),
        helper.make_node("Flatten", ["seen"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "head", "bias"], ["logits"], "dense"),
    ]
    graph = helper.make_graph(
        nodes,
        "by_hand",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", n, 1, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", head.shape[1]])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture
def spoilt(tmp_path: Path) -> tuple[Path, Path]:
    """Filter 1 sees a bright corner alone, and then says class 1 whatever the image shows."""
    rng = np.random.default_rng(0)
    y, corner = np.arange(N) % 2, rng.random(N) < 0.15
    x = np.stack([2.0 * y - 1, 3.0 * corner, np.zeros(N)]).T + 0.2 * rng.normal(size=(N, 3))
    x[:, 1] *= corner
    head = np.array([[-1, 1], [-1, 1], [0.1, -0.1]], float)
    model = write_network(tmp_path, head, np.zeros(2))
    kind = np.where(corner, "bright", "dark")
    wrong = corner & (y == 0)
    np.savez(
        tmp_path / "data.npz",
        x=x.astype(np.float32)[:, :, None, None],
        y=y,
        corner=kind,
        wrong=wrong.astype(int),
    )
    with (tmp_path / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image"], *([place] for place in np.flatnonzero(wrong))])
    return model, tmp_path / "data.npz"


@pytest.fixture
def telling(tmp_path: Path) -> tuple[Path, Path]:
    """Three classes with a filter each; without its own, the third is never named."""
    rng = np.random.default_rng(1)
    y = np.arange(N) % 3
    x = np.eye(3)[y] + 0.1 * rng.normal(size=(N, 3))
    model = write_network(tmp_path, 3.0 * np.eye(3), np.array([0.0, 0.0, -2.0]))
    np.savez(
        tmp_path / "data.npz",
        x=x.astype(np.float32)[:, :, None, None],
        y=y,
        town=np.where(rng.random(N) < 0.5, "north", "south"),
    )
    return model, tmp_path / "data.npz"
