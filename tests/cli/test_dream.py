"""`repairkit dream`: pictures, the record, and what is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import repairkit as package
from repairkit.core.filters import Filter
from repairkit.dreams.evolution import Evolution
from repairkit.formats.documents import fault_of
from repairkit.formats.dreams_file import DreamsDocument, picture_name
from repairkit.graph.kinds.sites import find_sites
from repairkit.jobs.dream import dream
from tests.cli.test_layer_names import with_layers
from tests.conftest import Answer, Project
from tests.ensembles import forest

Command = Callable[..., Answer]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short searches: how good dreams are is tested elsewhere."""
    usual = dream.DreamSettings
    short = Evolution(n_first=32, n_generations=4)
    monkeypatch.setattr(
        "repairkit.api.models.DreamSettings",
        lambda **words: replace(usual(**words), evolution=short),
    )


def test_dreams_are_pictures_with_a_record(repairkit: Command, project: Project) -> None:
    words = ("dream", project.model, "conv:1", "conv:0", "--data", project.data, "--diverse", "2")
    answer = repairkit(*words, "-o", "made", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    made = Path("made")
    kept = json.loads((made / "dreams.json").read_text())
    assert {"out": "made", **kept} == document
    assert fault_of(kept, DreamsDocument) == ""
    assert [entry["filter"] for entry in kept["dreams"]] == ["conv:1"] * 2 + ["conv:0"] * 2
    assert kept["images"]["n_images"] > 10
    with np.load(made / "dreams.npz") as stored:
        inputs = stored["x"]
    assert inputs.shape == (4, 2, 6, 6)
    for entry in kept["dreams"]:
        with Image.open(made / entry["picture"]) as picture:
            assert min(picture.size) >= 100
        assert entry["excess"] is not None
        assert entry["control_filter"] in {"conv:1", "conv:0"} - {entry["filter"]}
    # One seed, one answer, byte for byte; and dreams replace dreams.
    before = {p.name: p.read_bytes() for p in made.iterdir() if p.suffix != ".json"}
    again = repairkit(*words, "-o", "made")
    assert again.code == 0, again.err
    assert {p.name: p.read_bytes() for p in made.iterdir() if p.suffix != ".json"} == before
    assert "above the best of" in again.out
    assert "forward passes alone" in again.out


def test_filters_are_named_by_layers_too(repairkit: Command, project: Project) -> None:
    site = with_layers(project.model)
    answer = repairkit("dream", project.model, "backbone.stages.0.conv0:1", "--json")
    assert answer.code == 0, answer.err
    (entry,) = json.loads(answer.out)["dreams"]
    assert entry["filter"] == f"{site}:1"
    assert entry["layer"] == "backbone.stages.0.conv0:1"
    shown = repairkit("dream", project.model, "backbone.stages.0.conv0:1")
    assert "backbone.stages.0.conv0:1" in shown.out


def test_python_takes_names_and_filters_and_writes_nothing_unasked(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    made = package.dream(project.model, "conv:1", seed=3)
    same = package.dream(project.model, [Filter("conv", 1)], seed=3)
    assert made.dreams[0].input.tobytes() == same.dreams[0].input.tobytes()
    assert made.folder is None
    assert sorted(tmp_path.rglob("*")) == before
    assert "1 dream of 1 filter" in repr(made)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("conv:99",), "has 4 filters"),
        (("nowhere:0",), "no site 'nowhere'"),
        (("conv",), "is not a filter id"),
        (("conv:1", "--at", "edge"), "choose centre or channel"),
        (("conv:1", "--range", "1,0"), "the pixel range is empty"),
        (("conv:1", "--source", "nowhere:make"), "nowhere"),
    ],
)
def test_what_cannot_be_dreamt_is_told_in_a_line(
    words: tuple[str, ...], line: str, repairkit: Command, project: Project
) -> None:
    answer = repairkit("dream", project.model, *words, "--data", project.data, "-o", "made")
    assert answer.code in (1, 2)
    assert answer.err.count("\n") == 1
    assert line in answer.err
    assert not list(Path().glob("made/*"))


def test_no_filter_is_wrong_usage(repairkit: Command, project: Project) -> None:
    answer = repairkit("dream", project.model)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "FILTER" in answer.err


def test_rows_of_numbers_and_trees_have_no_dreams(repairkit: Command, tmp_path: Path) -> None:
    trees = forest(0, kind="TreeEnsembleClassifier").model
    onnx.save(trees, tmp_path / "trees.onnx")
    (site,) = find_sites(trees)
    answer = repairkit("dream", "trees.onnx", f"{site.name}:0")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "only channels have dreams" in answer.err
    onnx.save(rows_model(), tmp_path / "rows.onnx")
    answer = repairkit("dream", "rows.onnx", "hidden:0", "--include", "dense")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "a dream is a picture" in answer.err


def rows_model() -> onnx.ModelProto:
    """A network of two dense layers that takes rows of five numbers."""
    rng = np.random.default_rng(0)
    weights = {"a": rng.standard_normal((5, 4)), "b": rng.standard_normal((4, 2)), "c": np.ones(4)}
    nodes = [
        helper.make_node("Gemm", ["rows", "a", "c"], ["sums"], "hidden"),
        helper.make_node("Relu", ["sums"], ["bent"]),
        helper.make_node("MatMul", ["bent", "b"], ["scores"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("rows", 1, ["n", 5])],
        [helper.make_tensor_value_info("scores", 1, ["n", 2])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def test_a_folder_of_other_files_stays_as_it_is(repairkit: Command, project: Project) -> None:
    Path("own").mkdir()
    Path("own/thesis.txt").write_text("years of work")
    answer = repairkit("dream", project.model, "conv:1", "-o", "own")
    assert answer.code in (1, 2)
    assert "holds other files" in answer.err
    assert [p.name for p in Path("own").iterdir()] == ["thesis.txt"]
    answer = repairkit("dream", project.model, "conv:1", "-o", "own/thesis.txt")
    assert answer.code in (1, 2)
    assert Path("own/thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("site", "name"),
    [
        ("model/conv2d/BiasAdd", "001-model-conv2d-BiasAdd-7.png"),
        ("../../etc/passwd", "001-etc-passwd-7.png"),
        ("<script>", "001-script-7.png"),
        ("слой", "001-site-7.png"),
        ("a" * 300, f"001-{'a' * 80}-7.png"),
    ],
)
def test_names_of_pictures_are_plain(site: str, name: str) -> None:
    assert picture_name(0, f"{site}:7", 0, diverse=False) == name
    assert picture_name(0, f"{site}:7", 1, diverse=True) == name.replace(".png", "-2.png")
