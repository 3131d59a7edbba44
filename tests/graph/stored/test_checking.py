"""Models that lie: about places, sizes, types, texts, versions and how large they grow."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repairkit.core.errors import ModelError
from repairkit.graph.kinds.sites import instrument, survey
from repairkit.graph.stored.model_files import read_model
from repairkit.graph.stored.tensors import fold
from tests import models


def written(model: ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def with_external(location: str, folder: Path, **entries: str) -> Path:
    """A model whose kernel is said to lie at `location`."""
    model = models.own_bias()
    kernel = model.graph.initializer[0]
    entries = {"location": location, "length": str(len(kernel.raw_data)), **entries}
    kernel.ClearField("raw_data")
    kernel.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        kernel.external_data.add(key=key, value=value)
    return written(model, folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with a secret beside it."""
    (tmp_path / "secret.bin").write_bytes(bytes(288))
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "w.bin").write_bytes(bytes(288))
    return inside


def test_external_data_in_the_models_folder_is_read(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "w.bin").write_bytes(np.arange(72, dtype=np.float32).tobytes())
    model = read_model(with_external("deep/w.bin", folder)).model
    np.testing.assert_array_equal(
        numpy_helper.to_array(model.graph.initializer[0]).reshape(-1), np.arange(72)
    )
    (folder / "link.bin").symlink_to("w.bin")  # a link that stays inside is a name like any other
    assert read_model(with_external("link.bin", folder)).model.graph.node


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "deep/../../secret.bin",
        "{parent}/secret.bin",
        "out.bin",
        "outside/secret.bin",
        "circle.bin",
        "C:\\secret.bin",
        "..\\secret.bin",
        "\\\\host\\share\\secret.bin",
        "",
        ".",
        "w.bin\0.txt",
        "x" * 5000,
        "model.onnx",
        "none.bin",
        "pipe.bin",
        "/dev/zero",
        "/proc/self/environ",
    ],
)
def test_external_data_never_leaves_the_models_folder(folder: Path, location: str) -> None:
    (folder / "deep").mkdir()
    (folder / "out.bin").symlink_to(folder.parent / "secret.bin")
    (folder / "outside").symlink_to(folder.parent, target_is_directory=True)
    (folder / "circle.bin").symlink_to("circle.bin")
    os.mkfifo(folder / "pipe.bin")
    path = with_external(location.format(parent=folder.parent), folder)
    with pytest.raises(ModelError, match="external data cannot be read"):
        read_model(path)


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "1"},
        {"offset": "-1"},
        {"length": "289"},
        {"length": "4"},
        {"length": "9" * 30},
        {"offset": "9" * 30},
        {"length": "many"},
        {"offset": "1e3"},
    ],
)
def test_external_ranges_must_lie_in_the_file(folder: Path, entries: dict[str, str]) -> None:
    path = with_external("w.bin", folder, **entries)
    with pytest.raises(ModelError, match="does not find them in its data file of 288 bytes"):
        read_model(path)


def test_the_same_bytes_cannot_be_claimed_without_end(folder: Path) -> None:
    (folder / "w.bin").write_bytes(bytes(1 << 20))
    model = models.own_bias()
    for number in range(80):
        tensor = model.graph.initializer.add(name=f"t{number}", data_type=1, dims=[1 << 18])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
    with pytest.raises(ModelError, match="the same bytes are claimed too often"):
        read_model(written(model, folder))


def _kernel(model: ModelProto) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == "w")


def _bomb(model: ModelProto, kind: str, **feeds: np.ndarray) -> None:
    """The kernel is made by a node, from inputs of a few bytes."""
    model.graph.initializer.remove(_kernel(model))
    for name, array in feeds.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.graph.node.insert(0, helper.make_node(kind, list(feeds), ["w"], "bomb"))


def _deep(model: ModelProto) -> None:
    body = helper.make_graph([], "inner", [], [])
    for _ in range(40):
        node = helper.make_node("If", ["c"], ["d"], then_branch=body, else_branch=body)
        body = helper.make_graph([node], "outer", [], [])
        if body.ByteSize() > 1 << 20:
            break
    model.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=body))


def _calls(model: ModelProto, *pairs: tuple[str, str]) -> None:
    """Functions of which each calls the next one twice."""
    for name, callee in pairs:
        nodes = [
            helper.make_node(callee, ["a"], ["b"], domain="own"),
            helper.make_node(callee, ["b"], ["c"], domain="own"),
        ]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
        model.functions.append(helper.make_function("own", name, ["a"], ["c"], nodes, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node(pairs[0][0], ["logits"], ["more"], domain="own"))


LIES: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "too few bytes": (lambda m: setattr(_kernel(m), "raw_data", b"1234"), "needs 288 bytes"),
    "too large": (lambda m: _kernel(m).dims.__setitem__(0, 2**31), "needs 154618822656 bytes"),
    "absurd": (lambda m: _kernel(m).dims.extend([2**62] * 4), "absurd dimensions"),
    "empty and absurd": (lambda m: _kernel(m).dims.extend([0, 2**62]), "absurd dimensions"),
    "too many": (lambda m: _kernel(m).dims.extend([1] * 80), "absurd dimensions"),
    "negative": (lambda m: _kernel(m).dims.__setitem__(0, -1), "negative dimension"),
    "unknown type": (lambda m: setattr(_kernel(m), "data_type", 77), "of no type"),
    "no type": (lambda m: setattr(_kernel(m), "data_type", 0), "of no type"),
    "segment": (lambda m: setattr(_kernel(m).segment, "begin", 1), "not stored"),
    "typed": (lambda m: _kernel(m).ClearField("raw_data"), "needs 72 values and the file holds 0"),
    "opset": (lambda m: setattr(m.opset_import[0], "version", 2**40), "versions of ONNX"),
    "no opset": (lambda m: setattr(m.opset_import[0], "domain", "x"), "not valid"),
    "input type": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 99),
        "of no type",
    ),
    "inner type": (
        lambda m: m.graph.value_info.append(helper.make_tensor_value_info("inner", 2**31 - 1, [1])),
        "'inner' is of no type",
    ),
    "input size": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 2**62),
        "absurd dimensions",
    ),
    "input dimensions": (
        lambda m: [m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1) for _ in range(80)],
        "absurd dimensions",
    ),
    "operator": (lambda m: m.graph.node[0].input.extend(["x"] * 9), "not valid"),
    "function calls itself": (lambda m: _calls(m, ("F", "F")), "calls itself"),
    "functions in a circle": (lambda m: _calls(m, ("F", "G"), ("G", "F")), "calls itself"),
    "functions without end": (
        lambda m: _calls(m, *((f"F{i}", f"F{i + 1}") for i in range(40)), ("F40", "Last")),
        "grow to",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_model_that_contradicts_itself_is_refused(lie: str, tmp_path: Path) -> None:
    change, word = LIES[lie]
    model = models.own_bias()
    change(model)
    with pytest.raises(ModelError, match=word):
        read_model(written(model, tmp_path))


def test_a_sparse_tensor_of_absurd_size_is_refused(tmp_path: Path) -> None:
    model = models.own_bias()
    sparse = model.graph.sparse_initializer.add(dims=[1 << 20, 1 << 19])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "sparse"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), "where"))
    with pytest.raises(ModelError, match="the sparse tensor 'sparse' has absurd dimensions"):
        read_model(written(model, tmp_path))


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    data = (
        models.own_bias().SerializeToString().replace(b"flatten", b"\xff\xfe\xfd\xfc\xfb\xfa\xf9")
    )
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="text that is not UTF-8"):
        read_model(tmp_path / "model.onnx")


def test_a_graph_nested_too_deep_is_refused(tmp_path: Path) -> None:
    """Length-delimited fields opened within one another: graph, node, attribute, graph, ..."""
    data = b""
    for _ in range(3000):
        for tag in (0x32, 0x2A, 0x0A):  # attribute.g, node.attribute, graph.node
            data = bytes([tag]) + _length(len(data)) + data
    data = b"\x3a" + _length(len(data)) + data
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ModelError, match="not an ONNX model"):
        read_model(tmp_path / "model.onnx")


def _length(n: int) -> bytes:
    found = b""
    while n > 127:
        found += bytes([n & 127 | 128])
        n >>= 7
    return found + bytes([n])


BOMBS = {
    "ConstantOfShape": {"s": np.array([1 << 20, 1 << 20])},
    "Expand": {"v": np.ones((1,), np.float32), "s": np.array([1 << 20, 1 << 20])},
    "Tile": {"v": np.ones((2,), np.float32), "s": np.array([1 << 40])},
    "Range": {"a": np.array(0), "b": np.array(1 << 40), "c": np.array(1)},
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_cannot_ask_for_terabytes(kind: str, tmp_path: Path) -> None:
    model = models.own_bias()
    _bomb(model, kind, **BOMBS[kind])
    tracemalloc.start()
    try:
        found = survey(read_model(written(model, tmp_path)).model)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not found.sites
    assert "it would take" in next(x.reason for x in found.left_out if x.name == "conv")
    assert peak < 64 << 20


def test_growth_by_arithmetic_is_seen_too() -> None:
    row, column = np.ones((1, 1 << 16), np.float32), np.ones((1 << 16, 1), np.float32)
    opsets = [helper.make_opsetid("", 17)]
    for kind in ("Add", "Mul"):
        with pytest.raises(ModelError, match="it would take"):
            fold(helper.make_node(kind, ["a", "b"], ["c"]), {"a": row, "b": column}, opsets)
    with pytest.raises(ModelError, match="it would take"):
        fold(helper.make_node("MatMul", ["a", "b"], ["c"]), {"a": column, "b": row}, opsets)


def test_folding_computes_what_the_runtime_does() -> None:
    from tests.running import run

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 4)).astype(np.float32)
    nodes = [helper.make_node("Mul", ["a", "b"], ["c"])]
    infos = [helper.make_tensor_value_info(n, 1, [3, 4]) for n in "abc"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", infos[:2], infos[2:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    found = fold(nodes[0], {"a": a, "b": b}, model.opset_import)
    np.testing.assert_array_equal(found[0], run(model, {"a": a, "b": b})[0])


def test_a_broken_constant_leaves_its_layer_out_with_the_reason() -> None:
    model = models.moved_weights()
    transpose = next(n for n in model.graph.node if n.op_type == "Transpose")
    transpose.attribute[0].ints[:] = [9, 9, 9, 9]
    found = survey(model)
    assert not found.sites
    assert any("cannot be computed" in x.reason for x in found.left_out)


@pytest.mark.parametrize("axis", [1, 7, -3])
def test_scales_along_no_axis_leave_the_layer_out_with_the_reason(axis: int) -> None:
    model = models.quantised()
    bias = next(n for n in model.graph.node if n.name == "dqb")
    bias.attribute[0].i = axis
    found = survey(model)
    assert not found.sites
    assert any("4 scales, which do not fit its shape (4,)" in x.reason for x in found.left_out)


def test_a_bias_of_another_length_leaves_the_layer_out_with_the_reason() -> None:
    model = models.own_bias()
    bias = next(t for t in model.graph.initializer if t.name == "b")
    bias.CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "b"))
    found = survey(model)
    assert not found.sites
    assert any("has 3 values for 4 filters" in x.reason for x in found.left_out)


def test_a_kernel_without_room_for_channels_leaves_the_layer_out_with_the_reason() -> None:
    model = models.own_bias()
    kernel = _kernel(model)
    flat = numpy_helper.to_array(kernel).reshape(-1)
    kernel.CopyFrom(numpy_helper.from_array(flat, kernel.name))
    found = survey(model)
    assert not found.sites
    assert any("1 dimensions, too few for channels" in x.reason for x in found.left_out)


def test_scales_that_overflow_are_read_without_a_warning() -> None:
    model = models.quantised()
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and "s" in tensor.name:
            huge = np.full(tuple(tensor.dims), 3e38, np.float32)
            tensor.CopyFrom(numpy_helper.from_array(huge, tensor.name))
    found = survey(model)
    made = [n.output[0] for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert any(np.isinf(found.constants.array(name)).any() for name in made)


def test_no_custom_library_is_ever_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a model's metadata nor the surroundings make a session load code."""
    import onnxruntime

    from repairkit.engine.ort import open_session

    model = models.own_bias()
    model.metadata_props.add(key="ort_config", value='{"session_options": {"a": 1}}')
    model.metadata_props.add(key="custom_ops_library", value=str(tmp_path / "evil.so"))
    model.opset_import.append(helper.make_opsetid("evil", 1))
    seen: list[str] = []
    monkeypatch.setattr(
        onnxruntime.SessionOptions,
        "register_custom_ops_library",
        lambda _self, path: seen.append(path),
    )
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    assert open_session(read_model(written(model, tmp_path)).model).get_outputs()
    assert not seen
    assert "register_custom_ops" not in "".join(
        p.read_text() for p in Path("repairkit").rglob("*.py")
    )
    onnx.checker.check_model(model)


def test_a_loop_without_end_is_broken_off() -> None:
    from repairkit.engine.runner import Runner

    def info(name: str, kind: int, shape: list[int] | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["go"]), helper.make_node("Add", ["v", "v"], ["w2"])],
        "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("v", 1, None)],
        [info("go", TensorProto.BOOL, []), info("w2", 1, None)],
    )
    weights = {"turns": np.array(2**62), "yes": np.array(True), "w": np.ones((3, 2, 6, 6))}
    nodes = [
        helper.make_node("Conv", ["image", "w32"], ["y"], "conv"),
        helper.make_node("Loop", ["turns", "yes", "y"], ["z"], "loop", body=body),
        helper.make_node("Flatten", ["z"], ["logits"], "flat"),
    ]
    weights["w32"] = weights.pop("w").astype(np.float32)
    runner = Runner(models.model_of(nodes, weights), "image", None, seconds=0.5)
    with pytest.raises(ModelError, match="terminate flag"):
        runner.run(models.images(1))


def test_an_attribute_without_a_type_is_told_as_the_models_fault() -> None:
    model = models.own_bias()
    flatten = model.graph.node[-2]
    empty = flatten.attribute.add(name="axes")
    empty.type = onnx.AttributeProto.INTS
    found = survey(model)
    levels = {site.name: np.zeros(site.n_channels, np.float32) for site in found.sites}
    with pytest.raises(ModelError, match="cannot be written back"):
        instrument(model, found.sites, levels)
