"""What a graph shows: how its output ends, what a position sees, what an image takes in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repairkit.core.suite import Array
from repairkit.engine.runner import Runner
from repairkit.graph.protos import GraphIndex
from repairkit.graph.structure import bytes_of_largest_node, ending_of, receptive_field
from repairkit.jobs.setup import preparing as bench_module
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests import models
from tests.running import run

# How an output ends


WEIGHTS = {
    "w": np.ones((2, 3), np.float32),
    "b": np.ones(3, np.float32),
    "scale": np.float32(2),
    "shape": np.array([-1, 3]),
    "axes": np.array([2, 3]),
}
GEMM = ("Gemm", "x w b", {})


def model(*operators: tuple[str, str, dict[str, object]]) -> ModelProto:
    """Operators in a row; each input list names weights, and `.` what came before."""
    nodes, last = [], "x"
    for number, (kind, inputs, attributes) in enumerate(operators):
        names = [last if name == "." else name for name in inputs.split()]
        domain = "ai.onnx.ml" if kind == "TreeEnsembleClassifier" else ""
        nodes.append(helper.make_node(kind, names, [f"t{number}"], domain=domain, **attributes))
        last = f"t{number}"
    graph = helper.make_graph(
        nodes,
        "ending",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in WEIGHTS.items()],
    )
    return helper.make_model(graph)


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        ([GEMM], "linear"),
        ([GEMM, ("Identity", ".", {})], "linear"),
        ([("MatMul", "x w", {}), ("Add", ". b", {}), ("Mul", "scale .", {})], "linear"),
        ([GEMM, ("Softmax", ".", {})], "softmax"),
        ([GEMM, ("Softmax", ".", {}), ("Reshape", ". shape", {}), ("Cast", ".", {"to": 1})],
         "softmax"),
        ([GEMM, ("Sigmoid", ".", {}), ("Squeeze", ". axes", {})], "sigmoid"),
        ([GEMM, ("LogSoftmax", ".", {})], "log-softmax"),
        ([GEMM, ("Softmax", ".", {}), ("Log", ".", {})], "log-softmax"),
        ([GEMM, ("Softmax", ".", {}), ("Mul", ". scale", {})], None),
        ([GEMM, ("Tanh", ".", {})], None),
        ([GEMM, ("Relu", ".", {})], None),
        ([GEMM, ("Sigmoid", ".", {}), ("Log", ".", {})], None),
        ([("TreeEnsembleClassifier", "x", {"post_transform": "LOGISTIC"})], "sigmoid"),
        ([("TreeEnsembleClassifier", "x", {"post_transform": "NONE"})], None),
    ],
)  # fmt: skip
def test_the_last_operator_that_does_something_tells(
    operators: list[tuple[str, str, dict[str, object]]], expected: str | None
) -> None:
    found = ending_of(model(*operators), f"t{len(operators) - 1}")
    assert (found and found[0]) == expected


def test_an_input_that_is_handed_on_tells_nothing() -> None:
    assert ending_of(model(("Identity", "x", {})), "t0") is None


# What a position sees, against what really reaches it when pixels change


SIDE = 24


def chain(*layers: tuple[str, dict]) -> ModelProto:
    """Layers of one channel one after another; kernels of ones."""
    nodes, weights, name = [], [], "image"
    for number, (kind, attributes) in enumerate(layers):
        inputs, output = [name], f"t{number}"
        if kind == "Conv":
            kernel = np.ones((1, 1, *attributes["kernel_shape"]), np.float32)
            weights.append(numpy_helper.from_array(kernel, f"w{number}"))
            inputs.append(f"w{number}")
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        name = output
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, "h", "w"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


CHAINS = {
    "one": [("Conv", {"kernel_shape": [3, 5]})],
    "strided": [
        ("Conv", {"kernel_shape": [3, 3], "strides": [2, 1]}),
        ("Relu", {}),
        ("Conv", {"kernel_shape": [3, 3]}),
    ],
    "dilated": [
        ("Conv", {"kernel_shape": [3, 3], "dilations": [2, 3]}),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", {"kernel_shape": [2, 1]}),
    ],
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_position_sees_what_changes_it(name: str) -> None:
    model = chain(*CHAINS[name])
    output = model.graph.output[0].name
    images = np.ones((SIDE * SIDE + 1, 1, SIDE, SIDE), np.float32)
    pixels = np.arange(SIDE * SIDE)
    images[pixels, 0, pixels // SIDE, pixels % SIDE] = 5  # the last one stays as it is
    answers = run(model, {"image": images})[0][:, 0]
    answers = answers[:, answers.shape[1] // 2, answers.shape[2] // 2]
    changes = (answers[:-1] != answers[-1]).reshape(SIDE, SIDE)
    seen = tuple(int(np.ptp(np.flatnonzero(changes.any(axis=axis)))) + 1 for axis in (1, 0))
    assert receptive_field(GraphIndex(model), output, "image") == seen


def test_behind_a_pooling_of_everything_all_is_seen() -> None:
    model = chain(("Conv", {"kernel_shape": [3, 3]}), ("GlobalAveragePool", {}))
    assert receptive_field(GraphIndex(model), "t1", "image") is None
    assert receptive_field(GraphIndex(model), "t0", "image") == (3, 3)


# What an image takes in memory: known from shapes alone, it bounds the images of a run


def wide(side: int | str = "side") -> ModelProto:
    """Five channels at the images' size, then one number for each of two classes."""
    kernel = np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32)
    head = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], "conv", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], "pool"),
        helper.make_node("Flatten", ["c"], ["d"], "flat"),
        helper.make_node("MatMul", ["d", "h"], ["logits"], "head"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, side, side])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])
    weights = [numpy_helper.from_array(kernel, "w"), numpy_helper.from_array(head, "h")]
    graph = helper.make_graph(nodes, "wide", [image], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("side", [20, 64])
def test_the_largest_node_is_that_of_the_images_size(side: int) -> None:
    expected = 4 * (5 + 5) * side * side  # the Relu reads and writes five channels
    assert bytes_of_largest_node(wide(), "image", (3, side, side)) == expected
    assert bytes_of_largest_node(wide(side), "image", (3, side, side)) == expected


def test_large_weights_count_for_nothing() -> None:
    model = models.normalised()
    small = bytes_of_largest_node(model, "image", (2, 6, 6))
    assert 0 < small < 10_000


def test_a_model_of_unknown_operators_is_no_error() -> None:
    model = wide()
    model.graph.node[0].domain = "nobody.knows"
    model.opset_import.append(helper.make_opsetid("nobody.knows", 1))
    assert bytes_of_largest_node(model, "image", (3, 8, 8)) >= 0


def test_a_run_has_as_many_images_as_the_memory_bears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rng = wide(), np.random.default_rng(2)
    onnx.save(model, tmp_path / "model.onnx")
    x = rng.standard_normal((30, 3, 20, 20)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(30) % 2)
    monkeypatch.setattr(bench_module, "_RUN_BYTES", 7 * 4 * 10 * 400)
    bench = prepare(read_subject(tmp_path / "model.onnx"), Settings(data=tmp_path / "data.npz"))
    assert bench.working.effort.batch_size == 7
    sizes = []
    original = Runner.run

    def counted(runner: Runner, images: Array, *rest: Any, **named: Any) -> object:
        sizes.append(len(images))
        return original(runner, images, *rest, **named)

    monkeypatch.setattr(Runner, "run", counted)
    suite = bench.parts.test
    found = bench.working.run_plain(suite)
    assert max(sizes) == 7
    expected = run(model, {"image": suite.batch(np.arange(len(suite)))})[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
