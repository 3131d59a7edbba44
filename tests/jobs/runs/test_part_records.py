"""What a run tells of its parts gives them again, whichever version made it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.errors import DataError, SettingsError
from repairkit.data.dataset import Dataset
from repairkit.data.parts import PartPlan, Parts, split_parts
from repairkit.jobs.runs.run_document import (
    keyed_parts,
    recorded_plan,
    same_parts,
    told_parts,
)
from tests.conftest import Answer, Project
from tests.data.builders import dataset

Command = Callable[..., Answer]
SPLIT = ["selection"] * 20 + ["val"] * 20 + ["test"] * 20
EARLIER = PartPlan(0.2, 0.4, 0.4)
EARLIER_OPTIONS = ("--calibration", "0.2", "--selection", "0.4", "--test", "0.4")
WISHES = st.one_of(
    st.none(), st.just("all"), st.floats(0.1, 0.3), st.just("0.4"), st.just(0.4), st.just("test")
)
PLANS = st.builds(PartPlan, st.one_of(WISHES, st.just("0.2")), WISHES, WISHES | st.just("none"))


def record(plan: PartPlan, parts: Parts) -> dict[str, Any]:
    """What `run.json` holds of the parts."""
    settings = {name: getattr(plan, name) for name in ("calibration", "selection", "test")}
    return json.loads(json.dumps({"settings": {"parts": settings}, "parts": told_parts(parts)}))


def parted(plan: PartPlan, seed: int, *, with_split: bool) -> tuple[Dataset, Parts | None]:
    data = dataset([0, 1] * 30, split=SPLIT if with_split else None)
    try:
        return data, split_parts(data, plan, seed=seed)
    except (SettingsError, DataError):
        return data, None


@given(plan=PLANS, other=PLANS, seed=st.integers(0, 3), with_split=st.booleans())
def test_equal_keys_mean_equal_images_and_a_record_gives_its_parts_again(
    plan: PartPlan, other: PartPlan, seed: int, with_split: bool
) -> None:
    data, ours = parted(plan, seed, with_split=with_split)
    _, theirs = parted(other, seed, with_split=with_split)
    if ours is None or theirs is None:
        return
    run = record(plan, ours)
    assert recorded_plan(run) == plan
    assert same_parts(run, other, theirs) == (ours.digest == theirs.digest)
    if keyed_parts(plan, ours, data) == keyed_parts(other, theirs, data):
        assert ours.digest == theirs.digest


def test_a_run_of_an_earlier_version_is_of_the_shares_that_it_had() -> None:
    data, parts = parted(EARLIER, 0, with_split=False)
    assert parts is not None
    earlier = record(PartPlan(), parts)
    del earlier["parts"]["digest"]
    assert recorded_plan(earlier) == EARLIER
    assert same_parts(earlier, EARLIER, parts)
    assert set(keyed_parts(EARLIER, parts, data).values()) == {None}
    _, now = parted(PartPlan(), 0, with_split=False)
    assert now is not None
    assert not same_parts(earlier, PartPlan(), now)
    shared = {**earlier, "parts": {**earlier["parts"], "how": ""}}
    assert not same_parts(shared, PartPlan(), now)
    assert same_parts(shared, PartPlan(), replace(parts))


@pytest.fixture
def earlier(repairkit: Command, project: Project) -> Path:
    """A run folder as an earlier version wrote it with its default parts."""
    run = Path("earlier")
    arguments = ("--method", "permutation", "--max-evaluations", "60", "--no-curve", "--quiet")
    assert repairkit("score", project.model, *EARLIER_OPTIONS, *arguments, "-o", run).code == 0
    document = json.loads((run / "run.json").read_text())
    document["settings"]["parts"] = dict.fromkeys(("calibration", "selection", "test"))
    del document["parts"]["digest"]
    (run / "run.json").write_text(json.dumps(document))
    return run


def test_values_of_other_parts_do_not_choose_and_the_line_names_the_options(
    repairkit: Command, project: Project, earlier: Path
) -> None:
    answer = repairkit("patch", project.model, "--scores", earlier)
    assert answer.code == 1
    assert answer.err.count("was scored with parts of other images") == 1
    assert f"give both the same: {' '.join(EARLIER_OPTIONS)} are the run's" in answer.err
    answer = repairkit("patch", project.model, "--scores", earlier, *EARLIER_OPTIONS)
    assert answer.code in (0, 4), answer.err


def test_a_run_of_an_earlier_version_goes_on_with_its_own_parts_alone(
    repairkit: Command, project: Project, earlier: Path
) -> None:
    more = ("--method", "permutation", "--max-evaluations", "120", "--quiet", "-o", earlier)
    answer = repairkit("score", project.model, "--resume", *more)
    assert answer.code == 1
    assert "holds a run with other parts (calibration: a share of 0.2, selection" in answer.err
    assert f"repeat them: {' '.join(EARLIER_OPTIONS)} are the run's" in answer.err
    assert repairkit("score", project.model, "--resume", *EARLIER_OPTIONS, *more).code == 0
    assert json.loads((earlier / "run.json").read_text())["evaluations"] > 60


def test_a_page_of_an_earlier_run_is_about_its_own_images(
    repairkit: Command, earlier: Path
) -> None:
    answer = repairkit("report", earlier)
    assert answer.code == 0, answer.err
    removal = json.loads((earlier / "report.json").read_text())["removal"]
    n_selected = json.loads((earlier / "run.json").read_text())["parts"]["selection"]
    assert removal["n_images"] == n_selected


def test_a_scoring_may_set_no_image_aside(repairkit: Command, project: Project) -> None:
    common = ("score", project.model, "--method", "exact", "--test", "none", "-o", "run")
    answer = repairkit(*common)
    assert answer.code == 0, answer.err
    run = json.loads(Path("run/run.json").read_text())
    n_images = run["data"]["n_images"]
    assert [run["parts"][name] for name in ("calibration", "selection", "test")] == [
        n_images,
        n_images,
        0,
    ]
    assert f"selection {n_images}, test none" in answer.err
    assert f"{n_images} calibration (all {n_images} images)" in answer.out
    assert repairkit("report", "run").code == 0
    assert "no test image" in Path("run/report.html").read_text()
