"""The commands from outside: what they print, write and prove."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests import models
from tests.cli.test_endings import NO_LINES
from tests.conftest import Answer, Project, write_project
from tests.running import run

Command = Callable[..., Answer]
COLUMNS = [
    "filter",
    "site",
    "channel",
    "value",
    "std_error",
    "ci_low",
    "ci_high",
    "samples",
    "decided",
]


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def harm(project: Project) -> None:
    """Give filter 2 a large weight in the head that labels know nothing of; 400 images."""
    write_project(project.folder, n=400)
    model = onnx.load(project.model)
    stored = dict(np.load(project.data))
    repaired = onnx.load(project.model)
    for candidate, size in ((model, 9.0), (repaired, 0.0)):
        weight = next(t for t in candidate.graph.initializer if t.name == "fc_w")
        array = onnx.numpy_helper.to_array(weight).copy()
        array[2] = [size, -size, size / 2]
        weight.CopyFrom(onnx.numpy_helper.from_array(array, "fc_w"))
    stored["y"] = run(repaired, {"image": stored["x"]})[0].argmax(1)
    onnx.save(model, project.model)
    np.savez(project.data, **stored)
    # It is right on hardly any image, which would stop a user's job.
    settings = project.folder / "repairkit.toml"
    settings.write_text(f"accept_preprocessing = true\n{settings.read_text()}")


def test_inspect_lists_sites_and_the_rest(repairkit: Command, project: Project) -> None:
    answer = repairkit("inspect", project.model, "--json")
    found = json.loads(answer.out)
    assert answer.code == 0
    assert answer.err == ""
    assert found["n_filters"] == 4
    assert found["sites"] == [
        {"site": "conv", "kind": "Conv", "filters": 4, "tensor": "y", "share": 1.0, "needs": None}
    ]
    assert found["left_out"] == [
        {"layer": "fc", "kind": "Gemm", "reason": "it makes the model's output"}
    ]
    assert found["input"]["shape"] == [2, 6, 6]


def test_score_writes_a_run_folder_in_rank_order(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    answer = repairkit(
        "score",
        project.model,
        "--method",
        "exact",
        "--metric",
        "accuracy",
        "--metric",
        "loss",
        "-o",
        "run",
        "--json",
    )
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    rows = table_of(tmp_path / "run" / "scores.csv")
    assert list(rows[0]) == [*COLUMNS, "value:loss", "std_error:loss"]
    values = [float(row["value"]) for row in rows]
    assert values == sorted(values, reverse=True)
    ends = document["metrics"]["accuracy"]
    assert sum(values) == pytest.approx(ends["all"] - ends["none"], abs=1e-12)
    ends = document["metrics"]["loss"]
    losses = [float(row["value:loss"]) for row in rows]
    assert sum(losses) == pytest.approx(ends["all"] - ends["none"], abs=1e-12)
    assert [row["filter"] for row in rows] == [row["filter"] for row in document["scores"]]
    kept = json.loads((tmp_path / "run" / "run.json").read_text())
    assert kept == {k: v for k, v in document.items() if k != "scores"}
    assert kept["finished"] is True
    assert kept["evaluations"] == 16


@pytest.mark.parametrize("method", ["auto", "tmab", "stars"])
def test_scores_are_the_same_bytes_for_any_number_of_workers(
    repairkit: Command, project: Project, tmp_path: Path, method: str
) -> None:
    texts = []
    for workers in ("1", "2", "3"):
        answer = repairkit(
            "score",
            project.model,
            "--workers",
            workers,
            "-o",
            f"run{workers}",
            "--metric",
            "loss",
            "--method",
            method,
            "--max-evaluations",
            "1000",
            "--quiet",
        )
        assert answer.code == 0, answer.err
        texts.append((tmp_path / f"run{workers}" / "scores.csv").read_bytes())
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("method", ["auto", "tmab"])
def test_scores_are_the_same_bytes_for_any_cache_memory(
    repairkit: Command, project: Project, tmp_path: Path, method: str
) -> None:
    texts = []
    for memory in ("0", "10K", "1G"):
        answer = repairkit(
            "score",
            project.model,
            "--cache-memory",
            memory,
            "-o",
            memory,
            "--metric",
            "loss",
            "--method",
            method,
            "--max-evaluations",
            "1000",
            "--quiet",
        )
        assert answer.code == 0, answer.err
        texts.append((tmp_path / memory / "scores.csv").read_bytes())
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize(
    "method",
    [
        "auto",
        "regression",
        "marginals",
        "stars",
        "tmab",
        "permutation",
        "leave-one-out",
        "weight-norm",
        "activation-norm",
        "random",
    ],
)
def test_every_method_scores_every_filter(
    repairkit: Command, project: Project, tmp_path: Path, method: str
) -> None:
    answer = repairkit(
        "score", project.model, "--method", method, "--max-evaluations", "1000", "--quiet"
    )
    assert answer.code == 0, answer.err
    assert answer.out == ""
    rows = table_of(tmp_path / "runs" / f"model-accuracy-{method}" / "scores.csv")
    assert {row["filter"] for row in rows} == {f"conv:{c}" for c in range(4)}


@pytest.mark.long
def test_a_run_that_was_killed_resumes_to_the_same_bytes(project: Project, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from repairkit.cli import main; main()",
        "score",
        str(project.model),
        "--method",
        "marginals",
        "--max-evaluations",
        "3000",
        "--metric",
        "loss",
        "--epsilon",
        "1e-9",
        "--batch",
        "8",
        "--quiet",
    ]
    whole = [*command, "-o", "whole"]
    subprocess.run(whole, cwd=tmp_path, check=True)
    killed = subprocess.Popen([*command, "-o", "killed"], cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    killed.send_signal(signal.SIGINT)
    _, err = killed.communicate(timeout=60)
    assert killed.returncode == 130
    assert b"--resume" in err
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["finished"] is False
    again = subprocess.run(
        [*command, "-o", "killed"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert again.returncode == 1
    assert "unfinished run" in again.stderr
    subprocess.run([*command, "-o", "killed", "--resume"], cwd=tmp_path, check=True)
    assert (tmp_path / "killed" / "scores.csv").read_bytes() == (
        tmp_path / "whole" / "scores.csv"
    ).read_bytes()
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["finished"] is True


def test_removing_named_filters_gives_a_proven_model(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    answer = repairkit("patch", project.model, "--remove", "conv:1,conv:3", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert [f["filter"] for f in document["frozen"]] == ["conv:1", "conv:3"]
    assert document["verification"]["exact_without_optimisation"] is True
    before, after = onnx.load(project.model), onnx.load(tmp_path / "model.patched.onnx")
    assert before.graph.input == after.graph.input
    assert before.graph.output == after.graph.output
    assert [p for p in after.metadata_props if not p.key.startswith("repairkit.")] == list(
        before.metadata_props
    )
    x = models.images(5)
    assert not np.array_equal(run(before, {"image": x})[0], run(after, {"image": x})[0])
    for arguments in ((), ("--patch", "model.patched.patch.json"), ("--data", project.data)):
        proven = repairkit("verify", project.model, "model.patched.onnx", *arguments)
        assert proven.code == 0, proven.err
        assert "verified" in proven.out


def test_verify_refuses_anything_that_is_not_as_claimed(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    assert repairkit("patch", project.model, "--remove", "conv:1", "--quiet").code == 0
    good = onnx.load(tmp_path / "model.patched.onnx")

    def refused(*words: str, patched: str = "bad.onnx", extra: tuple[str, ...] = ()) -> None:
        answer = repairkit("verify", project.model, patched, *extra)
        assert answer.code == 3, answer.err
        assert answer.err.count("\n") == 1
        for word in words:
            assert word in answer.err

    bad = onnx.ModelProto()
    bad.CopyFrom(good)
    weight = next(t for t in bad.graph.initializer if t.name == "fc_w")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "fc_w"))
    onnx.save(bad, tmp_path / "bad.onnx")
    refused("the tensor 'fc_w' differs")
    refused("was changed after it was patched", extra=("--patch", "model.patched.patch.json"))

    bad.CopyFrom(good)
    entry = next(p for p in bad.metadata_props if p.key == "repairkit.patches")
    entry.value = entry.value.replace("conv:1", "conv:2")
    onnx.save(bad, tmp_path / "bad.onnx")
    refused("does not match its own digest")

    onnx.save(onnx.load(project.model), tmp_path / "bad.onnx")
    refused("is the original")

    text = (tmp_path / "model.patched.patch.json").read_text()
    (tmp_path / "altered.json").write_text(text.replace('"channel": 1', '"channel": 2'))
    refused("was altered", patched="model.patched.onnx", extra=("--patch", "altered.json"))

    onnx.save(models.normalised(), project.model)
    refused("another model", patched="model.patched.onnx")


def test_scores_of_other_images_or_another_metric_do_not_choose(
    repairkit: Command, project: Project
) -> None:
    """Else the test images might have had a say in what they judge."""
    exact = ("score", project.model, "--method", "exact", "--quiet")
    for arguments, word in (
        (("--selection", "all"), "parts"),
        (("--seed", "5"), "seed"),
        (("--absent", "zero"), "absent"),
    ):
        assert repairkit(*exact, *arguments, "-o", word).code == 0
        answer = repairkit("patch", project.model, "--scores", word)
        assert answer.code == 1
        assert f"was scored with {word}" in answer.err
    assert repairkit(*exact, "--metric", "recall:1", "-o", "recall").code == 0
    answer = repairkit("patch", project.model, "--fairness", "--scores", "recall")
    assert answer.code == 1
    assert "was scored with the metric 'recall:1'" in answer.err
    stored = dict(np.load(project.data))
    assert repairkit(*exact, "-o", "before").code == 0
    np.savez(project.data, **{**stored, "x": stored["x"] + 1})
    answer = repairkit("patch", project.model, "--scores", "before")
    assert answer.code == 1
    assert "other data" in answer.err


def test_a_regressor_is_scored_patched_and_verified(repairkit: Command, project: Project) -> None:
    model = onnx.load(project.model)
    weights = {t.name: t for t in model.graph.initializer}
    rng = np.random.default_rng(0)
    for name, shape in (("fc_w", (4, 1)), ("fc_b", (1,))):
        array = rng.standard_normal(shape).astype(np.float32)
        weights[name].CopyFrom(onnx.numpy_helper.from_array(array, name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(model, project.model)
    x = models.images(90, seed=3)
    truth = run(model, {"image": x})[0][:, 0]
    y = truth + np.where(np.arange(90) % 2 == 0, 0.5, -0.5)
    np.savez(project.data, x=x, y=y.astype(np.float64))
    (project.folder / "repairkit.toml").write_text(
        'model = "model.onnx"\ndata = "data.npz"\nmetrics = ["mean_absolute_error"]\n'
    )
    assert repairkit("score", project.model, "--method", "exact", "-o", "run").code == 0
    declined = repairkit("patch", project.model, "--scores", "run")
    assert declined.code == 4, declined.err
    answer = repairkit("patch", project.model, "--remove", "conv:0")
    assert answer.code == 0, answer.err
    assert "mean absolute error" in answer.out
    assert "%" not in answer.out.split("verified")[0].split("intervals")[1]
    proven = repairkit("verify", project.model, "model.patched.onnx", "--data", project.data)
    assert proven.code == 0, proven.err
    assert "given images" in proven.out


def test_without_a_command_the_help_is_shown(repairkit: Command) -> None:
    answer = repairkit()
    assert answer.code == 0
    assert "Usage: repairkit" in answer.out


def test_a_reader_that_leaves_early_is_no_failure(project: Project, tmp_path: Path) -> None:
    command = f'"{sys.executable}" -c "{NO_LINES}" inspect "{project.model}" | head -1'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_patching_from_a_run_chooses_on_selection_and_reports_on_test(
    repairkit: Command, project: Project
) -> None:
    harm(project)
    assert repairkit("score", project.model, "--method", "exact", "-o", "run", "--quiet").code == 0
    answer = repairkit("patch", project.model, "--scores", "run", "--json")
    assert answer.code == 0, answer.err
    report = json.loads(answer.out)
    selection = report["selection"]
    kept = [point["accuracy"] for point in selection["trade_off"] if point["kept"]]
    assert kept == sorted(kept)
    assert selection["trade_off"][0]["n_frozen"] == 0
    assert report["frozen"][0]["filter"] == "conv:2"
    assert report["choice"]["promised_on_selection"]["ci_low"] > 0
    assert report["parts"]["overlaps"] == []
    assert report["evaluations"]["after"]["n_images"] == report["parts"]["test"]
    assert report["scoring"]["settings"]["method"] == "exact"


def test_a_model_with_nothing_to_repair_is_declined(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    stored = dict(np.load(project.data))
    model = onnx.load(project.model)
    stored["y"] = run(model, {"image": stored["x"]})[0].argmax(1)
    np.savez(project.data, **stored)
    answer = repairkit("patch", project.model, "--fairness", "--max-evaluations", "600", "--quiet")
    assert answer.code == 4
    assert answer.err.count("\n") == 1
    assert "no repair" in answer.err
    assert "nothing was written" in answer.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["project"]


def test_instrument_writes_a_model_that_takes_masks(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    answer = repairkit("instrument", project.model, "-o", "masked.onnx")
    assert answer.code == 0, answer.err
    masked = onnx.load(tmp_path / "masked.onnx")
    x = models.images(4)
    everyone = {"image": x, "conv/mask": np.ones((1, 4, 1, 1), bool)}
    np.testing.assert_array_equal(
        run(masked, everyone)[0], run(onnx.load(project.model), {"image": x})[0]
    )
    rows = {"image": x, "conv/mask": np.eye(4, dtype=bool).reshape(4, 4, 1, 1)}
    assert run(masked, rows)[0].shape == (4, 3)


def test_the_project_file_stands_in_for_options(
    repairkit: Command, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.folder)
    answer = repairkit("score", "--method", "exact", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["settings"]["groups"] == ["group"]


def test_no_colour_and_no_escape_codes_where_nobody_looks(project: Project, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from repairkit.cli import main; main()",
            "score",
            str(project.model),
            "--method",
            "exact",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NO_COLOR": "1"},
    )
    assert "\x1b" not in done.stdout
    assert "conv:0" in done.stdout


def test_the_recall_of_every_class_comes_from_one_run(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    score = ("score", project.model, "--method", "exact", "--quiet")
    both = ("--metric", "accuracy", "--metric", "recall:*")
    assert repairkit(*score, *both, "-o", "all").code == 0
    rows = table_of(tmp_path / "all" / "scores.csv")
    columns = [name for name in rows[0] if name.startswith("value:")]
    classes = sorted(set(np.load(project.data)["y"].tolist()))
    assert len(columns) == len(classes)
    for column in columns:
        alone = repairkit(*score, "--metric", column.removeprefix("value:"), "-o", column[-1])
        assert alone.code == 0, alone.err
        values = {
            r["filter"]: float(r["value"]) for r in table_of(tmp_path / column[-1] / "scores.csv")
        }
        assert values == {row["filter"]: pytest.approx(float(row[column])) for row in rows}


def test_statistics_are_told_on_request(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    for method in ("regression", "tmab"):
        answer = repairkit(
            "score", project.model, "--method", method, "--statistics", "-o", method,
            "--max-evaluations", "2000",
        )  # fmt: skip
        assert answer.code == 0, answer.err
        assert "rank correlation of two halves" in answer.out
        told = json.loads((tmp_path / method / "statistics.json").read_text())
        assert {"convergence", "curve", "samples"} <= set(told)
        assert sum(told["samples"]["filters"]) == 4
    assert not (tmp_path / "run" / "statistics.json").exists()


def test_what_truncation_hides_is_what_is_missing_from_the_sum(
    repairkit: Command, project: Project
) -> None:
    answer = repairkit(
        "score", project.model, "--method", "tmab", "--statistics", "-o", "run", "--json",
        "--truncate-at", "0.9", "--set", "truncate_patience=1", "--max-evaluations", "4000",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    ends = document["metrics"]["accuracy"]
    bias = document["details"]["truncation"]["bias"]["accuracy"]
    missing = ends["all"] - ends["none"] - document["sum_of_values"]
    assert bias == pytest.approx(missing, abs=0.02)
    assert bias > 0.05


def test_the_letter_of_the_paper_is_an_option(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    score = ("score", project.model, "--paper", "--top-k", "2", "--max-evaluations", "500")
    assert repairkit(*score, "--set", "truncate_at=0.6", "-o", "run", "--quiet").code == 0
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["method"] == "tmab"
    estimator = settings["estimator"]
    assert (estimator["stop"], estimator["epsilon"], estimator["truncate_at"]) == (
        "paper",
        1e-4,
        0.6,
    )
    refused = repairkit(*score, "--method", "exact")
    assert refused.code == 1
    assert "the paper's settings are those of tmab" in refused.err


@pytest.mark.parametrize("setting", ["lanes", "=3", "lanes=three", "wings=2"])
def test_a_setting_that_makes_no_sense_is_told_in_one_line(
    repairkit: Command, project: Project, setting: str
) -> None:
    answer = repairkit("score", project.model, "--method", "tmab", "--set", setting, "--quiet")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
