"""`--device`, `--tf32` and `--half`: what they do, and where results say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import onnxruntime
import pytest

from repairkit.formats.run_file import RunFolder
from tests.cli.test_commands import harm
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
ON_A_CARD = [pytest.mark.gpu, pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device")]
WAYS = [
    ("cpu", "--no-tf32", "float32", "32 bits"),
    ("cpu", "--half", "float16", "half precision"),
    pytest.param("cuda", "--no-tf32", "float32", "32 bits", marks=ON_A_CARD),
    pytest.param("cuda", "--tf32", "tf32", "TF32", marks=ON_A_CARD),
    pytest.param("cuda", "--half", "float16", "half precision", marks=ON_A_CARD),
]


def score(repairkit: Command, project: Project, out: Path, *options: str) -> Answer:
    exact = ("--method", "exact", "--metric", "loss", "-o", out)
    return repairkit("score", project.model, *exact, *options)


@pytest.mark.parametrize(("device", "option", "precision", "words"), WAYS)
def test_run_and_terminal_say_where_and_how_precisely(
    repairkit: Command,
    project: Project,
    tmp_path: Path,
    device: str,
    option: str,
    precision: str,
    words: str,
) -> None:
    assert score(repairkit, project, tmp_path / "judge", "--device", "cpu").code == 0
    answer = score(repairkit, project, tmp_path / "run", "--device", device, option)
    assert answer.code == 0, answer.err
    document = RunFolder(tmp_path / "run").read()
    schema = json.loads(files("repairkit.formats").joinpath("run.schema.json").read_text())
    jsonschema.validate(document, schema)
    assert (document["device"], document["precision"]) == (device, precision)
    assert document["settings"]["half"] is (option == "--half")
    assert document["settings"]["tf32"] is (option == "--tf32")
    assert f"evaluated on {device} in {words}: {document['engine']}" in answer.out
    if device == "cuda" or precision != "float32":
        assert document["engine"].startswith(f"stacked masks and cones on {device}")
    values = [values_of(tmp_path / name) for name in ("run", "judge")]
    np.testing.assert_allclose(*values, atol=1e-6 if precision == "float32" else 1e-2)
    if precision != "float32":
        assert (values[0] != values[1]).any()


def values_of(folder: Path) -> np.ndarray:
    rows = (folder / "scores.csv").read_text().splitlines()[1:]
    return np.array([float(row.split(",")[3]) for row in sorted(rows)])


def test_a_patch_says_in_which_precision_it_was_chosen(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    harm(project)
    common = ("patch", project.model, "--fairness", "--max-drop", "1", "--method", "exact")
    answer = repairkit(*common, "--half", "--device", "cpu", "-o", tmp_path / "half.onnx")
    assert answer.code == 0, answer.err
    assert "evaluated on cpu in half precision; the figures and the proof are in 32" in answer.out
    document = json.loads((tmp_path / "half.patch.json").read_text())
    assert document["tried"] == {"device": "cpu", "precision": "float16"}


def test_a_run_goes_on_in_its_own_precision_alone(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    assert score(repairkit, project, tmp_path / "run").code == 0
    answer = score(repairkit, project, tmp_path / "run", "--half")
    assert answer.code == 1
    assert "other settings" in answer.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tf32", "--half"), "exclude each other"),
        (("--tf32", "--device", "cpu"), "TF32 is a mode of NVIDIA cards"),
        (("--device", "tpu"), "unknown device 'tpu'"),
    ],
)
def test_what_makes_no_sense_ends_in_one_line(
    repairkit: Command,
    project: Project,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    answer = score(repairkit, project, tmp_path / "run", *options)
    assert answer.code == 1
    assert message in answer.err
    assert len(answer.err.strip().splitlines()) == 1


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
def test_cuda_without_cuda_is_an_error_and_auto_is_not(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    answer = score(repairkit, project, tmp_path / "cuda", "--device", "cuda")
    assert (answer.code, len(answer.err.strip().splitlines())) == (1, 1)
    assert "this ONNX Runtime has no CUDA" in answer.err
    answer = score(repairkit, project, tmp_path / "auto", "--device", "auto", "--tf32")
    assert answer.code == 0
    assert "note: TF32 was asked for, and no CUDA device found" in answer.out
    assert RunFolder(tmp_path / "auto").read()["precision"] == "float32"
