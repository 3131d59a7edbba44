"""Naming filters, instrumenting and proving need no metric and no labels."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import repairkit
from repairkit.core.errors import SettingsError
from repairkit.engine.proof import equal_outputs
from repairkit.jobs.look.inspection import write_instrumented
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests.odd_outputs import ODD
from tests.running import all_present, run

SCHEMA = json.loads((Path(repairkit.__file__).parent / "report/report.schema.json").read_text())
COARSE = ("truth", "words")  # outputs that a little change leaves as they are


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images without labels."""
    x = np.random.default_rng(5).standard_normal((5, 2, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=x)
    return tmp_path / "images.npz"


def _written(folder: Path, name: str) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(ODD[name](), path)
    return path


@pytest.mark.parametrize("name", ODD)
def test_filters_of_any_model_are_frozen_and_proven_on_all_outputs(
    name: str, images: Path, tmp_path: Path
) -> None:
    model, out = _written(tmp_path, name), tmp_path / "out.onnx"

    done = repairkit.patch(model, images, out=out, remove=["a:1", "b:2"])

    assert done.objective is None
    assert done.verified.proof.exact
    assert done.verified.proof.changed or name in COARSE
    assert (done.verified.proof.n_images, done.verified.images) == (5, "given images")
    report = json.loads(done.report_file.read_text())
    jsonschema.validate(report, SCHEMA)
    assert report["evaluations"]["before"]["metrics"] == {}
    page = (tmp_path / "out.report.html").read_text()
    assert "No metric was computed" in page
    assert "Before and after" not in page
    assert "| Before |" not in (tmp_path / "out.model-card.md").read_text()
    assert repairkit.verify(model, out, settings=Settings(data=images)).proof.exact
    back = tmp_path / "back.onnx"
    repairkit.revert(out, out=back)
    assert back.read_bytes() == model.read_bytes()
    again = tmp_path / "again.onnx"
    repairkit.apply(model, done.patch_file, out=again)
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize("name", sorted(set(ODD) - {"noisy"}))
def test_a_frozen_model_computes_what_an_instrumented_one_does_under_the_mask(
    name: str, images: Path, tmp_path: Path
) -> None:
    model, out, masked = _written(tmp_path, name), tmp_path / "out.onnx", tmp_path / "masked.onnx"
    settings = Settings(data=images)

    repairkit.patch(model, out=out, remove=["a:1"], settings=settings)
    sites = write_instrumented(read_subject(model), settings, masked)

    present, absent = all_present(sites), all_present(sites)
    absent["a/mask"][0, 1] = False
    for image in np.load(images)["x"]:
        plain = run(onnx.load(model), {"image": image[None]})
        assert equal_outputs(run(onnx.load(masked), {"image": image[None], **present}), plain)
        frozen = run(onnx.load(out), {"image": image[None]})
        assert equal_outputs(run(onnx.load(masked), {"image": image[None], **absent}), frozen)


def test_the_mean_comes_from_all_images_where_no_part_was_named(
    images: Path, tmp_path: Path
) -> None:
    model = _written(tmp_path, "segmenter")
    done = repairkit.patch(model, images, out=tmp_path / "out.onnx", remove=["a:1"])
    graph = ODD["segmenter"]()
    graph.graph.output.append(onnx.helper.make_empty_tensor_value_info("x"))
    wanted = run(graph, {"image": np.load(images)["x"]})[1][:, 1].mean(dtype=np.float64)
    assert done.patch.frozen[0].constant == pytest.approx(wanted, rel=1e-6)
    assert done.document["parts"]["how"] == "Means were measured on 5 images (calibration: all)."


def test_without_data_levels_that_need_none_are_proven_on_noise(tmp_path: Path) -> None:
    model, out = _written(tmp_path, "detector"), tmp_path / "out.onnx"
    with pytest.raises(SettingsError, match="a folder of images will do, labels are not needed"):
        repairkit.patch(model, out=out, remove=["a:1"])
    done = repairkit.patch(model, out=out, remove=["b:1"], level="bias")
    assert done.verified.images == "generated noise"
    report = json.loads(done.report_file.read_text())
    jsonschema.validate(report, SCHEMA)
    assert report["data"] == {"path": None, "digest": None}
    assert report["interpretation"] is None
    assert "--data" not in (tmp_path / "out.report.html").read_text()


@pytest.mark.parametrize("kind", ["folder", "deep folder", "table"])
def test_plain_images_without_labels_will_do(kind: str, tmp_path: Path) -> None:
    model = ODD["segmenter"]()
    weights = {t.name: t for t in model.graph.initializer}
    weights["wa"].CopyFrom(
        numpy_helper.from_array(
            np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype("f"), "wa"
        )
    )
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save(model, tmp_path / "m.onnx")
    folder = tmp_path / "images"
    place = folder / "2024" / "may" if kind == "deep folder" else folder
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    data = folder
    if kind == "table":
        data = tmp_path / "images.csv"
        data.write_text("path,taken\n" + "".join(f"images/{n}.png,{n}\n" for n in range(4)))

    out = tmp_path / "out.onnx"
    done = repairkit.patch(tmp_path / "m.onnx", data, out=out, remove=["a:0"])

    assert done.verified.proof.n_images == 4
    assert repairkit.verify(tmp_path / "m.onnx", out, settings=Settings(data=data)).proof.exact


def _dead(name: str = "segmenter") -> onnx.ModelProto:
    """Filter b:1 yields its bias for every image."""
    model = ODD[name]()
    stored = next(t for t in model.graph.initializer if t.name == "wb")
    kernel = numpy_helper.to_array(stored).copy()
    kernel[1] = 0
    stored.CopyFrom(numpy_helper.from_array(kernel, "wb"))
    return model


def test_a_filter_that_holds_its_constant_already_is_named_and_left(
    images: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(_dead(), model)

    done = repairkit.patch(model, images, out=out, remove=["b:1", "a:1", "a:1"])

    assert [f.filter.id for f in done.patch.frozen] == ["a:1"]
    note = next(n for n in done.document["notes"] if n.startswith("b:1 holds the constant"))
    assert note.endswith("already; it was left as it is")
    assert note in json.loads(done.patch_file.read_text())["notes"]


def test_nothing_is_written_where_all_filters_hold_their_constants(
    images: Path, tmp_path: Path
) -> None:
    model, out, twice = tmp_path / "m.onnx", tmp_path / "out.onnx", tmp_path / "twice.onnx"
    onnx.save(_dead(), model)
    before = set(tmp_path.iterdir())
    with pytest.raises(SettingsError, match="nothing to freeze: the filter holds its constant"):
        repairkit.patch(model, images, out=out, remove=["b:1"])
    assert set(tmp_path.iterdir()) == before
    repairkit.patch(model, images, out=out, remove=["a:1", "b:0"])
    with pytest.raises(SettingsError, match="all 2 filters hold their constant already"):
        repairkit.patch(out, images, out=twice, remove=["a:1", "b:0"])
    assert len(repairkit.patch(out, images, out=twice, remove=["a:1", "a:2"]).patch) == 1


def test_freezing_at_another_level_is_no_idle_deed(images: Path, tmp_path: Path) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save(_dead(), model)
    done = repairkit.patch(model, images, out=out, remove=["b:1"], level="zero")
    assert done.patch.frozen[0].constant == 0


def test_a_patch_that_shows_on_no_image_of_the_proof_says_so(images: Path, tmp_path: Path) -> None:
    """The second convolution reads nothing of the first one's filter 3."""
    model = ODD["segmenter"]()
    stored = next(t for t in model.graph.initializer if t.name == "wb")
    kernel = numpy_helper.to_array(stored).copy()
    kernel[:, 3] = 0
    stored.CopyFrom(numpy_helper.from_array(kernel, "wb"))
    onnx.save(model, tmp_path / "m.onnx")
    done = repairkit.patch(tmp_path / "m.onnx", images, out=tmp_path / "out.onnx", remove=["a:3"])
    assert any("changed no output on the 5 images" in note for note in done.document["notes"])
