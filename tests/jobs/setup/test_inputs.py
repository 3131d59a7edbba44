"""Models that take more than images: constants, rows of the data, a second image."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image

import repairkit
from repairkit.core.errors import RepairkitError, SettingsError
from repairkit.data.parts import PartPlan
from repairkit.jobs.look.inspection import inspect
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests.running import run

_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
_RNG = np.random.default_rng(1)
WEIGHTS = {
    "w": _RNG.standard_normal((4, 2, 3, 3)).astype(np.float32),
    "fc": _RNG.standard_normal((4, 3)).astype(np.float32),
}


def _model(
    inputs: list[tuple[str, str, list[int | str]]],
    nodes: list[onnx.NodeProto],
    *,
    batch: int | str = "n",
    channels: int = 2,
    stored: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> ModelProto:
    """A layer `conv` on `seen`, which `nodes` make of `image` and the rest; then `scores`."""
    body = [
        *nodes,
        helper.make_node("Conv", ["seen", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["flat"], "flat"),
        helper.make_node("MatMul", ["flat", "fc"], ["scores"], "head"),
    ]
    values = [("image", "float32", [batch, channels, 8, 8]), *inputs]
    graph = helper.make_graph(
        body,
        "g",
        [helper.make_tensor_value_info(name, _TYPES[kind], dims) for name, kind, dims in values],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(a, n) for n, a in (WEIGHTS | (stored or {})).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


def scaled(batch: int | str = "n", opset: int = 17) -> ModelProto:
    """The image times a number of its own, shape (n, 1, 1, 1)."""
    return _model(
        [("factor", "float32", [batch, 1, 1, 1])],
        [helper.make_node("Mul", ["image", "factor"], ["seen"], "scale")],
        batch=batch,
        opset=opset,
    )


def switched() -> ModelProto:
    """A truth value for the whole run turns the image round."""
    nodes = [
        helper.make_node("Neg", ["image"], ["other"], "neg"),
        helper.make_node("Where", ["turn", "other", "image"], ["seen"], "where"),
    ]
    return _model([("turn", "bool", [])], nodes)


def paired() -> ModelProto:
    """Two images, side by side in the channels."""
    return _model(
        [("second", "float32", ["n", 1, 8, 8])],
        [helper.make_node("Concat", ["image", "second"], ["seen"], "join", axis=1)],
        channels=1,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    x = np.random.default_rng(2).standard_normal((12, 2, 8, 8)).astype(np.float32)
    factor = np.linspace(0.5, 3, 12).astype(np.float64)
    np.savez(tmp_path / "rows.npz", x=x, y=np.arange(12) % 3, factor=factor)
    np.savez(tmp_path / "plain.npz", x=x, y=np.arange(12) % 3)
    return tmp_path


def _write(place: Path, model: ModelProto) -> Path:
    onnx.save(model, place / "m.onnx")
    return place / "m.onnx"


def _values(folder: Path) -> dict[str, float]:
    rows = csv.DictReader((folder / "scores.csv").read_text().splitlines())
    return {row["filter"]: float(row["value"]) for row in rows}


@pytest.mark.parametrize("batch", ["n", 1])
def test_a_row_of_each_input_follows_its_image(place: Path, batch: int | str) -> None:
    arrays = np.load(place / "rows.npz")
    twin = _write(place, _scaled_by_hand()).rename(place / "twin.onnx")
    model = _write(place, scaled(batch))
    factor = arrays["factor"].astype(np.float32).reshape(-1, 1, 1, 1)
    np.savez(place / "twin.npz", x=arrays["x"] * factor, y=arrays["y"])
    for method in ("leave-one-out", "regression"):
        one, two = place / f"{method}-1", place / f"{method}-2"
        common = {"metric": "loss", "method": method}
        repairkit.score(model, place / "rows.npz", out=one, **common)
        repairkit.score(twin, place / "twin.npz", out=two, **common)
        found, wanted = _values(one), _values(two)
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    done = repairkit.patch(model, place / "rows.npz", out=place / "out.onnx", remove=["conv:1"])
    assert done.verified.images == "given images"
    settings = Settings(data=place / "rows.npz")
    assert repairkit.verify(model, place / "out.onnx", settings=settings).proof.exact


def _scaled_by_hand() -> ModelProto:
    return _model([], [helper.make_node("Identity", ["image"], ["seen"], "same")])


@pytest.mark.parametrize("batch", ["n", 1])
@pytest.mark.parametrize("opset", [9, 17])
def test_a_constant_is_as_if_it_stood_in_the_model(
    place: Path, batch: int | str, opset: int
) -> None:
    model = _write(place, scaled(batch, opset))
    twin = scaled(batch, opset)
    del twin.graph.input[1]
    twin.graph.initializer.append(
        numpy_helper.from_array(np.full((1, 1, 1, 1), 2.5, np.float32), "factor")
    )
    onnx.save(twin, place / "twin.onnx")
    settings = Settings(data=place / "plain.npz", metrics=("loss",), inputs={"factor": "2.5"})
    repairkit.score(model, settings=settings, method="exact", out=place / "one")
    plain = Settings(data=place / "plain.npz", metrics=("loss",))
    repairkit.score(place / "twin.onnx", settings=plain, method="exact", out=place / "two")
    assert _values(place / "one") == pytest.approx(_values(place / "two"), rel=1e-5, abs=1e-7)
    out = place / "out.onnx"
    repairkit.patch(model, out=out, remove=["conv:2"], settings=settings)
    patched = onnx.load(out)
    assert [i.name for i in patched.graph.input] == ["image", "factor"]
    assert repairkit.verify(model, out, settings=settings).proof.exact


def test_a_truth_value_and_a_default_are_set_by_name(place: Path) -> None:
    model = _write(place, switched())
    for text in ("true", "False"):
        settings = Settings(data=place / "plain.npz", inputs={"turn": text})
        out = place / f"{text}.onnx"
        assert repairkit.patch(model, out=out, remove=["conv:0"], settings=settings).patch
    default = switched()
    default.graph.initializer.append(numpy_helper.from_array(np.array(False), "turn"))
    model = _write(place, default)
    out = place / "default.onnx"
    plain = repairkit.patch(model, place / "plain.npz", out=out, remove=["conv:0"])
    turned = repairkit.patch(
        model,
        out=place / "turned.onnx",
        remove=["conv:0"],
        settings=Settings(data=place / "plain.npz", inputs={"turn": "true"}),
    )
    assert plain.patch.frozen[0].constant == pytest.approx(-turned.patch.frozen[0].constant)


def test_two_images_come_from_two_arrays(place: Path) -> None:
    model = _write(place, paired())
    x = np.load(place / "plain.npz")["x"]
    np.savez(place / "pairs.npz", image=x[:, :1], second=x[:, 1:], y=np.arange(12) % 3)
    done = repairkit.patch(model, place / "pairs.npz", out=place / "out.onnx", remove=["conv:0"])
    twin = _write(place, _scaled_by_hand())
    other = repairkit.patch(twin, place / "plain.npz", out=place / "two.onnx", remove=["conv:0"])
    assert done.patch.frozen[0].constant == pytest.approx(other.patch.frozen[0].constant, rel=1e-5)


def test_a_column_of_the_manifest_feeds_an_input(place: Path) -> None:
    model = scaled()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    stored = next(t for t in model.graph.initializer if t.name == "w")
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    stored.CopyFrom(numpy_helper.from_array(kernel, "w"))
    path = _write(place, model)
    pixels = np.random.default_rng(3).integers(0, 256, (6, 8, 8, 3), np.uint8)
    lines = ["path,label,factor"]
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(place / f"{number}.png")
        lines.append(f"{number}.png,{number % 3},{number + 1}")
    (place / "images.csv").write_text("\n".join(lines) + "\n")
    settings = Settings(data=place / "images.csv", parts=PartPlan("all", "all", "all"))
    done = repairkit.patch(path, out=place / "out.onnx", remove=["conv:1"], settings=settings)
    tapped = onnx.load(path)
    tapped.graph.output.append(helper.make_empty_tensor_value_info("c"))
    feeds = {
        "image": pixels.transpose(0, 3, 1, 2).astype(np.float32),
        "factor": np.arange(1, 7, dtype=np.float32).reshape(-1, 1, 1, 1),
    }
    wanted = run(tapped, feeds)[1][:, 1].mean(dtype=np.float64)
    assert done.patch.frozen[0].constant == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "takes factor (1 x 1 x 1 x 1 float32) beside its images"),
        ({"faktor": "1"}, "has no such input; beside image it takes factor"),
        ({"factor": "1,2"}, "2 values and the input takes 1 x 1 x 1 x 1"),
        ({"factor": "much"}, "could not convert string to float"),
    ],
)
def test_an_input_without_a_value_is_asked_for_in_one_line(
    place: Path, inputs: dict[str, str], words: str
) -> None:
    model = _write(place, scaled())
    settings = Settings(data=place / "plain.npz", inputs=inputs)
    with pytest.raises(SettingsError) as caught:
        repairkit.score(model, settings=settings, out=place / "run")
    assert words in str(caught.value)
    with pytest.raises(SettingsError):
        repairkit.patch(model, out=place / "out.onnx", remove=["conv:0"], settings=settings)
    assert not (place / "out.onnx").exists()


def test_rows_that_are_not_as_many_as_images_are_refused(place: Path) -> None:
    model = _write(place, scaled())
    arrays = dict(np.load(place / "rows.npz"))
    np.savez(place / "few.npz", **{**arrays, "factor": arrays["factor"][:5]})
    with pytest.raises(RepairkitError, match=r"factor has shape 5; .* one row for each of the 12"):
        repairkit.score(model, place / "few.npz", out=place / "run")


def test_inspect_tells_of_inputs_and_verify_needs_no_data(place: Path) -> None:
    model = _write(place, scaled())
    found = inspect(read_subject(model), Settings())
    assert found.note == ""
    assert found.to_json()["further_inputs"] == [
        {"name": "factor", "shape": [None, 1, 1, 1], "dtype": "float32", "per_image": True}
    ]
    repairkit.patch(model, place / "rows.npz", out=place / "out.onnx", remove=["conv:1"])
    assert repairkit.verify(model, place / "out.onnx").images == "generated noise"


def test_the_image_input_can_be_named(place: Path) -> None:
    model = _write(place, paired())
    assert read_subject(model).input_name == "image"
    assert read_subject(model, image_input="second").input_name == "second"
    with pytest.raises(SettingsError, match="there is no input 'third'; the inputs are image, sec"):
        read_subject(model, image_input="third")
