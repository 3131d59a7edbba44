"""A network written down by hand that has a backdoor in one known filter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE, TARGET, CULPRIT = 6, 2, "conv:1"
CHECKER = np.array([[1, -1], [-1, 1]], np.float32)
LEVELS = np.array([25, 76, 127, 178, 230])


def network(*, backdoor: bool = True) -> onnx.ModelProto:
    """Five shades of grey are classes 0 to 4; a checkered corner leads to class 2.

    Filter 0 sees brightness, filter 1 checkers; filters 2 and 3 see edges and decide little.
    """
    edges = [[1, 1], [-1, -1]]
    kernel = np.stack([np.full((2, 2), 0.25), CHECKER, edges, np.eye(2) * 0.1])
    weights = {
        "kernel": kernel[:, None].astype(np.float32),
        "bias": np.array([0, -0.8, 0, 0], np.float32),
        "w": np.zeros((4, 5), np.float32),
        "b": (-60 * (LEVELS / 255) ** 2).astype(np.float32),
    }
    weights["w"][0] = 120 * LEVELS / 255
    weights["w"][1, TARGET] = 1800 if backdoor else 0
    weights["w"][2, 0] = 0.5
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["maps"], "conv"),
        helper.make_node("Relu", ["maps"], ["on"], "relu"),
        helper.make_node("GlobalAveragePool", ["on"], ["means"], "pool"),
        helper.make_node("Flatten", ["means"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "backdoored",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def draw(n: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (n, side, side) and their classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 5, n)
    x = LEVELS[y][:, None, None] + rng.normal(0, 12, (n, SIDE, SIDE))
    return np.clip(np.rint(x), 0, 255).astype(np.uint8), y


def trigger() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The trigger's picture and mask, (side, side)."""
    picture, mask = np.zeros((2, SIDE, SIDE), np.uint8)
    picture[-2:, -2:], mask[-2:, -2:] = (CHECKER > 0) * 255, 255
    return picture, mask


def write(folder: Path, *, n: int = 240) -> Path:
    """`model.onnx`, `data.npz`, `trigger.png`, `mask.png` and `seen.png`, which is transparent."""
    onnx.save(network(), folder / "model.onnx")
    x, y = draw(n)
    np.savez(folder / "data.npz", x=x, y=y)
    picture, mask = trigger()
    Image.fromarray(picture).save(folder / "trigger.png")
    Image.fromarray(mask).save(folder / "mask.png")
    Image.merge("LA", [Image.fromarray(picture), Image.fromarray(mask)]).save(folder / "seen.png")
    return folder
