"""Removal curves: their figures against plain ONNX Runtime, their cost, and what they say."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest

import repairkit.formats
from repairkit.core.errors import BudgetError
from repairkit.core.process.stages import Deadline
from repairkit.jobs.curve.removing import CurveLimits, RankedFilters, draw_curve
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests.conftest import Answer, Project
from tests.running import run

Command = Callable[..., Answer]
SCHEMA = json.loads((Path(repairkit.formats.__file__).parent / "run.schema.json").read_text())


def scored(repairkit: Command, project: Project, *more: str, out: str = "run") -> dict[str, Any]:
    how = ("--method", "exact", *more, "-o", out, "--quiet")
    answer = repairkit("score", project.model, *how)
    assert answer.code == 0, answer.err
    document: dict[str, Any] = json.loads(Path(out, "run.json").read_text())
    jsonschema.validate(document, SCHEMA)
    return document


def line(curve: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (each for each in curve["lines"] if each["name"] == name)
    return found


def judged_images(project: Project, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The test images and their labels."""
    bench = prepare(
        read_subject(project.model), Settings(data=project.data, groups=("group",), seed=seed)
    )
    rows = bench.parts.test.indices
    stored = np.load(project.data)
    return stored["x"][rows], stored["y"][rows]


@pytest.mark.parametrize("name", ["highest", "lowest", "weight-norm", "activation-norm"])
def test_every_figure_is_that_of_the_patched_model_in_plain_onnx_runtime(
    repairkit: Command, project: Project, name: str
) -> None:
    curve = scored(repairkit, project, "--metric", "loss")["curve"]
    images, labels = judged_images(project)
    order = line(curve, name)
    assert curve["sizes"] == [0, 1, 2, 3]
    for number, size in enumerate(curve["sizes"]):
        model = onnx.load(project.model)
        if size:
            ids = ",".join(order["filters"][:size])
            how = ("--remove", ids, "-o", "patched.onnx", "--quiet")
            assert repairkit("patch", project.model, *how).code == 0
            model = onnx.load("patched.onnx")
        logits = np.concatenate([run(model, {"image": x[None]})[0] for x in images]).astype(float)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        accuracy, loss = (order["figures"][metric][number] for metric in ("accuracy", "loss"))
        assert accuracy["value"] == (logits.argmax(axis=1) == labels).mean()
        assert loss["value"] == pytest.approx(-logs[np.arange(len(logs)), labels].mean(), rel=1e-5)
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]


def test_the_orders_are_those_of_values_and_norms(repairkit: Command, project: Project) -> None:
    curve = scored(repairkit, project)["curve"]
    with Path("run/scores.csv").open() as file:
        ranked = [row["filter"] for row in csv.DictReader(file)]
    assert line(curve, "highest")["filters"] == ranked[:3]
    assert line(curve, "lowest")["filters"] == ranked[::-1][:3]
    weights = {
        t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(project.model).graph.initializer
    }
    norms = np.linalg.norm(weights["w"].reshape(4, -1), axis=1)
    by_norm = [f"conv:{channel}" for channel in np.argsort(-norms)]
    assert line(curve, "weight-norm")["filters"] == by_norm[:3]


def test_random_filters_are_a_mean_among_their_draws(repairkit: Command, project: Project) -> None:
    curve = scored(repairkit, project)["curve"]
    random = line(curve, "random")
    assert random["draws"] == 5
    assert random["filters"] == []
    for figure in random["figures"]["accuracy"]:
        assert figure["low"] <= figure["value"] <= figure["high"]
    start, plain = (each["figures"]["accuracy"][0] for each in (random, line(curve, "highest")))
    assert start["low"] == start["high"] == plain["value"]
    assert any(f["low"] < f["high"] for f in random["figures"]["accuracy"])


def test_any_number_of_workers_draws_the_same_curve(repairkit: Command, project: Project) -> None:
    one, two = (
        scored(repairkit, project, "--workers", n, out=f"run{n}")["curve"] for n in ("1", "2")
    )
    assert {**one, "seconds": 0} == {**two, "seconds": 0}
    assert Path("run1/curve.csv").read_bytes() == Path("run2/curve.csv").read_bytes()


def test_the_table_holds_the_figures_of_the_run(repairkit: Command, project: Project) -> None:
    curve = scored(repairkit, project)["curve"]
    with Path("run/curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(
        len(figures) for each in curve["lines"] for figures in each["figures"].values()
    )
    for row in rows:
        figure = line(curve, row["line"])["figures"][row["metric"]]
        known = figure[curve["sizes"].index(int(row["frozen"]))]
        assert [float(row[name]) for name in ("value", "low", "high")] == list(known.values())
    along = [r for r in rows if r["line"] == "highest" and r["metric"] == "accuracy"]
    added = " ".join(row["added"] for row in along).split()
    assert added == line(curve, "highest")["filters"]


def test_the_result_says_which_images_judged(repairkit: Command, project: Project) -> None:
    document = scored(repairkit, project)
    n_test = document["parts"]["test"]
    assert document["curve"]["judged"] == f"{n_test} images of the test part, which scored nothing"
    document = scored(repairkit, project, "--test", "none", out="none")
    n_selected = document["parts"]["selection"]
    assert document["curve"]["judged"] == (
        f"there is no test part: {n_selected} images of the selection part judged, which scored "
        "the filters too, so that the curve flatters the values"
    )
    document = scored(repairkit, project, "--test", "all", "--selection", "all", out="all")
    assert "shares images with the selection part" in document["curve"]["judged"]
    answer = repairkit(
        "score", project.model, "--method", "weight-norm", "--test", "none", "-o", "n"
    )
    assert "flatters" not in answer.out
    assert "there is no test part" in answer.out


def test_a_reader_who_looks_for_harm_sees_the_harmful_end_first(
    repairkit: Command, project: Project
) -> None:
    assert scored(repairkit, project)["curve"]["lead"] == "highest"
    groups = scored(repairkit, project, "--metric", "group_accuracy", out="groups")["curve"]
    assert groups["lead"] == "lowest"
    gap = "demographic_parity_difference"
    assert scored(repairkit, project, "--metric", gap, out="gap")["curve"]["lead"] == "highest"
    lowest = ("--method", "tmab", "--side", "lowest", "--max-evaluations", "200", "-o", "side")
    assert repairkit("score", project.model, *lowest, "--quiet").code == 0
    assert json.loads(Path("side/run.json").read_text())["curve"]["lead"] == "lowest"


def test_a_run_may_have_no_curve_and_says_so_again(repairkit: Command, project: Project) -> None:
    with_one = scored(repairkit, project)
    assert "--no-curve" not in with_one["again"]["words"]
    without = scored(repairkit, project, "--no-curve")
    assert "curve" not in without
    assert without["again"]["words"][-1] == "--no-curve"
    assert without["key"] == with_one["key"]
    assert not Path("run/curve.csv").exists()


def test_a_patch_looks_at_no_test_image_to_value_filters(
    repairkit: Command, project: Project
) -> None:
    how = ("--objective", "accuracy", "-o", "out.onnx", "--json")
    answer = repairkit("patch", project.model, *how)
    assert answer.code in (0, 4)
    assert '"curve"' not in answer.out


def bench_of(project: Project) -> Any:
    return prepare(read_subject(project.model), Settings(data=project.data))


def test_a_curve_keeps_to_what_it_may_take(project: Project) -> None:
    bench = bench_of(project)
    ranking = RankedFilters(players=np.arange(4), method="exact")
    whole = draw_curve(bench, ranking)
    n_rows = whole["evaluations"]
    assert n_rows == 1 + 3 * (4 + 5)
    assert whole["n_images"] == whole["n_part"] == len(bench.parts.test)
    with pytest.raises(BudgetError, match="more than a tenth of the run's passes"):
        draw_curve(bench, ranking, CurveLimits(passes=10))
    with pytest.raises(BudgetError, match="more than the time that was left"):
        draw_curve(bench, ranking, CurveLimits(deadline=Deadline(0.0, 0.0)))


def test_where_a_curve_cannot_be_drawn_the_scores_stand(
    repairkit: Command, project: Project
) -> None:
    """A class without a test image gives no recall there."""
    stored = dict(np.load(project.data))
    split = np.array(["selection", "test"] * (len(stored["y"]) // 2))
    split[stored["y"] == 2] = "selection"
    np.savez(project.data, **stored, split=split)
    document = scored(repairkit, project, "--metric", "recall:2")
    assert document["finished"]
    assert "curve" not in document
    (note,) = (n for n in document["notes"] if n.startswith("no removal curve was drawn"))
    assert "repairkit curve run draws it" in note
    assert Path("run/scores.csv").is_file()


def test_a_finished_run_gets_its_curve_when_it_is_resumed(
    repairkit: Command, project: Project
) -> None:
    without = scored(repairkit, project, "--no-curve")
    resumed = scored(repairkit, project, "--resume")
    whole = scored(repairkit, project, out="whole")
    assert "curve" not in without
    assert {**resumed["curve"], "seconds": 0} == {**whole["curve"], "seconds": 0}
    assert Path("run/scores.csv").read_bytes() == Path("whole/scores.csv").read_bytes()
