"""Forests and boosters on real tables: exact values, patches, and the same commands as images."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from importlib.resources import files
from math import comb
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import repairkit
from repairkit.formats.patch_file import read_patch_file
from repairkit.graph.baking import revert
from repairkit.graph.metadata import read_claims, write_claims
from repairkit.graph.stored.model_files import read_model, same_model
from repairkit.jobs.setup.workbench import Settings
from tests.conftest import Answer
from tests.running import run
from tests.tables import boosted, converted, in_parts, save, write_table

Command = Callable[..., Answer]
FLOOR = 1e-7


def shapley(worth: np.ndarray, n: int) -> np.ndarray:
    """Shapley values from the worth of every coalition, player i being bit i."""
    codes = np.arange(2**n)
    sizes = ((codes[:, None] >> np.arange(n)) & 1).sum(1)
    values = np.zeros(n)
    for player in range(n):
        without = codes[(codes >> player) & 1 == 0]
        weight = np.array([1 / (n * comb(n - 1, int(s))) for s in sizes[without]])
        values[player] = weight @ (worth[without | (1 << player)] - worth[without])
    return values


def enumerate_forest(
    forest: RandomForestClassifier, x: np.ndarray, y: np.ndarray, calibration: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The worth of every coalition for accuracy and for loss, by scikit-learn's own trees.

    Leaves are rounded to the 32-bit floats that the file holds, and added one after another as
    32-bit floats, as the operator does.
    """
    n = len(forest.estimators_)
    shares = np.stack([tree.predict_proba(x) for tree in forest.estimators_]) / n
    known = np.stack([tree.predict_proba(calibration) for tree in forest.estimators_]) / n
    leaves = shares.astype(np.float32)
    means = known.astype(np.float32).astype(np.float64).mean(axis=1).astype(np.float32)
    n_classes = leaves.shape[2]
    accuracy, loss = np.empty(2**n), np.empty(2**n)
    for code in range(2**n):
        total = np.zeros((len(x), n_classes), np.float32)
        for tree in range(n):
            total += leaves[tree] if (code >> tree) & 1 else means[tree]
        if n_classes == 2:  # the file holds weights of the second class alone
            total[:, 0] = np.float32(1) - total[:, 1]
        own = total.astype(np.float64)[np.arange(len(y)), y]
        accuracy[code] = (total.argmax(axis=1) == y).mean()
        loss[code] = -np.clip(np.log(np.maximum(own, FLOOR)), None, 0).mean()
    return accuracy, loss


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_exact_values_of_ten_trees_equal_an_enumeration_by_scikit_learn(
    load: Callable[..., Any], repairkit: Command, tmp_path: Path
) -> None:
    x, y = load(return_X_y=True)
    forest = RandomForestClassifier(10, max_depth=3, random_state=0, n_jobs=1).fit(x[::2], y[::2])
    path = save(converted(forest, x.astype(np.float32)), tmp_path / "forest.onnx")
    split = np.array(in_parts(len(x)))
    data = write_table(tmp_path / "rows.csv", x, y, split=split)
    answer = repairkit(
        *("score", path, "--data", data, "--method", "exact", "--json", "--quiet"),
        *("--metric", "accuracy", "--metric", "loss"),
    )
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    chosen = split == "selection"
    worths = enumerate_forest(forest, x[chosen], y[chosen], x[split == "calibration"])
    rows = sorted(document["scores"], key=lambda row: row["channel"])
    for metric, column, worth in zip(
        ("accuracy", "loss"), ("value", "value:loss"), worths, strict=True
    ):
        found = np.array([row[column] for row in rows])
        np.testing.assert_allclose(found, shapley(worth, 10), rtol=0, atol=1e-9)
        ends = document["metrics"][metric]
        assert ends == pytest.approx({"all": worth[-1], "none": worth[0]}, abs=1e-9)
        assert found.sum() == pytest.approx(ends["all"] - ends["none"], abs=1e-9)
    assert document["engine"] == "sums of leaves"


def test_a_forest_of_fifty_trees_is_scored_patched_verified_and_undone(
    repairkit: Command, tmp_path: Path
) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    size = np.where(x[:, 0] > np.median(x[:, 0]), "large", "small")
    forest = RandomForestClassifier(50, max_depth=4, max_features=2, random_state=0)
    path = save(converted(forest.fit(x[:60], y[:60]), x.astype(np.float32)), tmp_path / "f.onnx")
    data = write_table(tmp_path / "rows.csv", x[60:], y[60:], size=size[60:])
    common = ("--data", data, "--group", "size")
    run_folder, out = tmp_path / "run", tmp_path / "patched.onnx"
    answer = repairkit(
        *("score", path, *common, "--metric", "loss", "--method", "permutation"),
        *("--max-evaluations", 1500, "-o", run_folder, "--quiet"),
    )
    assert answer.code == 0, answer.err
    with (run_folder / "scores.csv").open() as file:
        ranked = [row["filter"] for row in csv.DictReader(file)]
    assert len(ranked) == 50
    lines = json.loads((run_folder / "run.json").read_text())["curve"]["lines"]
    words = {line["words"] for line in lines}
    assert {"greatest norms of leaves first", "greatest mean absolute answers first"} <= words
    assert not any("kernel" in each or "activation" in each for each in words)
    worst = ",".join(ranked[-5:])
    answer = repairkit("patch", path, *common, "--remove", worst, "-o", out, "--json", "--quiet")
    assert answer.code == 0, answer.err
    proof = json.loads(answer.out)["verification"]
    assert proof["exact_without_optimisation"]
    assert proof["relative_difference_with_optimisation"] <= 1e-5
    patch_file = tmp_path / "patched.patch.json"
    schema = (files("repairkit.formats") / "patch.schema.json").read_text()
    jsonschema.validate(json.loads(patch_file.read_text()), json.loads(schema))
    for options in ((), ("--patch", patch_file), ("--data", data)):
        assert repairkit("verify", path, out, *options).code == 0
    claimed = onnx.load(out)
    assert [a.name for a in claimed.graph.output] == ["output_label", "output_probability"]
    file, model = read_patch_file(patch_file), read_model(out).model
    undone = revert(model, file.edits)
    write_claims(undone, read_claims(model)[:-1])
    assert same_model(undone, read_model(path).model)
    assert undone.SerializeToString() == path.read_bytes()


def test_a_leaf_that_was_changed_besides_is_found_out(repairkit: Command, tmp_path: Path) -> None:
    x, y = load_wine(return_X_y=True)
    forest = RandomForestClassifier(5, max_depth=3, random_state=0).fit(x, y)
    path = save(converted(forest, x.astype(np.float32)), tmp_path / "f.onnx")
    data = write_table(tmp_path / "rows.csv", x, y)
    out = tmp_path / "p.onnx"
    frozen = "TreeEnsembleClassifier:1"
    answer = repairkit("patch", path, "--data", data, "--remove", frozen, "-o", out, "--quiet")
    assert answer.code == 0, answer.err
    model = onnx.load(out)
    weights = next(a for a in model.graph.node[0].attribute if a.name == "class_weights")
    weights.floats[0] += 0.25
    onnx.save(model, out)
    answer = repairkit("verify", path, out)
    assert answer.code == 3
    assert "is not the original with just the claimed changes" in answer.err


def test_a_patch_of_a_forest_of_three_classes_is_applied_read_off_and_taken_back(
    repairkit: Command, tmp_path: Path
) -> None:
    x, y = load_wine(return_X_y=True)
    forest = RandomForestClassifier(5, max_depth=3, random_state=0).fit(x, y)
    path = save(converted(forest, x.astype(np.float32)), tmp_path / "f.onnx")
    data = write_table(tmp_path / "rows.csv", x, y)
    out, again, back = (tmp_path / f"{name}.onnx" for name in ("p", "again", "back"))
    frozen = "TreeEnsembleClassifier:1,TreeEnsembleClassifier:4"
    answer = repairkit("patch", path, "--data", data, "--remove", frozen, "-o", out, "--quiet")
    assert answer.code == 0, answer.err
    patch_file = tmp_path / "p.patch.json"
    answer = repairkit("apply", path, patch_file, "-o", again)
    assert answer.code == 0, answer.err
    assert again.read_bytes() == out.read_bytes()
    assert repairkit("revert", again, patch_file, "-o", back, "--quiet").code == 0
    assert back.read_bytes() == path.read_bytes()
    answer = repairkit("apply", out, patch_file, "-o", tmp_path / "twice.onnx")
    assert answer.code == 3, answer.err
    unclaimed = onnx.load(out)
    del unclaimed.metadata_props[:]
    onnx.save(unclaimed, tmp_path / "unclaimed.onnx")
    answer = repairkit("verify", path, tmp_path / "unclaimed.onnx")
    assert answer.code == 0, answer.err
    assert all(name in answer.out for name in frozen.split(","))


def _cases() -> dict[str, Callable[[], tuple[onnx.ModelProto, np.ndarray, np.ndarray]]]:
    wine, cancer, sugar = (
        f(return_X_y=True) for f in (load_wine, load_breast_cancer, load_diabetes)
    )
    plain = {"options": {"zipmap": False}}

    def case(model: Any, data: Any, dtype: str = "float32", **options: Any) -> Any:
        x, y = data
        return lambda: (converted(model.fit(x, y), x.astype(dtype), **options), x, y)

    few = {"random_state": 0, "max_depth": 3}
    return {
        "forest": case(RandomForestClassifier(5, **few), wine),
        "forest in doubles": case(RandomForestClassifier(5, **few), cancer, "float64", **plain),
        "named classes": case(
            RandomForestClassifier(5, **few), (cancer[0], np.array(["m", "b"])[cancer[1]])
        ),
        "classes from one": case(RandomForestClassifier(5, **few), (wine[0], wine[1] + 1)),
        "extra trees": case(ExtraTreesClassifier(5, **few), wine, **plain),
        "behind a scaler": case(
            make_pipeline(StandardScaler(), RandomForestClassifier(5, **few)), wine
        ),
        "bagging": case(
            BaggingClassifier(DecisionTreeClassifier(max_depth=2), 4, random_state=0), wine, **plain
        ),
        "gradient boosting of two classes": case(
            GradientBoostingClassifier(n_estimators=6, random_state=0), cancer, **plain
        ),
        "gradient boosting of three classes": case(
            GradientBoostingClassifier(n_estimators=3, random_state=0), wine
        ),
        "regression forest": case(RandomForestRegressor(5, **few), sugar),
        "regression boosting": case(
            GradientBoostingRegressor(n_estimators=6, random_state=0), sugar
        ),
        **{
            f"{library} {kind}": lambda library=library, kind=kind, data=data: (
                boosted(library, *data, kind=kind),
                *data,
            )
            for library in ("lightgbm", "xgboost")
            for kind, data in (("Classifier", wine), ("Regressor", sugar))
        },
        "lightgbm of two classes": lambda: (
            boosted("lightgbm", *cancer, kind="Classifier"),
            *cancer,
        ),
        "xgboost of two classes": lambda: (boosted("xgboost", *cancer, kind="Classifier"), *cancer),
    }


CASES = _cases()
OFTEN = {
    "forest",
    "named classes",
    "gradient boosting of two classes",
    "regression forest",
    "lightgbm of two classes",
    "xgboost Classifier",
}


@pytest.mark.parametrize(
    "name", [n if n in OFTEN else pytest.param(n, marks=[pytest.mark.slow]) for n in CASES]
)
def test_what_converters_write_is_scored_and_patched(name: str, tmp_path: Path) -> None:
    model, x, y = CASES[name]()
    path = save(model, tmp_path / "model.onnx")
    regression = "regress" in name.lower()
    metric = "mean_absolute_error" if regression else "loss"
    settings = Settings(data=write_table(tmp_path / "rows.csv", x, y), metrics=(metric,), workers=1)
    scored = repairkit.score(path, settings=settings, method="permutation", max_evaluations=120)
    assert scored.document["engine"] == "sums of leaves"
    ends = scored.document["metrics"][metric]
    assert ends["all"] < ends["none"]  # of an error less is better
    worst = [row["filter"] for row in scored.table()[:2]]
    out = tmp_path / "patched.onnx"
    schema = json.loads((files("repairkit.formats") / "patch.schema.json").read_text())
    done = repairkit.patch(path, settings=settings, remove=worst, out=out)
    assert done.verified.proof.exact
    jsonschema.validate(json.loads(done.patch_file.read_text()), schema)
    onnx.checker.check_model(str(out), full_check=True)
    patched = onnx.load(out)
    for part in ("input", "output", "initializer"):
        assert list(getattr(patched.graph, part)) == list(getattr(model.graph, part))
    _check_labels(patched, x)


def _check_labels(model: onnx.ModelProto, x: np.ndarray) -> None:
    """The label that a patched classifier gives is that of its largest score."""
    value = model.graph.input[0]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    answers = run(model, {value.name: x.astype(dtype)})
    if len(answers) < 2:
        return
    labels, scores = answers[0].tolist(), answers[1]
    if isinstance(scores, list):
        assert [max(row, key=row.get) for row in scores] == labels
    else:
        assert scores.argmax(axis=1).tolist() == labels


@pytest.mark.parametrize("dtype", [onnx.TensorProto.FLOAT, onnx.TensorProto.INT64])
def test_one_row_at_a_time_and_whole_numbers_are_taken_too(tmp_path: Path, dtype: int) -> None:
    x, y = load_wine(return_X_y=True)
    names = np.array(["barolo", "grignolino", "barbera"])[y]
    forest = RandomForestClassifier(5, max_depth=2, random_state=0).fit(x.round(), names)
    model = converted(forest, x.astype(np.float32))
    kind = model.graph.input[0].type.tensor_type
    kind.elem_type = dtype
    kind.shape.dim[0].dim_value = 1
    path = save(model, tmp_path / "f.onnx")
    settings = Settings(
        data=write_table(tmp_path / "rows.csv", x.round(), names), metrics=("loss",)
    )
    scored = repairkit.score(path, settings=settings, method="leave-one-out")
    assert scored.document["batching"].startswith("any batch (fixed at 1; freed")
    assert scored.document["engine"] == "sums of leaves"
    worst = [scored.table()[-1]["filter"]]
    done = repairkit.patch(path, settings=settings, remove=worst, out=tmp_path / "p.onnx")
    assert done.verified.proof.exact


def test_inspect_lists_the_trees(repairkit: Command, tmp_path: Path) -> None:
    x, y = load_wine(return_X_y=True)
    forest = RandomForestClassifier(7, max_depth=2, random_state=0).fit(x, y)
    path = save(converted(forest, x.astype(np.float32)), tmp_path / "f.onnx")
    answer = repairkit("inspect", path, "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["judged_output"] == "output_probability"
    (site,) = document["sites"]
    assert (site["kind"], site["filters"]) == ("TreeEnsembleClassifier", 7)
    assert document["left_out"] == []


def test_a_forest_can_be_instrumented_for_other_tools(repairkit: Command, tmp_path: Path) -> None:
    x, y = load_wine(return_X_y=True)
    forest = RandomForestClassifier(4, max_depth=2, random_state=0).fit(x, y)
    path = save(converted(forest, x.astype(np.float32)), tmp_path / "f.onnx")
    data = write_table(tmp_path / "rows.csv", x, y)
    out = tmp_path / "masked.onnx"
    answer = repairkit("instrument", path, "--data", data, "--calibration", "all", "-o", out)
    assert answer.code == 0, answer.err
    mask = {"TreeEnsembleClassifier/mask": np.zeros((1, 4), bool)}
    labels, scores = run(onnx.load(out), {"X": x.astype(np.float32), **mask})
    mean = np.mean([tree.predict_proba(x).mean(axis=0) for tree in forest.estimators_], axis=0)
    for row in scores:
        np.testing.assert_allclose([row[c] for c in range(3)], mean, rtol=1e-6)
    assert set(labels.tolist()) == {int(mean.argmax())}
