"""What a small game costs on small models: CPU seconds of a leave-one-out of a few dozen filters.

The models hold a few megabytes and yet much arithmetic or many nodes: a densely joined network at
224x224, a detector with many heads whose batch is fixed at one, and a fully convolutional network
on large images. Their weights are noise from a seed, which speed does not mind.

    python benchmarks/small_models.py [dense detector wide]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.score.scoring import score
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings

_IMAGES = 8


@dataclass
class Builder:
    """A graph under way; every method gives the name of what it adds."""

    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name, **attributes))
        return name

    def store(self, array: np.ndarray, name: str) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, n_in: int, n_out: int, side: int, *, stride: int = 1) -> str:
        scale = np.sqrt(2 / (n_in * side * side))
        kernel = self.rng.standard_normal((n_out, n_in, side, side)) * scale
        number = len(self.nodes)
        names = [
            self.store(kernel.astype(np.float32), f"w{number}"),
            self.store(np.zeros(n_out, np.float32), f"b{number}"),
        ]
        pad = side // 2
        return self.add("Conv", x, *names, pads=[pad] * 4, strides=[stride] * 2)

    def norm(self, x: str, n: int) -> str:
        """A batch normalisation that folds into no convolution, since it comes before one."""
        number = len(self.nodes)
        ones = self.rng.uniform(0.8, 1.2, n).astype(np.float32)
        zeros = np.zeros(n, np.float32)
        names = [self.store(a, f"n{number}{i}") for i, a in enumerate((ones, zeros, zeros, ones))]
        return self.add("BatchNormalization", x, *names)

    def head(self, x: str, n_in: int, n_classes: int) -> str:
        pooled = self.add("Flatten", self.add("GlobalAveragePool", x))
        number = len(self.nodes)
        kernel = self.rng.standard_normal((n_in, n_classes)).astype(np.float32) / np.sqrt(n_in)
        names = [
            self.store(kernel.astype(np.float32), f"w{number}"),
            self.store(np.zeros(n_classes, np.float32), f"b{number}"),
        ]
        return self.add("Gemm", pooled, *names)

    def model(self, output: str, side: int, *, batch: int | str) -> ModelProto:
        """The model, its output's sizes left to the runtime but for the batch."""
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, side, side])
        result = helper.make_empty_tensor_value_info(output)
        graph = helper.make_graph(self.nodes, "small", [image], [result], self.weights)
        opset = helper.make_opsetid("", 17)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def dense(side: int = 224) -> ModelProto:
    """A DenseNet-121 of an eighth of the width: 120 convolutions, 2.2 MB."""
    b, growth = Builder(), 9
    x, n = b.add("Relu", b.conv("image", 3, 18, 7, stride=2)), 18
    x = b.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for block, n_layers in enumerate((6, 12, 24, 16)):
        for _ in range(n_layers):
            y = b.conv(b.add("Relu", b.norm(x, n)), n, 4 * growth, 1)
            y = b.conv(b.add("Relu", b.norm(y, 4 * growth)), 4 * growth, growth, 3)
            x, n = b.add("Concat", x, y, axis=1), n + growth
        if block < 3:
            x, n = b.conv(b.add("Relu", b.norm(x, n)), n, n // 2, 1), n // 2
            x = b.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return b.model(b.head(b.add("Relu", b.norm(x, n)), n, 2), side, batch="batch")


def detector(side: int = 256) -> ModelProto:
    """Twelve stages with a box and a score head at every other one, joined; one image at a time."""
    b, x, n, found = Builder(), "image", 3, []
    for stage in range(12):
        width = 16 * (1 + stage // 2)
        x = b.add("Relu", b.conv(x, n, width, 3, stride=2 if stage % 2 == 0 else 1))
        n = width
        if stage % 2:
            for channels in (4, 2):
                y = b.conv(b.add("Relu", b.conv(x, n, 32, 3)), 32, 3 * channels, 3)
                y = b.add("Transpose", y, perm=[0, 2, 3, 1])
                shape = b.store(np.array([1, -1, channels]), f"shape{len(b.nodes)}")
                found.append((channels, b.add("Reshape", y, shape)))
    boxes = b.add("Concat", *(y for c, y in found if c == 4), axis=1)
    scores = b.add("Softmax", b.add("Concat", *(y for c, y in found if c == 2), axis=1), axis=2)
    # One number per image, so that a metric of repairkit's own can judge it.
    best = b.add("ReduceMax", scores, axes=[1], keepdims=0)
    mean = b.add(
        "Mul",
        b.add("ReduceMean", boxes, axes=[1, 2], keepdims=0),
        b.store(np.zeros(1, np.float32), "none"),
    )
    unit = b.add("Unsqueeze", mean, b.store(np.array([1]), "axis"))
    return b.model(b.add("Add", best, unit), side, batch=1)


def wide(side: int = 1024) -> ModelProto:
    """Fully convolutional on 1024x1024 images: six convolutions down, four up."""
    b, x, n = Builder(), "image", 3
    for width, stride in ((16, 2), (24, 2), (32, 2), (48, 1), (64, 2), (64, 1)):
        x, n = b.add("Relu", b.conv(x, n, width, 3, stride=stride)), width
    for width in (48, 32, 24, 16):
        scales = b.store(np.array([1, 1, 2, 2], np.float32), f"scales{len(b.nodes)}")
        x = b.add("Resize", x, "", scales, mode="nearest")
        x, n = b.add("Relu", b.conv(x, n, width, 3)), width
    return b.model(b.head(x, n, 2), side, batch="batch")


MODELS: dict[str, Callable[[], ModelProto]] = {"dense": dense, "detector": detector, "wide": wide}
"""Name to what builds the model."""

SITES = {"dense": "conv41?", "detector": "conv6*", "wide": "conv22"}
"""Late sites of a few dozen filters."""

_SIDES = {"dense": 224, "detector": 256, "wide": 1024}


def run(name: str) -> None:
    """Score one model's few filters, and print what that took."""
    with tempfile.TemporaryDirectory(prefix="repairkit-small-") as folder:
        model, data = Path(folder) / f"{name}.onnx", Path(folder) / "images.npz"
        onnx.save(MODELS[name](), model)
        side, rng = _SIDES[name], np.random.default_rng(0)
        images = rng.standard_normal((_IMAGES, 3, side, side)).astype(np.float32)
        np.savez(data, x=images, y=np.arange(_IMAGES) % 2)
        before = os.times()
        settings = Settings(data=data, sites=(SITES[name],), workers=1, accept_preprocessing=True)
        scored = score(read_subject(model), settings, ScoreSettings("leave-one-out"))
        after = os.times()
    used = after.user + after.system - before.user - before.system
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    told = scored.document
    sys.stdout.write(
        f"{name:9} {len(scored.bench.roster):3} filters, {told['evaluations']:3} coalitions: "
        f"{used:6.1f} CPU s, peak {peak:.0f} MiB, by {told['engine']}\n"
    )


def main() -> None:
    """Each model in a process of its own, so that memory is told apart."""
    names = sys.argv[1:] or list(MODELS)
    if len(names) == 1:
        run(names[0])
        return
    for name in names:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
