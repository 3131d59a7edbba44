"""`repairkit patch` lets all images choose and confirm, and tells what that bears out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.cli.test_commands import harm
from tests.conftest import Answer, Project, write_project

Command = Callable[..., Answer]


@pytest.fixture
def harmed(tmp_path: Path) -> Project:
    """Filter 2 harms most."""
    folder = tmp_path / "project"
    folder.mkdir()
    project = write_project(folder)
    harm(project)
    return project


def made(answer: Answer) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    document: dict[str, Any] = json.loads(answer.out)
    return document


@pytest.mark.long
def test_the_report_tells_what_each_fold_chose_and_what_is_promised(
    repairkit: Command, harmed: Project
) -> None:
    document = made(repairkit("patch", harmed.model, "--fairness", "--json"))
    selection = document["selection"]
    parts = selection["parts"]
    assert parts["choosing"] == parts["confirmation"] == document["parts"]["selection"]
    assert parts["folds"] == len(selection["folds"]) == 5
    assert sum(fold["n_images"] for fold in selection["folds"]) == parts["choosing"]
    frozen = [f["filter"] for f in document["frozen"]]
    assert "conv:2" in frozen
    assert set(selection["stability"]) == set(frozen)
    for name, count in selection["stability"].items():
        assert count == sum(name in fold["frozen"] for fold in selection["folds"])
        assert (name in selection["unstable"]) == (count < 2.5)
    promise = selection["promise"]
    assert promise["reached"] == "objective"
    assert [rung["name"] for rung in promise["rungs"]] == ["objective", "smooth", "likelihood"]
    assert selection["promised"] == promise["rungs"][0]["change"]
    assert document["scoring"]["scored_on"]["n_images"] == parts["choosing"]
    names = [cure["cure"] for cure in selection["cures"]]
    assert names == ["freeze", "bias", "last-layer"]
    assert selection["cures"][0]["changes"]["worst_group_accuracy"] == selection["promised"]
    passes = selection["passes"]
    assert 0 < passes["one_search"] <= passes["all_searches"]
    page = Path(document["page"]).read_text()
    assert "Choosing like this gained" in page
    assert "Promise reached" in page
    card = Path(document["model_card"]).read_text()
    assert "Choosing like this gained" in card


@pytest.mark.long
def test_the_terminal_tells_the_promise_and_the_cures(repairkit: Command, harmed: Project) -> None:
    answer = repairkit("patch", harmed.model, "--fairness")
    assert answer.code == 0, answer.err
    told = " ".join(answer.out.split())
    assert "Choosing like this gained" in told
    assert "Promise reached: accuracy of the worst group" in told
    assert "freezing filters (this repair)" in told
    assert "last layer refitted" in told


@pytest.mark.parametrize("cure", ["bias", "last-layer", "best"])
def test_every_cure_is_confirmed_baked_proven_and_undone(
    repairkit: Command, harmed: Project, cure: str
) -> None:
    before = harmed.model.read_bytes()
    document = made(repairkit("patch", harmed.model, "--fairness", "--repair", cure, "--json"))
    if cure != "best":
        assert document["frozen"] == []
        assert document["scoring"] is None  # no filter needs a value
        assert document["selection"]["cure"] == cure
    patched = document["patched_model"]
    onnx.checker.check_model(patched, full_check=True)
    assert repairkit("verify", harmed.model, patched, "--data", harmed.data).code == 0
    assert repairkit("revert", patched, "-o", "back.onnx").code == 0
    assert Path("back.onnx").read_bytes() == before


@pytest.mark.long
def test_a_promise_that_is_not_strong_enough_is_declined(
    repairkit: Command, harmed: Project
) -> None:
    """Few images of the worst group: its likelihood is sure to rise, its accuracy is not."""
    stored = dict(np.load(harmed.data))
    worst = np.flatnonzero(stored["group"] == "b")
    keep = np.ones(len(stored["group"]), bool)
    keep[worst[24:]] = False
    np.savez(harmed.data, **{name: array[keep] for name, array in stored.items()})
    weak = repairkit("patch", harmed.model, "--fairness", "--json", "--test", "none")
    strong = repairkit(
        "patch", harmed.model, "--fairness", "--promise", "objective", "--test", "none",
        "--json", "-o", "strong.onnx",
    )  # fmt: skip
    if weak.code == 0 and json.loads(weak.out)["selection"]["promise"]["reached"] == "objective":
        assert strong.code == 0
    else:
        assert strong.code == 4
        assert "choosing like this changes worst_group_accuracy by" in strong.err
        assert not Path("strong.onnx").exists()


def test_wishes_that_do_not_go_together_are_refused(repairkit: Command, harmed: Project) -> None:
    for words, told in (
        (("--repair", "bias", "--remove", "conv:1"), "leave out"),
        (("--fairness", "--repair", "bias", "--level", "best"), "freezes no filter"),
        (("--fairness", "--repair", "magic"), "expected freeze, bias, last-layer, best"),
        (("--fairness", "--promise", "all"), "expected objective, smooth, likelihood"),
        (("--fairness", "--repair", "best", "--choose", "plain"), "--choose plain"),
    ):
        answer = repairkit("patch", harmed.model, *words)
        assert answer.code == 1
        assert told in answer.err.splitlines()[-1]


@pytest.mark.long
def test_a_doubtful_preprocessing_turns_the_verdict(repairkit: Command, harmed: Project) -> None:
    """The fixture's model takes nearly all images for one class: its classes are in doubt."""
    document = made(repairkit("patch", harmed.model, "--fairness", "--json"))
    assert document["read"]["first_look"]["doubt"]
    assert document["verdict"]["word"] == "Mixed"
    assert "the preprocessing is doubtful" in document["verdict"]["sentence"]
