"""What CONTRIBUTING.md shows as code is run as it stands there."""

from __future__ import annotations

import csv
import importlib
import json
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repairkit.core.filters import Filter, FrozenFilter, Patch
from repairkit.estimators import registry
from repairkit.graph.baking import bake, infer_patch, is_idle, representable, revert
from repairkit.graph.coalitions.masking import mask_name
from repairkit.graph.kinds import sites
from repairkit.graph.stored.model_files import same_model
from repairkit.jobs.repair import patching
from repairkit.jobs.setup import subject
from repairkit.metrics import catalogue
from tests.cli.test_commands import harm
from tests.conftest import Answer, Project
from tests.running import run

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
OPERATOR = "InstanceNormalization"  # of the example of a kind of site
Command = Callable[..., Answer]
Example = Callable[[str], Any]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports the block of code that opens with a comment of a title, from a file of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(title: str) -> Any:
        text = PAGE.read_text(encoding="utf-8")
        blocks = dict(re.findall(r"```python\n# (.*?)\n(.*?)```", text, re.DOTALL))
        name = f"contributing_{title.split()[-1]}"
        (tmp_path / f"{name}.py").write_text(blocks[title], encoding="utf-8")
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("page", [PAGE, ROOT / "docs" / "architecture.md"], ids=lambda p: p.name)
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    known = {
        f"/{path.relative_to(ROOT).as_posix()}"
        for folder in ("repairkit", "adapters", "tests", "docs", "benchmarks")
        for path in (ROOT / folder, *(ROOT / folder).rglob("*"))
    }
    tokens = re.findall(r"`([\w/.]+(?:\.py|/))`", page.read_text(encoding="utf-8"))
    assert len(tokens) > 10
    missing = [t for t in tokens if not any(path.endswith(f"/{t.rstrip('/')}") for path in known)]
    assert missing == []


def test_every_example_is_tested() -> None:
    titles = re.findall(r"```python\n# (.*?)\n", PAGE.read_text(encoding="utf-8"))
    kinds = ["a kind of site", "a metric", "a repair", "an adapter", "an estimator"]
    assert sorted(titles) == kinds


def test_the_metric_is_scored_and_shown(
    repairkit: Command,
    project: Project,
    example: Example,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    misses = example("a metric").MISSES
    monkeypatch.setattr(catalogue, "METRICS", (*catalogue.METRICS, misses))
    answer = repairkit(
        "score", project.model, "--metric", "misses", "--metric", "accuracy", "-o", "run"
    )
    assert answer.code == 0, answer.err
    figures = json.loads(Path("run/run.json").read_text())["metrics"]
    assert figures["misses"]["all"] == pytest.approx(1 - figures["accuracy"]["all"])
    assert "share of wrong answers" in answer.out


def test_the_estimator_scores(
    repairkit: Command,
    project: Project,
    example: Example,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {**registry.ESTIMATORS, "banzhaf": example("an estimator").Banzhaf}
    monkeypatch.setattr(registry, "ESTIMATORS", known)
    monkeypatch.setattr("repairkit.jobs.score.methods.ESTIMATORS", known, raising=False)
    values = []
    for method in ("banzhaf", "exact"):
        answer = repairkit(
            "score", project.model, "--metric", "loss", "--method", method, "-o", method
        )
        assert answer.code == 0, answer.err
        with Path(method, "scores.csv").open() as file:
            values.append([float(row["value"]) for row in csv.DictReader(file)])
    # Banzhaf and Shapley values differ, but not in what is large.
    assert np.corrcoef(values)[0, 1] > 0.8


def test_the_repair_is_confirmed_like_all_others(
    repairkit: Command,
    project: Project,
    example: Example,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    harm(project)
    strategy = example("a repair").FreezeOneStrategy()
    monkeypatch.setattr(patching, "CURES", (*patching.CURES, strategy))
    answer = repairkit("patch", project.model, "--fairness", "--repair", "freeze-one", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert [frozen["filter"] for frozen in document["frozen"]] == ["conv:2"]
    assert document["selection"]["promise"]["reached"] is not None


def test_the_adapter_exports_proves_and_maps_its_model(
    repairkit: Command, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = example("an adapter").ADAPTER
    point = EntryPoint("pointwise", f"{adapter.__class__.__module__}:ADAPTER", subject.GROUP)
    monkeypatch.setattr(subject, "entry_points", lambda **_: [point])
    weights = np.random.default_rng(1).normal(size=(4, 3))
    np.save("tiny.pointwise.npy", weights)
    answer = repairkit("export", "tiny.pointwise.npy", "-o", "tiny.onnx", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["framework"] == "pointwise"
    assert Path("tiny.onnx").exists()


def normalised() -> ModelProto:
    """A normalisation of three channels, and their means."""
    stored = {"scale": [1.0, 0.5, 2.0], "bias": [0.1, -0.2, 0.3]}
    graph = helper.make_graph(
        [
            helper.make_node(OPERATOR, ["image", "scale", "bias"], ["made"], "norm"),
            helper.make_node("Exp", ["made"], ["raised"]),
            helper.make_node("GlobalAveragePool", ["raised"], ["output"]),
        ],
        "normalised",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 3, 1, 1])],
        [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_kind_of_site_is_found_masked_frozen_and_undone(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = normalised()
    assert sites.survey(model).sites == ()
    norms = example("a kind of site").NORMS
    monkeypatch.setattr(sites, "KINDS", (*sites.KINDS, norms))
    monkeypatch.setitem(sites._KIND_OF, OPERATOR, norms)
    surveyed = sites.survey(model)
    site = surveyed.sites[0]
    assert (site.name, site.kind, site.n_channels) == ("norm", OPERATOR, 3)
    levels = representable(surveyed, {"norm": np.array([0.25, 0.5, -1.0])})
    frozen = [FrozenFilter(Filter("norm", c), float(levels["norm"][c])) for c in (0, 2)]
    images = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)
    mask = np.array([False, True, False]).reshape(1, 3, 1, 1)
    instrumented = sites.instrument(model, surveyed.sites, levels)
    masked = run(instrumented, {"image": images, mask_name(site): mask})[0]
    baked = bake(surveyed, Patch(tuple(frozen)))
    np.testing.assert_array_equal(run(baked.model, {"image": images})[0], masked)
    after = sites.survey(baked.model)
    assert infer_patch(surveyed, after) == Patch(tuple(frozen))
    assert not is_idle(surveyed, frozen[0])
    assert is_idle(after, frozen[0])
    assert same_model(revert(baked.model, baked.edits), model)
