"""Real models and data for tests: `../shared/zoo` or `$REPAIRKIT_ZOO`, and the onnx package's."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx.backend.test
import pytest
from onnx import ModelProto, numpy_helper

from tests.running import input_name

ZOO = Path(os.environ.get("REPAIRKIT_ZOO", Path(__file__).parents[2] / "shared" / "zoo"))
ZOO_MODELS = sorted((ZOO / "models").glob("*.onnx"))
LIGHT_MODELS = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx"))

needs_zoo = pytest.mark.skipif(
    not ZOO_MODELS, reason=f"no model zoo at {ZOO} (set REPAIRKIT_ZOO to its folder)"
)


def model(name: str) -> Path:
    """A model of the zoo."""
    return ZOO / "models" / f"{name}.onnx"


def data(name: str) -> Path:
    """A data file of the zoo."""
    return ZOO / "data" / f"{name}.npz"


def load(path: Path) -> ModelProto:
    """A model; the light ones get random weights, since all of theirs are equal.

    The weights keep activations of one size through the depth, and tell classes apart.
    """
    model = onnx.load(path)
    if not path.stem.startswith("light_"):
        return model
    rng = np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    readers = {name: node.op_type for node in model.graph.node for name in node.input}
    for node in list(model.graph.node):
        if node.op_type != "ConstantOfShape":
            continue
        name, shape = node.output[0], shapes[node.input[0]].tolist()
        array = _weights(rng, shape, readers[name]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, 1, shape))
        model.graph.node.remove(node)
    return model


def _weights(rng: np.random.Generator, shape: list[int], reader: str) -> np.ndarray:
    if len(shape) > 1:
        gain = 1.5 if reader == "Conv" else 6.0
        return rng.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:]))
    if reader in ("BatchNormalization", "Unsqueeze"):
        return rng.uniform(0.5, 1.5, shape)
    return 0.1 * rng.standard_normal(shape)


def image_of(model: ModelProto, seed: int = 0) -> np.ndarray:
    """A random image of the size and type that a model takes; open sizes are 64."""
    value = next(i for i in model.graph.input if i.name == input_name(model))
    dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
    shape = [1, *(d or 64 for d in dims[1:])]
    rng = np.random.default_rng(seed)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
