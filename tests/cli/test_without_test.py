"""`--test none`: the figures of small data are of images under a cure that they did not choose."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repairkit.jobs.repair.objective import N_FOLDS
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from repairkit.repairs.crossfit import widening
from tests.cli.test_commands import harm
from tests.conftest import Answer, Project, write_project

Command = Callable[..., Answer]
CROSS_FITTED = "selection, cross-fitted"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = write_project(tmp_path_factory.mktemp("small"))
    harm(project)
    return project


@pytest.fixture
def small(made_once: Project, tmp_path: Path) -> Project:
    """Few images and a filter that harms; a copy, to be changed at will."""
    folder = tmp_path / "project"
    shutil.copytree(made_once.folder, folder)
    return Project(folder, folder / "model.onnx", folder / "data.npz")


def read(answer: Answer) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    found: dict[str, Any] = json.loads(answer.out)
    return found


def test_every_image_chooses_and_reports_under_what_it_did_not_choose(
    repairkit: Command, small: Project
) -> None:
    told = read(repairkit("patch", small.model, "--fairness", "--test", "none", "--json"))
    n_images = len(np.load(small.data)["y"])
    assert [told["parts"][name] for name in ("calibration", "selection", "test")] == [
        n_images,
        n_images,
        0,
    ]
    before, after = (told["evaluations"][key] for key in ("before", "after"))
    assert before["suite"] == after["suite"] == told["fairness"]["suite"] == CROSS_FITTED
    assert before["n_images"] == after["n_images"] == n_images
    # The model as it is, on all images: nothing of the choice is in these figures.
    bench = prepare(read_subject(small.model), Settings(data=small.data, groups=("group",)))
    groups = bench.dataset.annotations.groups
    assert bench.form is not None
    everyone = bench.parts.selection.whole("all", bench.dataset.images, bench.dataset.annotations)
    right = (
        bench.form.predictions(bench.working.run_plain(everyone))
        == bench.dataset.annotations.labels
    )
    worst = min(right[groups == g].mean() for g in (0, 1))
    assert before["metrics"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert before["metrics"]["worst_group_accuracy"]["value"] == pytest.approx(worst)
    # What the choice itself promised, widened once.
    moved = told["evaluations"]["difference"]["worst_group_accuracy"]
    assert moved == pytest.approx(told["choice"]["promised_on_selection"])
    assert any("there is no test part" in note for note in told["notes"])
    assert not any("a test part is advised" in note for note in told["notes"])


@pytest.mark.long
def test_intervals_are_widened_in_every_table(repairkit: Command, small: Project) -> None:
    """Differences of the groups' accuracies stand in two places, and agree."""
    told = read(repairkit("patch", small.model, "--fairness", "--test", "none", "--json"))
    (table,) = told["fairness"]["columns"]
    assert widening(N_FOLDS) == pytest.approx(1.5)
    for row in table["groups"]:
        moved = told["evaluations"]["difference"][f"accuracy:{row['name']}"]
        assert row["difference"] == pytest.approx(moved)


def test_nowhere_are_these_images_called_test(repairkit: Command, small: Project) -> None:
    answer = repairkit("patch", small.model, "--fairness", "--test", "none", "-o", "out.onnx")
    assert answer.code == 0, answer.err
    page, card = Path("out.report.html").read_text(), Path("out.model-card.md").read_text()
    for text in (answer.out, page, card.replace("\\", "")):
        assert f"({CROSS_FITTED})" in text
        assert "Choosing like this" in text
        for word in ("of the test part", "on the test part", "The test part", "0 test images"):
            assert word not in text
    assert "test none" in answer.err
    again = repairkit("verify", small.model, "out.onnx", "--data", small.data)
    assert again.code == 0, again.err


def test_named_filters_are_judged_by_all_images(repairkit: Command, small: Project) -> None:
    told = read(repairkit("patch", small.model, "--remove", "conv:2", "--test", "none", "--json"))
    assert told["evaluations"]["before"]["suite"] == "selection"
    assert told["evaluations"]["before"]["n_images"] == len(np.load(small.data)["y"])
    assert any("no image chose the filters" in note for note in told["notes"])
    # The same figures as on a test part that holds all images.
    as_test = read(
        repairkit(
            "patch", small.model, "--remove", "conv:2", "--test", "all", "-o", "b.onnx", "--json"
        )
    )
    for key in ("before", "after"):
        assert told["evaluations"][key]["metrics"] == as_test["evaluations"][key]["metrics"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--confirm-share", "0.3"), "--confirm-share keeps images to confirm alone"),
        (("--choose", "plain"), "--choose plain judges by the images that chose"),
        (("--method", "tmab"), "values of tmab cannot be solved anew"),
        (("--baselines",), "--baselines judges every cure by test images"),
    ],
)
def test_what_has_no_honest_figures_is_refused_before_anything_is_scored(
    repairkit: Command, small: Project, options: tuple[str, ...], words: str
) -> None:
    answer = repairkit("patch", small.model, "--fairness", "--test", "none", *options)
    assert answer.code == 1
    assert words in answer.err
    assert "give a test part, such as --test 0.3" in answer.err
    assert "scoring" not in answer.err
    assert answer.err.count("\n") == 1
    assert not list(Path.cwd().glob("*.patched*"))


def test_values_of_a_run_need_a_test_part(repairkit: Command, small: Project) -> None:
    common = ("--test", "none", "--quiet")
    score = ("score", small.model, "--metric", "group_loss", "--method", "exact", "-o", "run")
    assert repairkit(*score, *common).code == 0
    answer = repairkit("patch", small.model, "--fairness", "--scores", "run", *common)
    assert answer.code == 1
    assert "here are none: the values come from a run folder" in answer.err


@pytest.mark.long
def test_much_data_is_advised_to_keep_a_test_part(
    repairkit: Command, small: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repairkit.jobs.repair.telling.ENOUGH_IMAGES", 100)
    told = read(repairkit("patch", small.model, "--fairness", "--test", "none", "--json"))
    assert any("a test part is advised (--test 0.3)" in note for note in told["notes"])


def test_declining_says_how_many_images_a_test_part_keeps_away(
    repairkit: Command, project: Project
) -> None:
    def refusal(*options: str) -> str:
        answer = repairkit("patch", project.model, "--fairness", *options)
        assert answer.code == 4, answer.out
        return answer.err.splitlines()[-1]

    assert refusal().endswith("; --test none would add 36 images to choose on; nothing was written")
    assert "would add" not in refusal("--test", "none")
    assert "would add" not in refusal("--selection", "0.7")
    assert "would add" not in refusal("--confirm-share", "0.3")


@pytest.mark.long
def test_the_project_file_may_ask_for_no_test_part(repairkit: Command, small: Project) -> None:
    with (small.folder / "repairkit.toml").open("a", encoding="utf-8") as file:
        file.write('[parts]\ntest = "none"\n')
    told = read(repairkit("patch", small.model, "--fairness", "--json"))
    assert told["evaluations"]["before"]["suite"] == CROSS_FITTED
    over = read(
        repairkit("patch", small.model, "--fairness", "--json", "--test=0.2", "-o", "b.onnx")
    )
    assert over["evaluations"]["before"]["suite"] == "test"
