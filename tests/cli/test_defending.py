"""Class-specific filters, runs held against each other, and simpler cures beside a repair."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

from tests.cli.test_commands import harm, table_of
from tests.conftest import Answer, Project

Command = Callable[..., Answer]


def scored(repairkit: Command, project: Project, name: str, *options: str, code: int = 0) -> Answer:
    answer = repairkit("score", project.model, "-o", name, "--method", "exact", *options)
    assert answer.code == code, answer.err
    return answer


def values_of(path: Path) -> dict[str, float]:
    return {row["filter"]: float(row["value"]) for row in table_of(path / "scores.csv")}


def test_the_top_of_another_run_is_left_out_of_the_ranking_and_not_of_the_game(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    scored(repairkit, project, "overall", "--metric", "accuracy")
    scored(repairkit, project, "all", "--metric", "recall:*")
    excluding = ("--exclude-top-of", "overall", "--exclude-share", "0.25")
    answer = scored(repairkit, project, "own", "--metric", "recall:*", *excluding)
    assert "left out of the ranking" in answer.out
    overall, everyone = values_of(tmp_path / "overall"), values_of(tmp_path / "all")
    best = max(overall, key=lambda name: overall[name])
    own = values_of(tmp_path / "own")
    assert own == {name: value for name, value in everyone.items() if name != best}
    kept = json.loads((tmp_path / "own" / "run.json").read_text())["excluded"]
    assert kept["filters"] == [best]
    assert (kept["metric"], kept["share"], kept["run"]) == ("accuracy", 0.25, "overall")
    schema = json.loads(files("repairkit.formats").joinpath("run.schema.json").read_text())
    jsonschema.validate(json.loads((tmp_path / "own" / "run.json").read_text()), schema)
    known = json.loads((tmp_path / "overall" / "run.json").read_text())
    assert kept["key"] == known["key"]
    columns = table_of(tmp_path / "own" / "scores.csv")[0]
    further = [name for name in columns if name.startswith("value:recall")]
    assert len(further) == 2
    assert all(name.replace("value:", "std_error:") in columns for name in further)
    assert scored(repairkit, project, "own", "--metric", "recall:*", code=1).err.count("other")


def test_a_top_that_cannot_be_left_out_is_refused(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    scored(repairkit, project, "overall")
    excluding = ("--exclude-top-of", "overall")
    share = scored(repairkit, project, "x", *excluding, "--exclude-share", "1", code=1)
    assert "expected a share between 0 and 1" in share.err
    zero = scored(repairkit, project, "x", *excluding, "--absent", "zero", code=1)
    assert "scored with absent 'mean', and this job has 'zero'" in zero.err
    nothing = scored(repairkit, project, "x", *excluding, "--exclude-share", "0.99", code=1)
    assert "all that this job scores" in nothing.err
    model = onnx.load(project.model)
    model.doc_string = "another"
    onnx.save(model, project.model)
    other = scored(repairkit, project, "x", *excluding, code=1)
    assert "scores of another model" in other.err
    compared = repairkit("compare", "overall")
    assert compared.code == 1
    assert "two or more" in compared.err
    alone = scored(repairkit, project, "x", "--exclude-share", "0.3", code=1)
    assert "name it with --exclude-top-of" in alone.err
    assert not (tmp_path / "x").exists()


def test_runs_agree_as_scipy_and_scikit_learn_say(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    scored(repairkit, project, "exact", "--metric", "accuracy", "--metric", "loss")
    repairkit("score", project.model, "-o", "loo", "--method", "leave-one-out", "--metric", "loss")
    answer = repairkit("compare", "exact", "loo", "--metric", "loss", "--top-k", "2", "--json")
    assert answer.code == 0, answer.err
    (found,) = json.loads(answer.out)["comparisons"]
    rows = table_of(tmp_path / "exact" / "scores.csv")
    first = {row["filter"]: float(row["value:loss"]) for row in rows}
    second = values_of(tmp_path / "loo")
    pairs = np.array([[first[name], second[name]] for name in first])
    assert found["n_filters"] == 4
    assert found["rank_correlation"] == pytest.approx(spearmanr(*pairs.T).statistic)
    assert found["correlation"] == pytest.approx(np.corrcoef(*pairs.T)[0, 1])
    assert found["r2"] == pytest.approx(r2_score(pairs[:, 0], pairs[:, 1]))
    tops = [set(sorted(v, key=lambda name: -v[name])[:2]) for v in (first, second)]
    assert found["highest"] == len(tops[0] & tops[1]) / 2
    assert found["notes"] == []


def test_a_run_agrees_with_itself_and_differences_are_told(
    repairkit: Command, project: Project
) -> None:
    scored(repairkit, project, "one")
    scored(repairkit, project, "two", "--seed", "1", "--metric", "loss")
    answer = repairkit("compare", "one", "one", "two")
    assert answer.code == 0, answer.err
    assert "1.000" in answer.out
    assert "seed differs: 0 and 1" in answer.out
    assert "values are of accuracy and of loss" in answer.out
    assert repairkit("compare", "one", "two", "--metric", "loss").code == 1
    assert repairkit("compare", "one", "nowhere").code == 1


def test_runs_of_different_models_are_not_compared(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    scored(repairkit, project, "one")
    path = tmp_path / "one" / "run.json"
    document = json.loads(path.read_text())
    document["model"]["digest"] = "0" * 64
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text(json.dumps(document))
    (other / "scores.csv").write_bytes((tmp_path / "one" / "scores.csv").read_bytes())
    answer = repairkit("compare", "one", "other")
    assert answer.code == 1
    assert "another model" in answer.err


def test_simpler_cures_stand_beside_the_repair_at_equal_numbers(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    harm(project)
    answer = repairkit(
        "patch", project.model, "--remove", "conv:2", "--baselines", "-o", "out.onnx"
    )
    assert answer.code == 0, answer.err
    for method in ("chosen repair", "leave-one-out", "random", "no freezing"):
        assert method in answer.out
    report = json.loads((tmp_path / "out.report.json").read_text())
    rows = {row["method"]: row for row in report["baselines"]}
    assert list(rows) == [
        "chosen repair",
        "plain recipe",
        "leave-one-out",
        "weight norm",
        "activation norm",
        "random",
        "no freezing",
    ]
    assert {row["n_frozen"] for name, row in rows.items() if name != "no freezing"} == {1}
    assert rows["no freezing"]["n_frozen"] == 0
    for row in rows.values():
        assert set(row["figures"]) == set(report["evaluations"]["before"]["metrics"])
        for figures in row["figures"].values():
            change = figures["after"]["value"] - figures["before"]["value"]
            assert figures["difference"]["value"] == pytest.approx(change)
            assert figures["difference"]["ci_low"] <= figures["difference"]["value"]
    # The harmful filter is the one that leave-one-out freezes too: the figures are the same ones.
    assert rows["leave-one-out"]["figures"] == rows["chosen repair"]["figures"]
    chosen = rows["chosen repair"]["figures"]["accuracy"]
    assert chosen["difference"] == report["evaluations"]["difference"]["accuracy"]
    drawn = rows["random"]["figures"]["accuracy"]["difference"]
    assert chosen["difference"]["value"] == pytest.approx(drawn["ci_high"])
    assert drawn["ci_high"] > drawn["ci_low"]
    schema = json.loads(files("repairkit.formats").joinpath("patch.schema.json").read_text())
    jsonschema.validate(json.loads((tmp_path / "out.patch.json").read_text()), schema)
    assert any("looked at once per method, 7 times" in note for note in report["notes"])
    assert "fairness" in report
    assert report["fairness"]["columns"][0]["name"] == "group"


def test_columns_are_judged_alone_and_crossed_and_none_is_needed_to_predict(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    stored = dict(np.load(project.data))
    stored["hall"] = np.where(np.arange(len(stored["y"])) % 2, "north", "south")
    np.savez(project.data, **stored)
    answer = repairkit(
        "patch", project.model, "--remove", "conv:1", "--group", "group,hall", "-o", "out.onnx"
    )
    assert answer.code == 0, answer.err
    report = json.loads((tmp_path / "out.report.json").read_text())
    names = [view["name"] for view in report["fairness"]["columns"]]
    assert names == ["group", "hall", "group × hall"]  # noqa: RUF001 - as groups are named
    assert "(small)" in answer.out
    assert "the repaired model takes images, no attribute" in answer.out
    inputs = [[i.name for i in onnx.load(path).graph.input] for path in (project.model, "out.onnx")]
    assert inputs[0] == inputs[1]


def test_a_patch_without_baselines_has_none(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    answer = repairkit("patch", project.model, "--remove", "conv:1", "-o", "out.onnx")
    assert answer.code == 0, answer.err
    assert "Groups by group" in answer.out
    assert json.loads((tmp_path / "out.report.json").read_text())["baselines"] is None
