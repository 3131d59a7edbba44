"""What the default method does with few filters, small budgets, metrics of sets and little time."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import Answer, Project

Command = Callable[..., Answer]

AUC = '''
import numpy as np


def auc(outputs, labels, attributes):
    """How often an image of class 1 has a higher margin for it than one of class 0."""
    margin = outputs[:, 1] - outputs[:, 0]
    ones, zeros = margin[labels == 1], margin[labels == 0]
    return float((ones[:, None] > zeros[None]).mean())
'''


def wide_model(folder: Path, n_filters: int) -> Path:
    """Many filters, of which all but a few do little; and labels that it knows nothing of."""
    rng = np.random.default_rng(5)
    size = np.exp(-np.arange(n_filters) / 4)[:, None]
    weights = {
        "w": rng.standard_normal((n_filters, 3, 3, 3)),
        "g": (rng.standard_normal((n_filters, 3)) * size).T,
        "c": np.zeros(3),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], name="wide"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "g", "c"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    path = folder / "wide.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    x = rng.standard_normal((90, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "wide.npz", x=x, y=rng.integers(0, 3, 90))
    # It is right by chance alone, which would stop a user's job.
    (folder / "repairkit.toml").write_text("accept_preprocessing = true\n")
    return path


def scores_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "scores.csv").open(encoding="utf-8") as file:
        return {row["filter"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    "metric", ["accuracy", "worst_group_accuracy", "equalized_odds_difference", "ranks:auc"]
)
def test_few_filters_get_exact_values(
    repairkit: Command, project: Project, tmp_path: Path, metric: str
) -> None:
    (tmp_path / "ranks.py").write_text(AUC, encoding="utf-8")
    common = ("score", project.model, "--metric", metric, "--selection", "all")
    exact = repairkit(*common, "--method", "exact", "-o", "exact")
    assert exact.code == 0, exact.err
    answer = repairkit(*common, "-o", "auto", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["taken"]["method"] == "exact"
    assert any("exact was taken" in note for note in document["notes"])
    assert scores_of(tmp_path / "auto") == scores_of(tmp_path / "exact")


@pytest.mark.parametrize("method", ["permutation", "regression", "marginals", "tmab"])
def test_sampling_methods_judge_a_metric_of_sets_on_all_images(
    repairkit: Command, project: Project, tmp_path: Path, method: str
) -> None:
    common = ("score", project.model, "--metric", "worst_group_accuracy", "--selection", "all")
    assert repairkit(*common, "--method", "exact", "-o", "exact").code == 0
    answer = repairkit(
        *common, "--method", method, "--max-evaluations", "400", "-o", method, "--json"
    )
    assert answer.code == 0, answer.err
    assert any("judges images together" in note for note in json.loads(answer.out)["notes"])
    true = {name: float(row["value"]) for name, row in scores_of(tmp_path / "exact").items()}
    found = scores_of(tmp_path / method)
    assert len({row["value"] for row in found.values()}) > 1
    for name, row in found.items():
        assert float(row["ci_low"]) - 0.01 <= true[name] <= float(row["ci_high"]) + 0.01


@pytest.mark.parametrize(
    ("n_filters", "evaluations", "taken"),
    [(100, 101, "leave-one-out"), (100, 300, "leave-one-out"), (30, 260, "auto"), (5, 32, "exact"),
     (120, 60, "auto"), (80, 2_000, "auto")],
)  # fmt: skip
def test_a_small_budget_is_no_refusal(
    repairkit: Command, tmp_path: Path, n_filters: int, evaluations: int, taken: str
) -> None:
    model = wide_model(tmp_path, n_filters)
    answer = repairkit(
        "score", model, "--data", "wide.npz", "--max-evaluations", str(evaluations), "-o", "run",
        "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["taken"]["method"] == taken
    assert document["evaluations"] <= evaluations
    assert len(scores_of(tmp_path / "run")) == n_filters


def test_a_larger_budget_may_take_another_method_in_the_same_folder(
    repairkit: Command, tmp_path: Path
) -> None:
    model = wide_model(tmp_path, 100)
    common = ("score", model, "--data", "wide.npz", "-o", "run", "--json")
    taken = []
    for evaluations in ("150", "2000", "3000"):
        answer = repairkit(*common, "--max-evaluations", evaluations)
        assert answer.code == 0, answer.err
        taken.append(json.loads(answer.out)["taken"]["method"])
    assert taken == ["leave-one-out", "auto", "auto"]
    assert repairkit(*common[:-3], "-o", "other", "--max-evaluations", "3000").code == 0
    assert scores_of(tmp_path / "run") == scores_of(tmp_path / "other")


def test_a_small_run_that_was_stopped_goes_on_by_the_same_method(
    repairkit: Command, tmp_path: Path
) -> None:
    model = wide_model(tmp_path, 100)
    common = ("score", model, "--data", "wide.npz", "-o", "run", "--json")
    assert repairkit(*common, "--max-evaluations", "150").code == 0
    whole = scores_of(tmp_path / "run")
    answer = repairkit(*common, "--max-evaluations", "5000", "--resume")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["taken"]["method"] == "leave-one-out"
    assert scores_of(tmp_path / "run") == whole


def test_where_nothing_can_be_said_the_least_is_named(repairkit: Command, tmp_path: Path) -> None:
    model = wide_model(tmp_path, 100)
    common = ("score", model, "--data", "wide.npz", "--max-evaluations")
    answer = repairkit(*common, "7", "-o", "run")
    assert answer.code == 1
    assert "at least 46 evaluations" in answer.err
    assert repairkit(*common, "46", "-o", "run").code == 0


def test_a_time_limit_that_is_too_short_names_a_longer_one(
    repairkit: Command, tmp_path: Path
) -> None:
    model = wide_model(tmp_path, 100)
    answer = repairkit("score", model, "--data", "wide.npz", "--time-limit", "0", "-o", "run")
    assert answer.code == 1
    assert "give at least" in answer.err
    # The repair's own share of the time is no limit that anybody gave.
    answer = repairkit(
        "patch", model, "--data", "wide.npz", "--objective", "accuracy", "--time-limit", "0.001"
    )
    assert answer.code == 1
    assert "the time limit of 0.001 s is too short" in answer.err


@pytest.mark.slow
@pytest.mark.parametrize("method", ["auto", "leave-one-out", "permutation", "tmab"])
def test_a_time_limit_ends_with_a_ranking(repairkit: Command, tmp_path: Path, method: str) -> None:
    model = wide_model(tmp_path, 100)
    answer = repairkit(
        "score", model, "--data", "wide.npz", "--time-limit", "12", "--method", method, "-o", "run",
        "--json",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["seconds"] <= 13
    assert len(scores_of(tmp_path / "run")) == 100


@pytest.mark.parametrize(
    ("method", "allowed", "words"),
    [
        (
            "tmab",
            100,
            "from 604 on every filter is in 2 whole walks, each on a batch of 128 ",
        ),
        ("permutation", 400, "from 604 on every filter is in 2 whole walks"),
        (
            "marginals",
            400,
            "from 604 on every filter is in two stars, each on a batch of 16 ",
        ),
        ("regression", 400, "from 770 on there is room for the usual pilot and first round"),
    ],
)
def test_few_evaluations_for_a_method_that_was_named_are_told_with_the_number_that_would_do(
    tmp_path: Path, repairkit: Command, method: str, allowed: int, words: str
) -> None:
    model = wide_model(tmp_path, 300)
    where = (model, "--data", tmp_path / "wide.npz", "--no-curve", "--method", method)
    few = repairkit("score", *where, "--max-evaluations", allowed, "-o", "few")
    notes = " ".join((few.out + few.err).split())
    if few.code == 0:
        assert f"{allowed} evaluations are few for 300 filters; {words}" in notes
    else:  # truncated walks may need fewer than whole ones, or not
        assert few.code == 1
        assert "which always do" in notes
    number = words.split()[1]
    enough = repairkit("score", *where, "--max-evaluations", number, "-o", "enough")
    assert enough.code == 0
    assert "evaluations are few" not in enough.out + enough.err
