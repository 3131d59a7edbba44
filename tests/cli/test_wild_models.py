"""Models as they are found: the commands take them, or say why not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from tests import models, wild_models
from tests.conftest import Answer
from tests.running import run

ROOT = Path(__file__).parents[2]
Command = Callable[..., Answer]
PARTS = ("--calibration", "all", "--selection", "all", "--test", "all", "--workers", "1")


def save(folder: Path, model: ModelProto, images: np.ndarray, labels: np.ndarray) -> list[str]:
    """Write a model and its data; the arguments that name both."""
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "data.npz", x=images, y=labels)
    return [str(folder / "model.onnx"), "--data", str(folder / "data.npz"), *PARTS]


def answers(model: ModelProto, images: np.ndarray, output: int = 0) -> np.ndarray:
    rows = [
        run(model, {"image": images[i : i + 1]})[output].reshape(1, -1) for i in range(len(images))
    ]
    return np.concatenate(rows)


def go_all_the_way(
    repairkit: Command, folder: Path, arguments: list[str], remove: str, *more: str
) -> tuple[dict, dict]:
    """Score, patch and verify; the documents of the first two."""
    scored = repairkit(
        "score", *arguments, *more, "--method", "leave-one-out", "-o", folder / "run", "--json"
    )
    assert scored.code == 0, scored.err
    patched = repairkit(
        "patch", *arguments, *more, "--remove", remove, "-o", folder / "out.onnx", "--json"
    )
    assert patched.code == 0, patched.err
    document = json.loads(patched.out)
    proven = repairkit(
        "verify", arguments[0], folder / "out.onnx", "--patch", document["patch_file"], "--json"
    )
    assert proven.code == 0, proven.err
    assert json.loads(proven.out)["exact_without_optimisation"]
    return json.loads(scored.out), document


def test_bytes_with_the_channels_last(repairkit: Command, tmp_path: Path) -> None:
    model = wild_models.of_bytes()
    x = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 2), np.uint8)
    arguments = save(tmp_path, model, x, answers(model, x).argmax(1))
    scored, _ = go_all_the_way(repairkit, tmp_path, arguments, "conv:1")
    assert scored["metrics"]["accuracy"]["all"] == 1.0


def test_half_precision_images(repairkit: Command, tmp_path: Path) -> None:
    model = models.half_precision()
    x = models.images(12, dtype="float16")
    arguments = save(tmp_path, model, x, answers(model, x).argmax(1))
    _, document = go_all_the_way(repairkit, tmp_path, arguments, "conv:1,conv:2")
    assert "constants are rounded to what the model's numbers can hold" in document["notes"][-1]


def test_spatial_sizes_that_are_open(repairkit: Command, tmp_path: Path) -> None:
    model = models.own_bias()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    x = np.random.default_rng(0).standard_normal((12, 2, 9, 7)).astype(np.float32)
    arguments = save(tmp_path, model, x, answers(model, x).argmax(1))
    scored, _ = go_all_the_way(repairkit, tmp_path, arguments, "conv:1")
    assert scored["metrics"]["accuracy"]["all"] == 1.0


def test_integer_codes_state_the_rounding(repairkit: Command, tmp_path: Path) -> None:
    model = wild_models.linear_codes()
    x = models.images(12)
    arguments = save(tmp_path, model, x, answers(model, x).argmax(1))
    _, document = go_all_the_way(repairkit, tmp_path, arguments, "conv:1,conv_2:3")
    for row in document["rounding"]:
        assert row["step"] in (pytest.approx(0.05), pytest.approx(0.04))
        assert abs(row["constant"] - row["wanted"]) <= row["step"] / 2 * 1.001
    assert len(document["rounding"]) == 2
    told = repairkit("patch", *arguments, "--remove", "conv:1", "-o", tmp_path / "two.onnx")
    assert "note: 1 constants are rounded" in told.out
    assert "a step being 0.05" in told.out


def test_images_that_go_one_at_a_time_are_told_of(repairkit: Command, tmp_path: Path) -> None:
    model = wild_models.centred()
    x = models.images(12)
    arguments = save(tmp_path, model, x, answers(model, x).argmax(1))
    scored, _ = go_all_the_way(repairkit, tmp_path, arguments, "conv:1")
    assert scored["metrics"]["accuracy"]["all"] == 1.0
    assert "the graph takes 1 image at a time" in scored["notes"][-1]


def with_two_outputs() -> ModelProto:
    """Three logits, and a row of 4 x 1 x 1: two scores, a number and a probability."""
    model = models.own_bias()
    weight = np.random.default_rng(3).standard_normal((4, 4, 1, 1)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "side_w"))
    model.graph.node.append(helper.make_node("Conv", ["pooled", "side_w"], ["side"], "side"))
    model.graph.output.append(helper.make_tensor_value_info("side", 1, ["batch", 4, 1, 1]))
    return model


def test_columns_of_another_output(repairkit: Command, tmp_path: Path) -> None:
    model = with_two_outputs()
    x = models.images(12)
    side = answers(model, x, 1)
    arguments = save(tmp_path, model, x, side[:, :2].argmax(1))
    more = ("--output", "side", "--columns", "0:2")
    scored, _ = go_all_the_way(repairkit, tmp_path, arguments, "conv:1", *more)
    assert scored["metrics"]["accuracy"]["all"] == 1.0
    assert scored["settings"]["columns"] == [0, 2]
    wrong = repairkit("score", *arguments, "--output", "side", "--columns", "2:9")
    assert wrong.code == 1
    assert "the output has 4 columns" in wrong.err


def test_a_single_column_is_cut_at_a_threshold_or_a_number(
    repairkit: Command, tmp_path: Path
) -> None:
    model = with_two_outputs()
    x = models.images(12)
    side = answers(model, x, 1)[:, 2]
    cut = float(np.sort(side)[8] + np.sort(side)[7]) / 2
    arguments = save(tmp_path, model, x, (side >= cut).astype(np.int64))
    more = ("--output", "side", "--columns", "2", "--threshold", str(cut))
    scored, _ = go_all_the_way(repairkit, tmp_path, arguments, "conv:1", *more)
    assert scored["metrics"]["accuracy"]["all"] == 1.0
    arguments = save(tmp_path, model, x, side.astype(np.float64))
    more = ("--output", "side", "--columns", "2", "--metric", "mean_absolute_error")
    scored = json.loads(
        repairkit(
            "score", *arguments, *more, "--method", "leave-one-out", "-o", tmp_path / "n", "--json"
        ).out
    )
    assert scored["metrics"]["mean_absolute_error"]["all"] == pytest.approx(0, abs=1e-5)


def test_columns_from_the_project_file(repairkit: Command, tmp_path: Path) -> None:
    model = with_two_outputs()
    x = models.images(12)
    arguments = save(tmp_path, model, x, answers(model, x, 1)[:, 1:3].argmax(1))
    (tmp_path / "repairkit.toml").write_text('output = "side"\ncolumns = "1:3"\n')
    scored, _ = go_all_the_way(repairkit, tmp_path, arguments, "conv:1")
    assert scored["metrics"]["accuracy"]["all"] == 1.0


@pytest.mark.parametrize("columns", ["2:2", "a", "3:1", ":", "-1"])
def test_columns_that_make_no_sense_are_refused(
    repairkit: Command, tmp_path: Path, columns: str
) -> None:
    arguments = save(tmp_path, models.own_bias(), models.images(4), np.zeros(4, np.int64))
    answer = repairkit("score", *arguments, f"--columns={columns}")
    assert answer.code == 1
    assert f"columns '{columns}' is no range of columns" in answer.err


@pytest.mark.slow
def test_the_table_of_compatibility_is_made() -> None:
    names = ["test_Conv1d", "test_Conv3d_groups", "test_ConvTranspose2d"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "compatibility.py"), "--only", *names],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| test_")]
    assert len(rows) == len(names)
    assert all(row.endswith("| holds |") and "bit for bit" in row for row in rows)
