"""Filters that detect concepts by construction are named; those of random weights are not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import repairkit
from repairkit.api import Dissected
from repairkit.core.errors import DataError, ModelError, RunFolderError, SettingsError
from repairkit.formats.dissection_file import is_dissection, read_dissection
from repairkit.jobs.dissect.dissected import concepts_of
from tests import concept_nets, ensembles, models


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dissected]:
    """The network of detectors, and its dissection on drawn concepts."""
    folder = tmp_path_factory.mktemp("detectors")
    model = folder / "model.onnx"
    onnx.save(concept_nets.detectors(), model)
    out = folder / "dissection"
    return model, repairkit.dissect(model, sites=["detectors"], blocks=6, out=out)


def test_every_detector_is_named_for_its_concept(detectors: tuple[Path, Dissected]) -> None:
    _, done = detectors
    for number, concept in enumerate(concept_nets.DETECTED):
        (detected,) = done.concepts_of(f"detectors:{number}")
        assert detected.concept == concept
        assert detected.named
        assert detected.chance < detected.low < detected.score < detected.high
    assert done.concepts_of("detectors:99") == ()


def test_what_is_written_is_what_is_given(detectors: tuple[Path, Dissected]) -> None:
    _, done = detectors
    assert done.folder is not None
    assert is_dissection(done.folder)
    document = read_dissection(done.folder)
    assert document == done.document == read_dissection(done.folder / "dissection.json")
    assert concepts_of(document, "detectors:0") == done.concepts_of("detectors:0")
    rows = (done.folder / "dissection.csv").read_text().splitlines()
    assert rows[0].startswith("filter,site,channel,concept")
    assert len(rows) == 1 + len(concept_nets.DETECTED)
    source = document["concepts"]
    assert source is not None
    assert source["n_chosen"] + source["n_held_out"] == source["n_images"] == 6 * 26


def test_filters_of_random_weights_are_named_no_more_than_stated(tmp_path: Path) -> None:
    detecting = named = 0
    for seed in range(3):
        model = tmp_path / f"{seed}.onnx"
        onnx.save(concept_nets.random_network(seed, (8,)), model)
        document = repairkit.dissect(model, blocks=6, seed=seed).document
        masks = [each["mask"] for each in document["filters"]]
        detecting += any(mask is not None and mask["detects"] for mask in masks)
        named += any(mask is not None and mask["named"] for mask in masks)
    assert detecting == 3  # random filters do answer to colours
    assert named <= 1  # of 3 layers, each with a chance of 5 %; two or more come once in 140


def test_a_detector_among_random_filters_is_found(tmp_path: Path) -> None:
    model = concept_nets.detectors()
    weights = next(t for t in model.graph.initializer if t.name == "detectors_w")
    kernel = onnx.numpy_helper.to_array(weights).copy()
    rng = np.random.default_rng(0)
    for unit in range(len(kernel)):
        if unit != 4:
            kernel[unit] = rng.permutation(kernel[unit].reshape(-1)).reshape(kernel[unit].shape)
    weights.CopyFrom(onnx.numpy_helper.from_array(kernel, "detectors_w"))
    onnx.save(model, tmp_path / "model.onnx")
    done = repairkit.dissect(tmp_path / "model.onnx", sites=["detectors"], blocks=6, seed=1)
    named = [each["filter"] for each in done.document["filters"] if each["mask"]["named"]]  # type: ignore[index]
    assert named == ["detectors:4"]


def test_classes_and_columns_are_told_without_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 3
    x = rng.integers(90, 160, (200, 3, 32, 32)).astype(np.float32)
    x[np.arange(200), y] += 60
    tint = np.where(rng.random(200) < 0.5, "dim", "bright")
    model = tmp_path / "model.onnx"
    onnx.save(concept_nets.detectors(), model)
    done = repairkit.dissect(
        model, {"x": x, "y": y, "tint": tint}, sites=["parts"], blocks=4, copies=1,
        accept_preprocessing=True, selection="all",
    )  # fmt: skip
    assert done.document["images"] is not None
    assert set(done.document["images"]["columns"]) == {"class", "tint"}
    for channel, label in enumerate(("0", "1", "2")):
        image = done.document["filters"][channel]["image"]
        assert image is not None
        assert (image["column"], image["concept"], image["auc"]) == ("class", label, 1.0)


def test_a_folder_of_concepts_is_compared_as_the_model_sees_it(
    detectors: tuple[Path, Dissected], tmp_path: Path
) -> None:
    model, _ = detectors
    words = {"sites": ["detectors"], "copies": 1}
    drawn = repairkit.dissect(model, blocks=4, draw_to=tmp_path / "set", **words)  # type: ignore[arg-type]
    read = repairkit.dissect(model, concepts=tmp_path / "set", **words)  # type: ignore[arg-type]
    assert drawn.document["filters"] == read.document["filters"]
    assert json.dumps(read.document["concepts"]) != json.dumps(drawn.document["concepts"])


def test_what_cannot_be_dissected_is_told_in_one_line(
    detectors: tuple[Path, Dissected], tmp_path: Path
) -> None:
    model, _ = detectors
    with pytest.raises(DataError, match="does not exist; give a folder with images and masks"):
        repairkit.dissect(model, concepts=tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="leave one out"):
        repairkit.dissect(model, concepts=tmp_path, draw_to=tmp_path)
    (tmp_path / "taken").write_text("text")
    with pytest.raises(RunFolderError, match="is a file; name a folder"):
        repairkit.dissect(model, out=tmp_path / "taken")
    onnx.save(models.own_bias(), tmp_path / "tiny.onnx")
    with pytest.raises(ModelError, match="takes 2 x 6 x 6 per image, and concept images have"):
        repairkit.dissect(tmp_path / "tiny.onnx")


def test_trees_have_no_concepts(tmp_path: Path) -> None:
    onnx.save(ensembles.forest(0).model, tmp_path / "trees.onnx")
    with pytest.raises(ModelError, match="its filters are trees, which respond at no place"):
        repairkit.dissect(tmp_path / "trees.onnx")


def test_dense_units_have_concepts_of_whole_images_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((12, 5)), "v": rng.standard_normal((5, 2))}
    weights |= {"b": rng.standard_normal(5)}
    weights["w"][:, 0] = np.repeat([1, -1], 6)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["image"], ["flat"]),
            onnx.helper.make_node("Gemm", ["flat", "w", "b"], ["hidden"], "hidden"),
            onnx.helper.make_node("Relu", ["hidden"], ["active"]),
            onnx.helper.make_node("MatMul", ["active", "v"], ["logits"], "head"),
        ],
        "dense",
        [onnx.helper.make_tensor_value_info("image", 1, ["n", 3, 2, 2])],
        [onnx.helper.make_tensor_value_info("logits", 1, ["n", 2])],
        [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "d.onnx"
    )
    y = np.arange(120) % 2
    x = rng.standard_normal((120, 3, 2, 2)).astype(np.float32)
    x.reshape(120, 12)[:, :6] += y[:, None]
    words = {"include": ["dense"], "accept_preprocessing": True, "selection": "all"}
    done = repairkit.dissect(tmp_path / "d.onnx", (x, y), **words)  # type: ignore[arg-type]
    first = done.document["filters"][0]
    assert first["mask"] is None
    assert first["image"] is not None
    assert (first["image"]["concept"], first["image"]["detects"]) == ("1", True)
    assert any("respond at no places" in note for note in done.document["notes"])
    with pytest.raises(ModelError, match="give labelled images with --data"):
        repairkit.dissect(tmp_path / "d.onnx", include=["dense"])
