"""What an image takes in memory is told from shapes alone, and bounds the images of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repairkit.core.suite import Array
from repairkit.engine.runner import Runner
from repairkit.graph.structure import bytes_of_largest_node
from repairkit.jobs.setup import preparing as bench_module
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests import models
from tests.running import run


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
