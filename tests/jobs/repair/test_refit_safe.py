"""`patch --refit-safe`: what it freezes changes numbers alone, and what needs more is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import repairkit as package
from repairkit.core.errors import SettingsError
from repairkit.graph.kinds.sites import survey
from repairkit.graph.new_weights import needs_of_sites
from tests import models, zoo
from tests.conftest import Answer
from tests.running import only_numbers_differ

Command = Callable[..., Answer]
BARE, KEPT = "bare", "kept"
"""A layer without a bias, whose freezing adds one; and a layer with one."""
FAST = ("--method", "exact", "--objective", "accuracy", "--json")


def write_two_layers(folder: Path, harmful: str, *, n: int = 400) -> tuple[Path, Path]:
    """A model of two layers on one image, and images; filter 1 of one layer misleads it."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    sign = 2.0 * y - 1
    misled = rng.random(n) < 0.45
    own = sign + 0.2 * rng.normal(size=n)
    x = np.stack([own, np.where(misled, -3 * sign, 0.0), rng.normal(size=n)], axis=1)
    np.savez(folder / "data.npz", x=x[:, :, None, None].astype(np.float32), y=y)
    good = np.eye(3, dtype=np.float32)
    good[1] = good[2]  # in place of the misleading filter, one of noise
    kernels = {BARE: good, KEPT: good, harmful: np.eye(3, dtype=np.float32)}
    head = np.array([[-1, 1], [-1, 1], [0, 0]] * 2, np.float32)
    head[[1, 4]] *= [[float(harmful == BARE)], [float(harmful == KEPT)]]
    weights = {f"{name}_w": kernel[:, :, None, None] for name, kernel in kernels.items()}
    weights |= {"kept_b": np.zeros(3, np.float32), "head": head}
    nodes = [
        helper.make_node("Conv", ["image", "bare_w"], ["a"], BARE),
        helper.make_node("Conv", ["image", "kept_w", "kept_b"], ["b"], KEPT),
        helper.make_node("Concat", ["a", "b"], ["both"], "join", axis=1),
        helper.make_node("Flatten", ["both"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "head"], ["logits"], "dense"),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 1, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx", folder / "data.npz"


def document(answer: Answer) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    made: dict[str, Any] = json.loads(answer.out)
    return made


def sites_of(made: dict[str, Any]) -> set[str]:
    return {each["filter"].rpartition(":")[0] for each in made["frozen"]}


def test_a_search_leaves_out_what_needs_more(repairkit: Command, tmp_path: Path) -> None:
    model, data = write_two_layers(tmp_path, KEPT)
    made = document(repairkit("patch", model, "--data", data, "--refit-safe", *FAST))
    assert sites_of(made) == {KEPT}
    assert made["runtime"]["refit"] is True
    assert made["choice"]["refit_safe"] is True
    assert "--refit-safe" in made["again"]["words"]
    assert {row["name"] for row in made["runtime"]["tensors"]} == {"kept_w", "kept_b"}
    assert only_numbers_differ(onnx.load(model), onnx.load(made["patched_model"]))
    (note,) = (note for note in made["notes"] if "--refit-safe" in note)
    assert "left out 3 filters of 1 site (bare)" in note
    assert "has no bias" in note


def test_where_the_harm_needs_more_it_is_declined_or_made_without_the_option(
    repairkit: Command, tmp_path: Path
) -> None:
    model, data = write_two_layers(tmp_path, BARE)
    plain = document(repairkit("patch", model, "--data", data, *FAST))
    assert f"{BARE}:1" in {each["filter"] for each in plain["frozen"]}
    assert plain["runtime"]["refit"] is False
    assert plain["runtime"]["needs"][0]["tensor"] == "bare/bias"
    assert not only_numbers_differ(onnx.load(model), onnx.load(plain["patched_model"]))
    Path(plain["patched_model"]).unlink()
    answer = repairkit("patch", model, "--data", data, "--refit-safe", *FAST)
    assert answer.code == 4, answer.out
    assert not list(Path.cwd().glob("*.patched.onnx"))


def test_a_run_of_all_filters_ranks_those_that_are_left(repairkit: Command, tmp_path: Path) -> None:
    model, data = write_two_layers(tmp_path, KEPT)
    how = ("--data", data, "--metric", "accuracy", "--method", "exact", "--quiet", "-o", "run")
    assert repairkit("score", model, *how).code == 0
    run = ("--scores", "run", "--refit-safe", "--json")
    assert sites_of(document(repairkit("patch", model, "--data", data, *run))) == {KEPT}
    top = ("--scores", "run", "--remove-top", "6", "--refit-safe")
    answer = repairkit("patch", model, "--data", data, *top)
    assert answer.code == 1
    assert "--refit-safe refuses" in answer.err
    assert f"{BARE}:0" in answer.err


@pytest.mark.parametrize("level", ["zero", "bias"])
def test_named_filters_are_refused_in_one_line(
    repairkit: Command, tmp_path: Path, level: str
) -> None:
    model, _ = write_two_layers(tmp_path, KEPT)
    safe = ("--level", level, "--refit-safe")
    answer = repairkit("patch", model, "--remove", "bare:0,kept:1,bare:2", *safe)
    assert answer.code == 1
    (line,) = (line for line in answer.err.splitlines() if "refuses" in line)
    assert "--refit-safe refuses bare:0, bare:2: freezing bare:0 adds a tensor" in line
    assert not list(Path.cwd().glob("*.patched*"))
    made = document(repairkit("patch", model, "--remove", "kept:1", *safe, "--json"))
    assert only_numbers_differ(onnx.load(model), onnx.load(made["patched_model"]))


def test_without_any_filter_that_is_left_the_reason_is_told(
    repairkit: Command, tmp_path: Path
) -> None:
    onnx.save(models.no_bias(), tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=models.images(90), y=rng.integers(0, 3, 90))
    words = ("--data", tmp_path / "data.npz", "--objective", "accuracy", "--refit-safe")
    answer = repairkit("patch", tmp_path / "model.onnx", *words)
    assert answer.code == 1
    assert "--refit-safe leaves no filter to freeze" in answer.err
    assert "--repair last-layer" in answer.err
    assert "'conv/bias'" in answer.err


def test_the_last_layer_is_changed_by_new_weights_or_not_at_all(
    repairkit: Command, tmp_path: Path
) -> None:
    model, data = write_two_layers(tmp_path, BARE)
    words = ("--data", data, "--repair", "last-layer", "--refit-safe", "--objective", "accuracy")
    made = document(repairkit("patch", model, *words, "--json"))
    assert made["runtime"]["refit"] is True
    assert [row["name"] for row in made["runtime"]["tensors"]] == ["head"]
    assert only_numbers_differ(onnx.load(model), onnx.load(made["patched_model"]))
    biases = ("--data", data, "--repair", "bias", "--objective", "accuracy")
    plain, safe = (repairkit("patch", model, *biases, *more) for more in ([], ["--refit-safe"]))
    assert plain.code == safe.code == 1
    assert plain.err.splitlines()[-1] == safe.err.splitlines()[-1]
    shared = onnx.load(model)
    shared.graph.node.append(helper.make_node("Identity", ["head"], ["again"], "reads_it_too"))
    shared.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, [6, 2]))
    onnx.save(shared, tmp_path / "shared.onnx")
    answer = repairkit("patch", tmp_path / "shared.onnx", *words, "--output", "logits")
    assert answer.code == 1
    assert "--refit-safe rules it out" in answer.err
    assert "'head' is read elsewhere, too" in answer.err


def walked(model: Path, out: Path) -> None:
    """A patch of one filter of each site that is left changes no name, shape or type."""
    before = onnx.load(model)
    found = survey(before)
    needs = needs_of_sites(found)
    left = [site.name for site in found.sites if site.name not in needs]
    words: dict[str, Any] = {"out": out, "absent": "zero", "refit_safe": True}
    if left:
        names = [f"{name}:0" for name in left]
        done = package.patch(model, remove=names, **words)
        assert only_numbers_differ(before, onnx.load(out))
        assert done.document["runtime"]["refit"] is True
    for name in list(needs)[:1]:
        with pytest.raises(SettingsError, match="refuses"):
            package.patch(model, remove=[f"{name}:0"], **words)
    assert left or needs


@pytest.mark.parametrize("name", sorted(models.LAYERS))
def test_patches_of_tiny_models_change_no_tensors_name_shape_or_type(
    name: str, tmp_path: Path
) -> None:
    onnx.save(models.LAYERS[name](), tmp_path / "model.onnx")
    walked(tmp_path / "model.onnx", tmp_path / "out.onnx")


@pytest.mark.slow
@zoo.needs_zoo
@pytest.mark.parametrize("path", zoo.ZOO_MODELS, ids=lambda path: path.stem)
def test_patches_of_public_models_change_no_tensors_name_shape_or_type(
    path: Path, tmp_path: Path
) -> None:
    walked(path, tmp_path / "out.onnx")
