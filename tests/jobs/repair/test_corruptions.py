"""Whole jobs on images and their spoiled copies, in ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import repairkit as kit
from tests.conftest import Answer, Project


def test_a_run_values_filters_for_a_corruption_and_says_how_images_were_spoiled(
    repairkit: Callable[..., Answer], project: Project
) -> None:
    words = ("score", project.model, "--corruptions", "noise:5,brightness", "--metric")
    words = (*words, "group_accuracy:gaussian_noise:5", "--metric", "worst_group_accuracy")
    answer = repairkit(*words, "--group", "corruption", "--method", "leave-one-out", "-o", "run")
    assert answer.code == 0, answer.err
    run = json.loads(Path("run/run.json").read_text(encoding="utf-8"))
    assert run["settings"]["corruptions"] == ["noise:5", "brightness"]
    groups = run["read"]["groups"]
    assert list(groups) == ["brightness", "gaussian_noise:5", "none"]
    assert len({tuple(counts[1:]) for counts in groups.values()}) == 1
    assert [counts[0] for counts in groups.values()] == [0, 0, groups["none"][1]]
    assert any("CIFAR-10-C" in note and "gaussian_noise:5 at 0.1" in note for note in run["notes"])
    again = repairkit("report", "run")
    assert again.code == 0, again.err


def test_bad_words_end_in_one_line_before_anything_is_run(
    repairkit: Callable[..., Answer], project: Project
) -> None:
    for words, message in (
        (("--corruptions", "fogg"), "--corruptions names 'fogg'"),
        (("--corruptions", "blur:7"), "severity '7'"),
        (("--group", "corruption"), "unknown group column 'corruption'"),
    ):
        answer = repairkit("score", project.model, *words, "-o", "run")
        assert answer.code == 1
        assert message in answer.err
        assert len(answer.err.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_worst_corruption_of_the_sample_is_mended(tmp_path: Path) -> None:
    """Freezing lifts it on test images of which no copy chose anything."""
    done = kit.patch(
        Path(__file__).parents[3] / "samples" / "digits" / "model.onnx",
        out=tmp_path / "sturdy.onnx",
        fairness=True,
        groups="corruption",
        corruptions=("blur", "jpeg:5"),
    )
    change = done.change["worst_group_accuracy"]
    assert change.ci_low > 0
    assert np.isfinite(change.value)
