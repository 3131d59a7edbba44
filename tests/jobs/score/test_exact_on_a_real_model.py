"""Exact values on a model and images that others made, against an enumeration in NumPy alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import comb
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import Answer
from tests.running import run
from tests.zoo import data, model, needs_zoo

N = 16


def site_values(x: np.ndarray) -> np.ndarray:
    """What Convolution110 yields behind its bias, image by image: (n, 16, 14, 14)."""
    tapped = onnx.load(model("cntk_mnist8"))
    tapped.graph.output.append(onnx.helper.make_empty_tensor_value_info("Plus112_Output_0"))
    return np.concatenate([run(tapped, {"Input3": image[None]})[1] for image in x])


def pooled(channels: np.ndarray) -> np.ndarray:
    """ReLU and the 3x3 maximum of stride 3: (n, c, 14, 14) to (n, c, 16)."""
    positive = np.maximum(channels, 0)[:, :, :12, :12]
    n, c = positive.shape[:2]
    return positive.reshape(n, c, 4, 3, 4, 3).max(axis=(3, 5)).reshape(n, c, 16)


def enumerate_values(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Shapley values of the 16 filters for accuracy, V(all) and V(none), by enumeration."""
    stored = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in onnx.load(model("cntk_mnist8")).graph.initializer
    }
    weights = stored["Parameter193"].astype(np.float64).reshape(N, 16, 10)
    values = site_values(x)
    mean = values.mean(axis=(0, 2, 3), dtype=np.float64).astype(np.float32)
    present = np.einsum("ncp,cpk->cnk", pooled(values).astype(np.float64), weights)
    absent = np.einsum("c,cpk->ck", np.maximum(mean, 0).astype(np.float64), weights)
    gain = (present - absent[:, None]).reshape(N, -1)
    base = (absent.sum(0) + stored["Parameter194"].astype(np.float64).reshape(10))[None, None]
    masks = (np.arange(2**N)[:, None] >> np.arange(N)) & 1
    worth = np.empty(2**N)
    for start in range(0, 2**N, 1024):
        logits = (masks[start : start + 1024] @ gain).reshape(-1, len(x), 10) + base
        worth[start : start + 1024] = (logits.argmax(2) == y).mean(1)
    sizes = masks.sum(1)
    shares = np.zeros(N)
    for player in range(N):
        without = np.flatnonzero(masks[:, player] == 0)
        weight = np.array([1 / (N * comb(N - 1, s)) for s in sizes[without].tolist()])
        shares[player] = weight @ (worth[without | (1 << player)] - worth[without])
    return shares, float(worth[-1]), float(worth[0])


@needs_zoo
@pytest.mark.slow
def test_exact_values_equal_an_enumeration_written_independently(
    repairkit: Callable[..., Answer], tmp_path: Path
) -> None:
    stored = np.load(data("mnist_test10k"))
    x, y = stored["x"][:500, None].astype(np.float32), stored["y"][:500]
    np.savez(tmp_path / "first500.npz", x=x, y=y)
    answer = repairkit(
        "score",
        model("cntk_mnist8"),
        "--data",
        tmp_path / "first500.npz",
        "--method",
        "exact",
        "--sites",
        "Convolution110",
        "--metric",
        "accuracy",
        "--calibration",
        "all",
        "--selection",
        "all",
        "--json",
    )
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    found = {row["channel"]: row["value"] for row in document["scores"]}
    expected, everyone, nobody = enumerate_values(x, y)
    ends = document["metrics"]["accuracy"]
    assert ends == pytest.approx({"all": everyone, "none": nobody}, abs=1e-12)
    np.testing.assert_allclose([found[c] for c in range(N)], expected, rtol=0, atol=1e-9)
    assert sum(found.values()) == pytest.approx(everyone - nobody, abs=1e-9)
