"""Networks whose filters detect concepts by construction, and networks of random weights."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

COLOURS = {"red": (1, -0.5, -0.5), "green": (-0.5, 1, -0.5), "blue": (-0.4, -0.6, 1)}
ORIENTATIONS = {"vertical": 0.0, "rising": 45.0, "horizontal": 90.0, "falling": 135.0}
FREQUENCIES = {"low frequency": 8.5, "high frequency": 2.4}
SLOWEST = 17.0
"""The period of clouds, which hold all low frequencies; no filter is for it alone."""
SIDE, WINDOW = 13, 5
DETECTED = (*COLOURS, *ORIENTATIONS, *FREQUENCIES)
"""What the filters of the layer `detectors` detect, in their order."""


def waves(degrees: float, period: float, phase: float, side: int = SIDE) -> NDArray:
    """A kernel that answers to bars of one orientation, period and phase."""
    rows, columns = np.mgrid[:side, :side] - side // 2
    angle = np.deg2rad(degrees)
    along = columns * np.cos(angle) + rows * np.sin(angle)
    kernel = np.cos(2 * np.pi * along / period + phase)
    kernel *= np.exp(-(rows**2 + columns**2) / (2 * (min(side, period) / 3) ** 2))
    kernel -= kernel.mean()
    return np.asarray(kernel / np.linalg.norm(kernel))


def conv(name: str, source: str, kernel: NDArray) -> tuple[list[NodeProto], dict[str, NDArray]]:
    """A convolution that keeps the size, and its weights; edges are repeated outwards."""
    side = kernel.shape[-1] // 2
    pads = np.array([0, 0, side, side] * 2, np.int64)
    weights = {f"{name}_w": kernel.astype(np.float32)}
    nodes = [
        helper.make_node("Pad", [source, f"{name}_pads"], [f"{name}_x"], mode="edge"),
        helper.make_node("Conv", [f"{name}_x", f"{name}_w"], [f"{name}_y"], name),
    ]
    return nodes, {**weights, f"{name}_pads": pads}


def network(
    nodes: list[NodeProto], weights: dict[str, NDArray], features: str, n: int, side: int = 32
) -> ModelProto:
    """A model from nodes whose last tensor has `n` channels, to three logits."""
    rng = np.random.default_rng(0)
    weights = {**weights, "fc_w": rng.standard_normal((n, 3)).astype(np.float32)}
    nodes = [
        *nodes,
        helper.make_node("GlobalAveragePool", [features], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "fc_w"], ["logits"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "concepts",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def detectors() -> ModelProto:
    """Two layers: `parts` finds colours and bars, and `detectors` puts them together.

    A colour detector averages one colour less the others. A detector of orientation or frequency
    adds up bars of all phases, and of all orientations for a frequency, and takes off the others.
    Slow bars fill a wide window, and so do those that are taken off for them.
    """
    near = np.pad(np.ones((5, 5)) / 60, (SIDE - 5) // 2)
    kernels = [np.array(c)[:, None, None] * near for c in COLOURS.values()]
    banks: dict[str, list[int]] = {}
    for name, degrees in ORIENTATIONS.items():
        for phase in np.arange(4) * np.pi / 2:
            banks.setdefault(name, []).append(len(kernels))
            kernels.append(np.repeat(waves(degrees, 4.5, phase)[None], 3, axis=0) / 3)
    for name, period in {**FREQUENCIES, "slowest": SLOWEST}.items():
        for degrees in 22.5 + 45.0 * np.arange(4):
            for phase in np.arange(4) * np.pi / 2:
                banks.setdefault(name, []).append(len(kernels))
                kernels.append(np.repeat(waves(degrees, period, phase)[None], 3, axis=0) / 3)
    first, weights = conv("parts", "image", np.stack(kernels))
    second = np.zeros((len(DETECTED), len(kernels), WINDOW, WINDOW))
    for unit, name in enumerate(DETECTED):
        side = WINDOW if FREQUENCIES.get(name, 0) > 4.5 else 3
        window = np.pad(np.ones((side, side)) / side**2, (WINDOW - side) // 2)
        if name in COLOURS:
            second[unit, unit] = window
            continue
        for other, members in banks.items():
            gain = 1.0 if other == name else -0.2
            second[unit, members] = gain * window * 4 / len(members)
    relu = helper.make_node("Relu", ["parts_y"], ["parts_r"], "relu")
    last, more = conv("detectors", "parts_r", second)
    return network([*first, relu, *last], weights | more, "detectors_y", len(DETECTED))


def random_network(seed: int, widths: tuple[int, ...] = (16, 16), side: int = 5) -> ModelProto:
    """Convolutions of independent weights with ReLUs between them (He et al. 2015)."""
    rng = np.random.default_rng(seed)
    nodes: list[NodeProto] = []
    weights: dict[str, NDArray] = {}
    source, channels = "image", 3
    for number, width in enumerate(widths):
        spread = np.sqrt(2 / (channels * side**2))
        kernel = rng.standard_normal((width, channels, side, side)) * spread
        layer, more = conv(f"conv{number}", source, kernel)
        relu = helper.make_node("Relu", [f"conv{number}_y"], [f"act{number}"], f"relu{number}")
        nodes += [*layer, relu]
        weights |= more
        source, channels = f"act{number}", width
    return network(nodes, weights, source, widths[-1])
