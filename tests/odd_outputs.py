"""Tiny models whose outputs are neither one number nor one row of class scores per image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

_FLOAT, _INT, _BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Constants = dict[str, np.ndarray]


def _model(
    nodes: list[NodeProto],
    outputs: list[ValueInfoProto],
    constants: Constants | None = None,
    *,
    batch: int | str = "n",
    extra: tuple[tuple[str, int], ...] = (),
) -> ModelProto:
    """Two layers, `a` and `b` of 4 filters, and a last one that `nodes` make the outputs from."""
    rng = np.random.default_rng(3)
    weights = {
        "wa": rng.standard_normal((4, 2, 3, 3)).astype(np.float32),
        "wb": rng.standard_normal((4, 4, 3, 3)).astype(np.float32),
        "wl": rng.standard_normal((4, 4, 1, 1)).astype(np.float32),
        "bb": rng.standard_normal(4).astype(np.float32),
        **(constants or {}),
    }
    body = [
        helper.make_node("Conv", ["image", "wa"], ["x"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "wb", "bb"], ["y0"], "b", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y0"], ["y1"], "relu_b"),
        helper.make_node("Conv", ["y1", "wl"], ["y"], "last"),
    ]
    graph = helper.make_graph(
        body + nodes,
        "odd",
        [helper.make_tensor_value_info("image", _FLOAT, [batch, 2, 8, 8])],
        outputs,
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, v) for d, v in extra)]
    model = helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 8
    return model


def segmenter() -> ModelProto:
    w = {"wc": np.ones((3, 4, 1, 1), np.float32)}
    nodes = [helper.make_node("Conv", ["y", "wc"], ["maps"], "c")]
    return _model(nodes, [helper.make_tensor_value_info("maps", _FLOAT, ["n", 3, 8, 8])], w)


def label_map() -> ModelProto:
    """A class per pixel, as integers."""
    nodes = [helper.make_node("ArgMax", ["y"], ["classes"], "argmax", axis=1, keepdims=0)]
    return _model(nodes, [helper.make_tensor_value_info("classes", _INT, ["n", 8, 8])])


def detector() -> ModelProto:
    """Boxes of one image, thinned out in the graph: their number depends on the image."""
    w = {
        "flat": np.array([1, -1, 4], np.int64),
        "scores_shape": np.array([1, 1, -1], np.int64),
        "most": np.array([5], np.int64),
        "overlap": np.array([0.5], np.float32),
        "least": np.array([0.2], np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["y"], ["t"], "t", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["t", "flat"], ["boxes"], "boxes"),
        helper.make_node("ReduceMean", ["y"], ["m"], "mean", axes=[1], keepdims=1),
        helper.make_node("Reshape", ["m", "scores_shape"], ["scores"], "scores"),
        helper.make_node(
            "NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["chosen"], "nms"
        ),
    ]
    outputs = [
        helper.make_tensor_value_info("chosen", _INT, [None, 3]),
        helper.make_tensor_value_info("boxes", _FLOAT, [1, None, 4]),
    ]
    return _model(nodes, outputs, w, batch=1)


def pooled() -> ModelProto:
    """One number for the whole batch: no axis of images."""
    nodes = [helper.make_node("ReduceMax", ["y"], ["most"], "most", keepdims=0)]
    return _model(nodes, [helper.make_tensor_value_info("most", _FLOAT, [])])


def truth() -> ModelProto:
    nodes = [
        helper.make_node("ReduceMean", ["y"], ["m"], "m", axes=[2, 3], keepdims=0),
        helper.make_node("Greater", ["m", "limit"], ["above"], "above"),
    ]
    outputs = [helper.make_tensor_value_info("above", _BOOL, ["n", 4])]
    return _model(nodes, outputs, {"limit": np.array(0.5, np.float32)})


def sequence() -> ModelProto:
    nodes = [
        helper.make_node("ReduceMean", ["y"], ["m"], "m", axes=[2, 3], keepdims=0),
        helper.make_node("SplitToSequence", ["m"], ["rows"], "split", axis=0),
    ]
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(_FLOAT, None))
    return _model(nodes, [helper.make_value_info("rows", kind)])


def words() -> ModelProto:
    """A name for every image, behind a mapping of the strongest channel to text."""
    nodes = [
        helper.make_node("ReduceMean", ["y"], ["m"], "m", axes=[2, 3], keepdims=0),
        helper.make_node("ArgMax", ["m"], ["best"], "best", axis=1, keepdims=0),
        helper.make_node(
            "LabelEncoder", ["best"], ["name"], "names", domain="ai.onnx.ml",
            keys_int64s=[0, 1, 2, 3], values_strings=["ant", "bee", "cat", "dog"],
        ),
    ]  # fmt: skip
    outputs = [helper.make_tensor_value_info("name", TensorProto.STRING, ["n"])]
    return _model(nodes, outputs, extra=(("ai.onnx.ml", 2),))


def dictionaries() -> ModelProto:
    """A dictionary of scores for every image, beside a map of features."""
    nodes = [
        helper.make_node("ReduceMean", ["y"], ["m"], "m", axes=[2, 3], keepdims=0),
        helper.make_node(
            "ZipMap", ["m"], ["told"], "zip", domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3]
        ),
    ]
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(_INT, helper.make_tensor_type_proto(_FLOAT, []))
    )
    outputs = [
        helper.make_tensor_value_info("y", _FLOAT, ["n", 4, 8, 8]),
        helper.make_value_info("told", kind),
    ]
    return _model(nodes, outputs, extra=(("ai.onnx.ml", 2),))


def noisy() -> ModelProto:
    """Noise is added to the code, as an autoencoder does; every run draws it anew."""
    nodes = [
        helper.make_node("RandomNormalLike", ["y"], ["noise"], "noise"),
        helper.make_node("Add", ["y", "noise"], ["code"], "sum"),
    ]
    return _model(nodes, [helper.make_tensor_value_info("code", _FLOAT, ["n", 4, 8, 8])])


def hard_wired() -> ModelProto:
    """A free batch is declared, and a Reshape takes one image alone."""
    nodes = [helper.make_node("Reshape", ["y", "shape"], ["rows"], "rows")]
    outputs = [helper.make_tensor_value_info("rows", _FLOAT, [1, 16, 16])]
    return _model(nodes, outputs, {"shape": np.array([1, 16, 16], np.int64)})


ODD: dict[str, Callable[[], ModelProto]] = {
    build.__name__: build
    for build in (
        segmenter, label_map, detector, pooled, truth, sequence, words, dictionaries, noisy,
        hard_wired,
    )
}  # fmt: skip
