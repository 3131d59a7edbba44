"""A newcomer's wrong scale stops the job, and the line that is printed mends it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Answer

Command = Callable[..., Answer]
SAMPLE = Path(__file__).parents[2] / "samples/digits"


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The packaged sample without its settings, as a newcomer has a model and images."""
    for name in ("model.onnx", "digits.npz"):
        shutil.copy(SAMPLE / name, tmp_path / name)
    return tmp_path


def remedy(answer: Answer) -> list[str]:
    """The options that the last line tells to give."""
    line = answer.err.splitlines()[-1]
    found = re.search(r"give (--.*?) \(in repairkit\.toml", line)
    assert found is not None, line
    return shlex.split(found[1])


@pytest.mark.parametrize("command", ["score", "patch", "attack"])
def test_a_wrong_scale_stops_before_anything_is_spent_or_written(
    repairkit: Command, digits: Path, command: str
) -> None:
    options = {"patch": ("--fairness",), "score": (), "attack": ("--images", "5")}[command]
    before = sorted(path.name for path in digits.iterdir())
    wrong = ("model.onnx", "--data", "digits.npz", "--group", "polarity", "--scale", "1/255")
    answer = repairkit(command, *wrong, *options)
    assert answer.code == 1
    assert "--accept-preprocessing" in answer.err.splitlines()[-1]
    assert "right on 1" in answer.err
    assert sorted(path.name for path in digits.iterdir()) == before
    assert remedy(answer) == ["--scale", "1/16"]


@pytest.mark.usefixtures("digits")
def test_the_printed_remedy_makes_it_run(repairkit: Command) -> None:
    common = ("score", "model.onnx", "--data", "digits.npz", "--method", "leave-one-out")
    wrong = ("--scale", "1/255", "--mean", "0.5", "--classes", "9,8,7,6,5,4,3,2,1,0")
    answer = repairkit(*common, *wrong)
    assert answer.code == 1
    options = remedy(answer)
    line = answer.err.splitlines()[-1]
    classes = re.search(r"--classes=\S+", line)
    assert classes is not None
    answer = repairkit(*common, *options, classes[0], "--json")
    assert answer.code == 0, answer.err
    look = json.loads(answer.out)["read"]["first_look"]
    assert look["doubt"] == ""
    assert look["value"] > 0.75
    assert "the model is right on 8" in answer.err


def test_one_who_knows_better_goes_on_and_the_run_says_so(repairkit: Command, digits: Path) -> None:
    common = ("score", "model.onnx", "--data", "digits.npz", "--method", "leave-one-out")
    answer = repairkit(*common, "--scale", "1/255", "--accept-preprocessing", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert any("doubtful" in note for note in document["notes"])
    assert document["read"]["first_look"]["accepted"] is True
    (digits / "repairkit.toml").write_text("accept_preprocessing = true\n")
    assert repairkit(*common, "--scale", "1/255", "-o", "again").code == 0
    (digits / "repairkit.toml").write_text('accept_preprocessing = "yes"\n')
    answer = repairkit(*common, "--scale", "1/255", "-o", "third")
    assert answer.code == 1
    assert "expected true or false" in answer.err


@pytest.mark.usefixtures("digits")
def test_inspect_shows_each_preprocessing_and_ends_well(repairkit: Command) -> None:
    words = ("inspect", "model.onnx", "--data", "digits.npz", "--scale", "1/255")
    answer = repairkit(*words)
    assert answer.code == 0
    assert "ImageNet" in answer.out
    assert "in use" in answer.out
    assert "best" in answer.out
    assert "--scale 1/16" in answer.out
    look = json.loads(repairkit(*words, "--json").out)["first_look"]
    assert look["in_use"] == "1/255"
    assert look["best"] == "1/16, the largest pixel"
    for row in look["preprocessings"]:
        assert set(row) >= {"name", "accuracy", "commonest_answer", "mean_likelihood", "remedy"}


@pytest.mark.usefixtures("digits")
def test_a_right_setup_is_told_its_accuracy_and_goes_on(repairkit: Command) -> None:
    common = ("score", "model.onnx", "--data", "digits.npz", "--method", "leave-one-out")
    for seed in ("0", "1"):
        answer = repairkit(*common, "--scale", "1/16", "--seed", seed, "-o", f"run{seed}")
        assert answer.code == 0, answer.err
        assert "guessing gives" in answer.err


@pytest.mark.usefixtures("digits")
def test_named_filters_are_frozen_whatever_the_images_are(repairkit: Command) -> None:
    words = ("patch", "model.onnx", "--data", "digits.npz", "--scale", "1/255")
    answer = repairkit(*words, "--remove", "conv1:3")
    assert answer.code == 0, answer.err
    assert "right on 1" in answer.err


def test_data_without_labels_is_not_judged(repairkit: Command, digits: Path) -> None:
    stored = dict(np.load(digits / "digits.npz"))
    np.savez(digits / "bare.npz", x=stored["x"])
    answer = repairkit("inspect", "model.onnx", "--data", "bare.npz", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["first_look"] is None
    assert "labels" in document["first_look_note"]


@pytest.mark.slow
def test_the_newcomer_gets_a_repair_by_the_printed_line(repairkit: Command, digits: Path) -> None:
    common = ("patch", "model.onnx", "--data", "digits.npz", "--group", "polarity", "--fairness")
    answer = repairkit(*common, "--scale", "1/255")
    assert answer.code == 1
    assert not (digits / "model.patched.report.html").exists()
    answer = repairkit(*common, *remedy(answer))
    assert answer.code == 0, answer.err
