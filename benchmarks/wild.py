"""Models that others made, and images to try them on: the zoo's and the onnx package's.

The onnx package's large models come without weights and get random kernels; its single layers get
a small classifier put behind them, so that the layer is not what makes the output.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from repairkit.core.suite import Array

ZOO = Path(os.environ.get("REPAIRKIT_ZOO", Path(__file__).resolve().parents[2] / "shared" / "zoo"))
ONNX_DATA = Path(onnx.backend.test.__file__).parent / "data"
LAYERS = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv"}
ARRAYS = {
    "cntk_mnist8": "mnist_test10k",
    "mlperf_resnet8": "cifar10_eran100_lossless",
    "tfl_resnet8_quant": "cifar10_eran100_lossless",
}
# Detectors and segmenters are judged by a metric of the user's.
USER_METRICS = {
    "ultraface_rfb320": "best_face",
    "ppocr_v3_det": "ink",
}
METRICS = '''
def best_face(outputs, labels, attributes):
    """The best score of a face in each image."""
    return outputs[..., 1].max(axis=1)


def ink(outputs, labels, attributes):
    """The share of each image that is taken for text."""
    return outputs.reshape(len(outputs), -1).mean(axis=1)
'''
RANDOM = "onnx, random kernels"
_OPEN_SIDE = 96
_CLASSES = 3


@dataclass(frozen=True)
class Wild:
    """A model file and where it comes from."""

    name: str
    path: Path
    family: str


def collect() -> list[Wild]:
    """Every model of the zoo, and every one of the onnx package that holds a convolution."""
    found = [Wild(p.stem, p, "zoo") for p in sorted((ZOO / "models").glob("*.onnx"))]
    found += [Wild(p.stem, p, RANDOM) for p in sorted((ONNX_DATA / "light").glob("*.onnx"))]
    for folder in ("pytorch-converted", "pytorch-operator", "simple"):
        for path in sorted((ONNX_DATA / folder).glob("*/model.onnx")):
            if any(node.op_type in LAYERS for node in onnx.load(path).graph.node):
                found.append(Wild(path.parent.name, path, "onnx, one layer"))
    return found


def ready(wild: Wild, folder: Path) -> Path:
    """The model as it is tried: itself, or a copy with kernels or with a classifier behind it."""
    if wild.family == "zoo":
        return wild.path
    model = onnx.load(wild.path)
    model = _with_kernels(model) if wild.family == RANDOM else _with_classifier(model)
    path = folder / f"{wild.name}.onnx"
    onnx.save(model, path)
    return path


def _with_kernels(model: ModelProto) -> ModelProto:
    rng = np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    kernels = {n.input[1] for n in model.graph.node if n.op_type == "Conv"}
    # Of the dense layers the last alone: the others are large, and may hold equal numbers.
    kernels |= {n.input[1] for n in model.graph.node[-3:] if n.op_type == "Gemm"}
    for node in list(model.graph.node):
        if node.op_type == "ConstantOfShape" and node.output[0] in kernels:
            shape = shapes[node.input[0]].tolist()
            kernel = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
            tensor = numpy_helper.from_array(kernel.astype(np.float32), node.output[0])
            model.graph.initializer.append(tensor)
            value = helper.make_tensor_value_info(node.output[0], tensor.data_type, shape)
            model.graph.input.append(value)
            model.graph.node.remove(node)
    return model


def _with_classifier(model: ModelProto) -> ModelProto:
    """Relu, the mean over positions and a dense layer behind a layer's own output."""
    graph = model.graph
    value = graph.output[0]
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    weight = np.random.default_rng(0).standard_normal((shape[1], _CLASSES)).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(weight, "head/weight"))
    if model.ir_version < 4:
        graph.input.append(helper.make_tensor_value_info("head/weight", 1, weight.shape))
    # GlobalAveragePool takes any number of positions, at every opset.
    graph.node.extend(
        [
            helper.make_node("Relu", [value.name], ["head/relu"]),
            helper.make_node("GlobalAveragePool", ["head/relu"], ["head/pool"]),
            helper.make_node("Flatten", ["head/pool"], ["head/flat"]),
            helper.make_node("MatMul", ["head/flat", "head/weight"], ["head/scores"]),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("head/scores", 1, [shape[0], _CLASSES]))
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, 7)  # the oldest that is promised
    return model


def image_input(model: ModelProto) -> tuple[str, list[int], np.dtype[Any]]:
    """The name, the shape without the batch axis and the type of the image input."""
    stored = {t.name for t in model.graph.initializer}
    value = next(i for i in model.graph.input if i.name not in stored)
    dims = [d.dim_value or _OPEN_SIDE for d in value.type.tensor_type.shape.dim[1:]]
    return value.name, dims, helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def write_data(wild: Wild, path: Path, model: ModelProto, n_images: int) -> str:
    """An `.npz` that suits the model; what is in it, in words."""
    name, shape, dtype = image_input(model)
    array = ZOO / "data" / f"{ARRAYS.get(wild.name, '')}.npz"
    if array.is_file():
        with np.load(array) as stored:
            images, labels = stored["x"][:n_images], stored["y"][:n_images]
        if dtype == np.int8:
            images = (images.astype(np.int16) - 128).astype(np.int8)
        _save(path, images, labels)
        return array.stem
    images = _generated(shape, dtype, n_images)
    _save(path, images, _answers(path.parent / f"{wild.name}.labels.onnx", model, name, images))
    return "generated images, the model's own answers as labels"


def _generated(shape: list[int], dtype: np.dtype[Any], n_images: int) -> Array:
    """Noise that is smooth at several scales, as photographs are."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((n_images, *shape))
    for axis in range(1, noise.ndim):
        if noise.shape[axis] > 4:
            noise = 0.5 * noise + np.cumsum(noise, axis) / np.sqrt(noise.shape[axis])
    noise = (noise - noise.min()) / np.ptp(noise)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return (limits.min + noise * (limits.max - limits.min)).astype(dtype)
    return (2 * noise - 1).astype(dtype)


def _answers(path: Path, model: ModelProto, name: str, images: Array) -> NDArray[np.int64]:
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    dims = session.get_inputs()[0].shape
    step = dims[0] if isinstance(dims[0], int) else 1
    answers = []
    for start in range(0, len(images), step):
        batch = images[np.minimum(np.arange(start, start + step), len(images) - 1)]
        output = session.run(None, {name: batch})[0]
        answers.append(output.reshape(len(output), -1).argmax(axis=1))
    path.unlink()
    labels = np.concatenate(answers)[: len(images)].astype(np.int64)
    n_classes = int(np.prod(output.shape[1:]))
    return (labels > 0).astype(np.int64) if n_classes == 1 else labels


def _save(path: Path, images: Array, labels: Array) -> None:
    np.savez(path, x=images, y=labels)


def opset_of(model: ModelProto) -> Iterator[str]:
    """The operator sets that a model imports, for people."""
    for opset in model.opset_import:
        yield f"{opset.domain or 'ai.onnx'} {opset.version}"
