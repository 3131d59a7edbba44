"""Sound files to spoil: models of every kind of layer, the zoo's, one of each other input."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests import models
from tests.zoo import LIGHT_MODELS, ZOO_MODELS

_MOST_BYTES = 700_000


def branching() -> onnx.ModelProto:
    """A convolution, an `If` around another one, a function, and a folded shape."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 2, 3, 3)).astype(np.float32),
        "v": rng.standard_normal((4, 4, 1, 1)).astype(np.float32),
        "yes": np.array(True),
        "sizes": np.array([4, 4, 1, 1]),
    }

    def body(name: str, kind: str, inputs: list[str]) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph(
            [helper.make_node(kind, inputs, [f"{name}_out"], name)], name, [], [out]
        )

    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], "conv"),
        helper.make_node(
            "If",
            ["yes"],
            ["z"],
            "branch",
            then_branch=body("then", "Conv", ["x", "v"]),
            else_branch=body("else", "Identity", ["x"]),
        ),
        helper.make_node(
            "ConstantOfShape",
            ["sizes"],
            ["k"],
            "filled",
            value=numpy_helper.from_array(np.array([0.5], np.float32)),
        ),
        helper.make_node("Expand", ["k", "sizes"], ["kk"], "spread"),
        helper.make_node("Conv", ["z", "kk"], ["y"], "second"),
        helper.make_node("Same", ["y"], ["same"], "call", domain="own"),
    ]
    model = models.model_of(nodes + models.head("same", weights, 4), weights)
    same = helper.make_function(
        "own",
        "Same",
        ["a"],
        ["b"],
        [helper.make_node("Identity", ["a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    model.functions.append(same)
    model.opset_import.append(helper.make_opsetid("own", 1))
    return model


@cache
def model_files() -> tuple[bytes, ...]:
    """Models as bytes, small ones only; the tiny ones first."""
    tiny = [make().SerializeToString() for make in models.LAYERS.values()]
    tiny += [models.dense_units().SerializeToString(), branching().SerializeToString()]
    found = [*ZOO_MODELS, *LIGHT_MODELS]
    return (*tiny, *(p.read_bytes() for p in found if p.stat().st_size < _MOST_BYTES))


def arrays() -> dict[str, np.ndarray]:
    return {
        "x": models.images(12, seed=3),
        "y": np.arange(12) % 3,
        "group": np.array(["a", "b"] * 6),
        "age": np.linspace(3, 60, 12),
    }


@cache
def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays())
    return file.getvalue()


@cache
def archive_members() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive())) as stored:
        return {name: stored.read(name) for name in stored.namelist()}


@cache
def images() -> tuple[bytes, ...]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    found = []
    for kind in ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        found.append(file.getvalue())
    return tuple(found)


PROJECT = b"""model = "model.onnx"
data = "data.npz"
groups = ["group"]
classes = ["one", "two", "three"]
metrics = ["accuracy"]
output = "logits"
seed = 3

[preprocessing]
resize = [6, 6]
crop = 6
color = "rgb"
scale = "1/255"
mean = [0.5, 0.5]
std = [0.2, 0.3]
layout = "nchw"

[parts]
calibration = 0.3
selection = "all"
test = "test"
"""

MANIFEST = b"""path,label,split,group,age
0.png,0,train,a,31
1.png,1,train,"b, c",42
2.png,2,test,a,5
3.png,1,test,b,0.5
"""


def write_model(folder: Path) -> Path:
    """The sound model that the other readers' inputs go with."""
    path = folder / "model.onnx"
    path.write_bytes(models.own_bias().SerializeToString())
    return path
