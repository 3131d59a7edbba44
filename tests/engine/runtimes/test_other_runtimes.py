"""Other runtimes run what they are given, or say in one line why not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from repairkit.core.errors import DeviceError, ModelError
from repairkit.core.filters import Filter, FrozenFilter, Site
from repairkit.engine.runtimes import foreign, in_python
from repairkit.engine.runtimes.javascript import NodeRuntime
from tests import models
from tests.running import run

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
CPU = in_python.Provider(
    name="cpu",
    title="the CPU",
    provider="CPUExecutionProvider",
    options={},
    tolerance=foreign.FLOAT_TOLERANCE,
    needs="nothing",
    how="on the CPU",
)

# An onnxruntime-node of our own: the output `same` is the input `x`.
ECHO = """
class Tensor {
  constructor(type, data, dims) { Object.assign(this, { type, data, dims }); }
}
const session = { outputNames: ["same"], run: async (feeds) => ({ same: feeds.x }) };
exports.Tensor = Tensor;
exports.env = { versions: { node: "0.0.1" } };
exports.InferenceSession = {
  create: async (bytes) => {
    if (bytes.length === 0) throw new Error("no model\\nat all");
    return session;
  },
};
"""


def package(folder: Path, content: str = ECHO) -> Path:
    place = folder / "node_modules" / "onnxruntime-node"
    place.mkdir(parents=True)
    (place / "index.js").write_text(content)
    return folder


def identity(kind: int) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, None) for name in ("x", "same")]
    node = helper.make_node("Identity", ["x"], ["same"])
    graph = helper.make_graph([node], "identity", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def arrays_of_every_type() -> list[np.ndarray]:
    numbers = np.array([[0, 1, 2], [3, 100, 127]])
    kinds = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    arrays = [numbers.astype(kind) for kind in kinds]
    arrays += [(numbers / 7 - 3).astype(kind) for kind in ("float16", "float32", "float64")]
    return [*arrays, numbers > 2, np.zeros((2, 0), np.float32), np.array(-1.5, np.float32)]


@needs_node
def test_every_type_of_number_passes_through_node_unchanged(tmp_path: Path) -> None:
    arrays = arrays_of_every_type()
    runtime = NodeRuntime("onnxruntime-node", package(tmp_path))
    answered = runtime.run(identity(TensorProto.FLOAT), [{"x": array} for array in arrays])
    for array, (same,) in zip(arrays, answered.runs, strict=True):
        assert same.dtype == array.dtype
        np.testing.assert_array_equal(same, array)
    assert answered.version == "0.0.1"
    assert str(tmp_path) in answered.how


@needs_node
def test_what_is_wrong_with_node_is_said_in_one_line(tmp_path: Path) -> None:
    model, feeds = identity(TensorProto.FLOAT), [{"x": np.zeros(1, np.float32)}]
    with pytest.raises(DeviceError, match=r"npm install onnxruntime-node.*--node-modules") as told:
        NodeRuntime("onnxruntime-node", tmp_path).run(model, feeds)
    assert "\n" not in str(told.value)
    words = NodeRuntime("onnxruntime-node", package(tmp_path))
    with pytest.raises(ModelError, match="'x' takes <U1, which is not checked"):
        words.run(model, [{"x": np.array(["a"])}])
    broken = ECHO.replace("bytes.length === 0", "true")
    refusing = NodeRuntime("onnxruntime-node", package(tmp_path / "other", broken))
    with pytest.raises(ModelError, match=r"cannot load the model \(no model\)") as told:
        refusing.run(model, feeds)
    ended = NodeRuntime("onnxruntime-node", package(tmp_path / "third", "process.exit(7);"))
    with pytest.raises(DeviceError, match=r"Node\.js ended with code 7"):
        ended.run(model, feeds)


def test_without_node_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(DeviceError, match=r"no `node` on the path; install Node\.js"):
        NodeRuntime("onnxruntime-web").run(identity(TensorProto.FLOAT), [])


def test_openvino_gives_what_onnx_runtime_gives() -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    images = models.images(3)
    for name in ("own_bias", "normalised", "depthwise", "transposed"):
        model = models.LAYERS[name]()
        (expected,) = run(model, {"image": images})
        answered = in_python.OpenVino().run(model, [{"image": images}, {"image": images[:1]}])
        np.testing.assert_allclose(answered.runs[0][0], expected, atol=1e-5)
        np.testing.assert_allclose(answered.runs[1][0], expected[:1], atol=1e-5)
        assert "f32" in answered.how
    broken = models.LAYERS["own_bias"]()
    broken.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match="OpenVINO cannot load the model") as told:
        in_python.OpenVino().run(broken, [{"image": images}])
    assert "\n" not in str(told.value)


def test_openvino_tells_nobody_that_it_is_used(tmp_path: Path) -> None:
    """Its telemetry keeps an identity in the home folder before it sends anything."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    code = """
from repairkit.engine.runtimes.in_python import OpenVino
from tests import models
OpenVino().run(models.own_bias(), [{"image": models.images(1)}])
import sys
print(any(name.startswith("openvino_telemetry") for name in sys.modules))
"""
    root = Path(__file__).parents[3]
    path = os.pathsep.join([str(root), str(root / "adapters")])
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path), "PYTHONPATH": path, "CI": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **home},
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
    assert list(tmp_path.iterdir()) == []


# TensorRT and Core ML: the same code runs with the CPU's provider.


def test_a_provider_runs_a_model_and_says_how_much_of_it() -> None:
    model, images = models.LAYERS["own_bias"](), models.images(4)
    answered = CPU.run(model, [{"image": images}])
    np.testing.assert_allclose(answered.runs[0][0], run(model, {"image": images})[0], atol=1e-5)
    assert "ran in the CPU and none elsewhere" in answered.how
    assert answered.version == onnxruntime.__version__


def event(name: str, provider: str | None, category: str = "Node") -> dict[str, Any]:
    return {
        "cat": category,
        "name": name,
        "args": {} if provider is None else {"provider": provider},
    }


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("de")))
@settings(max_examples=20)
def test_a_node_that_runs_for_several_images_is_counted_once(
    ours: list[str], others: list[str]
) -> None:
    events = [event(name, "There") for name in ours] + [event(name, "Here") for name in others]
    events += [event("a", None), event("b", "There", "Session")]
    expected = {"There": len(set(ours)), "Here": len(set(others))}
    assert in_python.nodes_by_provider(events) == {k: n for k, n in expected.items() if n}


def test_a_model_that_no_node_of_ran_there_is_not_called_checked() -> None:
    there = in_python.Provider(**{**vars(CPU), "provider": "There", "title": "There"})
    with pytest.raises(DeviceError, match="There took no node of the model"):
        there._share([event("conv", "CPUExecutionProvider")])
    mixed = [event("fused", "There"), event("resize", "CPUExecutionProvider")]
    assert there._share(mixed) == "1 node (fused ones count as one) ran in There, 1 node elsewhere"


@pytest.mark.parametrize("runtime", [in_python.TENSORRT, in_python.COREML], ids=lambda r: r.name)
def test_tensorrt_and_core_ml_run_or_say_what_they_need(runtime: in_python.Provider) -> None:
    model, images = models.LAYERS["own_bias"](), models.images(2)
    if runtime.provider not in onnxruntime.get_available_providers():
        with pytest.raises(DeviceError, match=r"has no .*: it needs (an NVIDIA GPU|macOS)"):
            runtime.run(model, [{"image": images}])
        pytest.skip(f"{runtime.title} is not on this machine: it needs {runtime.needs}")
    answered = runtime.run(model, [{"image": images}])
    expected = run(model, {"image": images})[0]
    np.testing.assert_allclose(answered.runs[0][0], expected, atol=runtime.tolerance)


# Reading frozen filters


def site(axis: int, n_values: int | None = None, value_axis: int | None = None) -> Site:
    return Site(
        name="s", kind="Conv", tensor="t", node="s", channel_axis=axis, n_channels=3, rank=4,
        n_values=n_values, value_axis=value_axis,
    )  # fmt: skip


@given(st.integers(1, 3), st.floats(-5, 5), st.floats(0, 2), st.integers(0, 9))
@settings(max_examples=40)
def test_spread_and_offset_are_those_of_the_values(
    axis: int, constant: float, noise: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = constant + noise * rng.standard_normal((4, 2, 3))
    runs = [values[:1], values[1:]]
    kept = foreign.held(FrozenFilter(Filter("s", 1), constant), site(axis), runs)
    assert kept.spread == pytest.approx(values.max() - values.min())
    assert kept.offset == pytest.approx(np.abs(values - constant).max())
    assert kept.constant == abs(constant)


def test_each_number_of_a_head_has_its_own_constant() -> None:
    constant = (1.0, -2.0)
    tensor = np.tile(np.array(constant), (3, 5, 4, 1))  # images, tokens, heads, numbers
    head = FrozenFilter(Filter("s", 2), constant)
    kept = foreign.held(head, site(2, 2, 3), [tensor[:, :, 2]])
    assert (kept.spread, kept.offset) == (0.0, 0.0)
    moved = np.moveaxis(tensor, 3, 1)  # the numbers in front of the heads
    assert foreign.held(head, site(3, 2, 1), [moved[..., 2]]).offset == 0.0
    assert foreign.held(head, site(2, 2, 3), [tensor[:, :, 2] + 0.5]).offset == 0.5


@pytest.mark.parametrize("name", sorted(models.LAYERS))
def test_a_watched_copy_gives_the_channels_and_nothing_else_changes(name: str) -> None:
    model = models.LAYERS[name]()
    before = model.SerializeToString()
    tensor = next(n for n in model.graph.node if "Conv" in n.op_type).output[0]
    watched = foreign.watch(model, {tensor: (1, {1, 0})})
    copy = foreign.with_watched(model, watched)
    assert model.SerializeToString() == before
    dtype = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    images = {model.graph.input[0].name: models.images(1, dtype=dtype.name)}
    whole = foreign.with_watched(
        model, [foreign.Watched(tensor=tensor, axis=1, channels=(0, 1), output="all")]
    )
    *plain, channels = run(copy, images)
    *_, every = run(whole, images)
    np.testing.assert_array_equal(channels, every[:, [0, 1]])
    for a, b in zip(plain, run(model, images), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_name_that_is_taken_is_not_used_again() -> None:
    model = models.LAYERS["own_bias"]()
    for node in model.graph.node:
        node.output[0] = {"act": "frozen_0"}.get(node.output[0], node.output[0])
        node.input[0] = {"act": "frozen_0"}.get(node.input[0], node.input[0])
    (watched,) = foreign.watch(model, {model.graph.node[0].output[0]: (1, {1})})
    assert watched.output == "frozen_1"


def test_tolerances_are_wider_for_halves_and_for_codes() -> None:
    runtime = in_python.OpenVino()
    tolerances = {n: foreign.tolerance_for(runtime, make()) for n, make in models.LAYERS.items()}
    assert tolerances.pop("half_precision") == foreign.HALF_TOLERANCE
    assert tolerances["own_bias"] == foreign.FLOAT_TOLERANCE
    coded = models.LAYERS["own_bias"]()
    coded.graph.node.append(helper.make_node("QuantizeLinear", ["logits", "s"], ["codes"]))
    assert foreign.tolerance_for(runtime, coded) == foreign.CODE_TOLERANCE
    assert (
        json.dumps(foreign.tolerance_for(in_python.TENSORRT, models.LAYERS["own_bias"]())) == "0.01"
    )
