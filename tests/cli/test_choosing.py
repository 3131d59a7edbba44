"""`repairkit patch` chooses on some images, confirms on others, and declines where it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from repairkit.data.parts import split_selection
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests.cli.test_commands import harm
from tests.conftest import Answer, Project, write_project

Command = Callable[..., Answer]
FAST = ("--method", "exact", "--json")


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("harmed")
    project = write_project(folder)
    harm(project)
    return project


@pytest.fixture
def harmed(made_once: Project, tmp_path: Path) -> Project:
    """Filter 2 harms most; a copy, to be changed at will."""
    folder = tmp_path / "project"
    shutil.copytree(made_once.folder, folder)
    return Project(folder, folder / "model.onnx", folder / "data.npz")


def chosen(answer: Answer) -> dict[str, Any]:
    assert answer.code == 0, answer.err
    document: dict[str, Any] = json.loads(answer.out)
    return document


def declined(answer: Answer, words: str) -> None:
    assert answer.code == 4, answer.out
    assert answer.err.count("repairkit: no repair") == 1
    assert answer.err.splitlines()[-1].startswith("repairkit: no repair")
    assert words in answer.err
    assert "nothing was written" in answer.err
    assert not list(Path.cwd().glob("*.patched*"))


def test_the_report_tells_how_filters_were_chosen(repairkit: Command, harmed: Project) -> None:
    document = chosen(repairkit("patch", harmed.model, "--fairness", *FAST))
    selection = document["selection"]
    assert "conv:2" in [f["filter"] for f in document["frozen"]]
    assert selection["how"] == "joint"
    parts = selection["parts"]
    assert parts["choosing"] + parts["confirmation"] == document["parts"]["selection"]
    assert parts["confirmation"] == pytest.approx(document["parts"]["selection"] / 3, abs=2)
    assert document["scoring"]["scored_on"] == {"part": "choosing", "n_images": parts["choosing"]}
    first = selection["steps"][0]
    assert first["added"] == "conv:2"
    assert first["kept"]
    assert 0 < first["gain"]["low"] <= first["gain"]["value"]
    assert not selection["steps"][-1]["kept"]
    nothing, one, *_ = (point for point in selection["trade_off"] if point["kept"])
    assert nothing["filters"] == []
    assert one["filters"] == ["conv:2"]
    assert one["worst_group_accuracy"] > nothing["worst_group_accuracy"]
    assert selection["promised"]["ci_low"] > 0
    assert selection["confirmation"]["worst_group_accuracy"] == selection["promised"]
    assert selection["confirmation"]["accuracy"]["value"] >= -0.01
    schema = json.loads((files("repairkit.formats") / "patch.schema.json").read_text())
    jsonschema.validate(json.loads(Path(document["patch_file"]).read_text()), schema)


def test_images_that_confirm_have_no_say_in_the_choice(repairkit: Command, harmed: Project) -> None:
    """With other images for just these, the very same filters are chosen, and maybe declined."""
    settings = Settings(data=harmed.data, groups=("group",))
    bench = prepare(read_subject(harmed.model), settings)
    halves = split_selection(bench.parts.selection, 1 / 3, bench.settings.seed)
    assert not np.intersect1d(halves.choosing.indices, halves.confirmation.indices).size
    first = chosen(repairkit("patch", harmed.model, "--fairness", *FAST))
    for path in Path.cwd().glob("*.patched*"):
        path.unlink()
    stored = dict(np.load(harmed.data))
    rows = halves.confirmation.indices
    # Labels and groups stay, so that the parts are drawn as before.
    groups = stored["group"][rows]
    x = stored["x"].copy()
    for group in np.unique(groups):
        own = rows[groups == group]
        x[own] = x[np.roll(own, 1)]
    np.savez(harmed.data, **{**stored, "x": x})
    answer = repairkit("patch", harmed.model, "--fairness", *FAST)
    if answer.code == 0:
        steps = json.loads(answer.out)["selection"]["steps"]
        assert steps == first["selection"]["steps"]
    else:
        names = ", ".join(f["filter"] for f in first["frozen"])
        declined(answer, f"freezing {len(first['frozen'])} filters ({names}) was best on the")


def test_a_target_is_reached_or_nothing_is_written(repairkit: Command, harmed: Project) -> None:
    declined(
        repairkit("patch", harmed.model, "--target", "worst_group_accuracy>=1", *FAST),
        "does not surely reach the target worst_group_accuracy>=1",
    )
    document = chosen(
        repairkit(
            "patch", harmed.model, "--fairness", "--target", "accuracy >= 0.2",
            "--target", "demographic_parity_difference<=0.9", *FAST,
        )
    )  # fmt: skip
    assert document["choice"]["targets"] == ["accuracy>=0.2", "demographic_parity_difference<=0.9"]
    assert document["selection"]["reached"]["accuracy"]["value"] >= 0.2


def test_a_target_that_is_met_already_is_told_to_be_so(repairkit: Command, harmed: Project) -> None:
    document = chosen(repairkit("patch", harmed.model, "--fairness", *FAST))
    Path(document["patched_model"]).rename("whole.onnx")
    for path in Path.cwd().glob("*.patched*"):
        path.unlink()
    answer = repairkit(
        "patch", "whole.onnx", "--data", harmed.data, "--target", "accuracy>=0.2", *FAST
    )
    declined(answer, "; as it is, the model meets accuracy>=0.2 on them; --test none would add")


@pytest.mark.parametrize(
    ("options", "how"),
    [
        (("--objective", "accuracy"), "objective"),
        (("--objective", "loss", "--at-most", "1"), "objective"),
        (("--fairness", "--beam", "2", "--at-most", "2", "--test", "0.1"), "fairness"),
        (("--fairness", "--choose", "plain"), "fairness"),
    ],
)
def test_objectives_and_recipes(
    repairkit: Command, harmed: Project, options: tuple[str, ...], how: str
) -> None:
    document = chosen(repairkit("patch", harmed.model, *options, *FAST))
    assert document["choice"]["how"] == how
    assert "conv:2" in [f["filter"] for f in document["frozen"]]
    if "plain" in options:
        assert document["selection"]["how"] == "plain"
        assert document["selection"]["parts"]["confirmation"] == 0


@pytest.mark.parametrize("level", ["mean", "zero", "bias", "best"])
def test_levels(repairkit: Command, harmed: Project, level: str) -> None:
    document = chosen(repairkit("patch", harmed.model, "--fairness", "--level", level, *FAST))
    assert document["choice"]["level"] == level
    assert document["choice"]["absent"] == ("mean" if level == "best" else level)
    if level == "zero":
        assert document["frozen"][0]["constant"] == 0
    proven = repairkit(
        "verify", harmed.model, document["patched_model"], "--patch", document["patch_file"]
    )
    assert proven.code == 0, proven.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--fairness", "--objective", "accuracy"), "leave out --objective"),
        (("--target", "accuracy"), "METRIC>=NUMBER"),
        (("--target", "accuracy>=much"), "METRIC>=NUMBER"),
        (("--fairness", "--choose", "any"), "joint, plain"),
        (("--fairness", "--level", "median"), "mean, zero, bias, best"),
        (("--fairness", "--choose", "plain", "--beam", "2"), "leave them out"),
        (("--fairness", "--confirm-share", "1"), "between 0 and 1"),
        (("--objective", "acuracy"), "did you mean accuracy"),
        (("--objective", "loss", "--target", "acuracy>=0.5"), "did you mean accuracy"),
        (("--fairness", "--group", "group,group"), "'group' twice"),
        (("--remove", "conv:1", "--level", "best"), "leave out"),
    ],
)
def test_what_makes_no_sense_ends_in_one_line(
    repairkit: Command, project: Project, options: tuple[str, ...], words: str
) -> None:
    answer = repairkit("patch", project.model, *options)
    assert answer.code == 1
    assert words in answer.err
    assert answer.err.count("\n") == 1


def test_a_group_too_small_to_choose_and_confirm_is_declined(
    repairkit: Command, harmed: Project
) -> None:
    stored = dict(np.load(harmed.data))
    split = np.where(np.arange(400) % 2 == 0, "test", "selection").astype("U11")
    split[:20] = "calibration"
    group = np.full(400, "many")
    group[[3, 22, 23]] = "few"  # one in each part
    np.savez(harmed.data, **{**stored, "split": split, "group": group})
    declined(
        repairkit("patch", harmed.model, "--fairness", *FAST),
        "too few of the 190 selection images of group 'few'",
    )


def test_a_run_for_patch_leaves_the_images_that_confirm_alone(
    repairkit: Command, harmed: Project
) -> None:
    score = ("score", harmed.model, "--metric", "group_accuracy", "--method", "exact", "--quiet")
    assert repairkit(*score, "-o", "all").code == 0
    assert repairkit(*score, "--for-patch", "-o", "some").code == 0
    patch = ("patch", harmed.model, "--fairness", "--json", "--scores")
    seen = [chosen(repairkit(*patch, run, "-o", f"{run}.onnx")) for run in ("all", "some")]
    assert [d["selection"]["scores_saw_confirmation"] for d in seen] == [True, False]
    assert [any("--for-patch" in note for note in d["notes"]) for d in seen] == [True, False]
    scored_on = seen[1]["scoring"]["scored_on"]
    assert scored_on["n_images"] == seen[1]["selection"]["parts"]["choosing"]
    words = [w for w in patch if w != "--json"]
    told = [repairkit(*words, run, "-o", f"{run}.onnx").out for run in ("all", "some")]
    assert ["ranked the candidates too" in text for text in told] == [True, False]
    assert ["that did not choose." in text.replace("\n", " ") for text in told] == [False, True]
    answer = repairkit(*patch, "some", "--confirm-share", "0.5", "-o", "other.onnx")
    assert answer.code == 1
    assert "leave --confirm-share out" in answer.err


def test_a_target_in_percent_is_told_to_be_none(repairkit: Command, harmed: Project) -> None:
    answer = repairkit("patch", harmed.model, "--target", "accuracy>=80", *FAST)
    assert answer.code == 1
    assert "always lies between 0 and 1" in answer.err
    assert "0.8 for 80 %" in answer.err


def test_groups_are_needed_where_groups_are_compared(repairkit: Command, harmed: Project) -> None:
    project_file = harmed.folder / "repairkit.toml"
    project_file.write_text(project_file.read_text().replace("groups", "#"))
    answer = repairkit("patch", harmed.model, "--objective", "worst_group_accuracy")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert "worst_group_accuracy needs groups" in answer.err
    np.savez(harmed.data, **{**np.load(harmed.data), "group": np.full(400, "all")})
    answer = repairkit("patch", harmed.model, "--fairness", "--group", "group")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert "there is only 'all'" in answer.err


def test_a_run_of_another_metric_is_refused_in_the_words_of_the_user(
    repairkit: Command, harmed: Project
) -> None:
    score = ("score", harmed.model, "--metric", "accuracy", "--method", "exact", "--quiet")
    assert repairkit(*score, "-o", "run").code == 0
    answer = repairkit("patch", harmed.model, "--fairness", "--scores", "run")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert "'accuracy', which does not tell who harms worst_group_accuracy" in answer.err
    assert "--metric worst_group_accuracy or group_loss" in answer.err


def test_a_metric_of_sets_of_which_less_is_better_is_repaired_without_more_words(
    repairkit: Command, harmed: Project
) -> None:
    Path("judge.py").write_text(
        "def balanced_error(outputs, labels, attributes):\n"
        "    wrong = outputs.argmax(axis=1) != labels\n"
        "    return sum(wrong[labels == c].mean() for c in set(labels.tolist())) / 2\n"
        "balanced_error.greater_is_better = False\n"
    )
    document = chosen(
        repairkit("patch", harmed.model, "--objective", "judge:balanced_error", "--json")
    )
    assert "conv:2" in [frozen["filter"] for frozen in document["frozen"]]
    assert document["selection"]["promised"]["ci_high"] < 0
    for method in ("regression", "repair"):
        answer = repairkit(
            "score", harmed.model, "--metric", "judge:balanced_error", "--method", method,
            "-o", method, "--quiet",
        )  # fmt: skip
        assert answer.code == 0, answer.err
