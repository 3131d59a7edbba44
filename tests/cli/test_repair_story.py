"""Who pays for a repair is said first, limited by --max-group-drop, and shown in one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from repairkit.report.wording import visible
from tests.conftest import Answer
from tests.unfair import SHORTCUT, write_unfair

Command = Callable[..., Answer]
FAST = ("--method", "exact", "--seed", "3")


@pytest.fixture(scope="module")
def unfair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unfair")
    write_unfair(folder)
    return folder


@pytest.mark.parametrize(
    "way", [(), ("--confirm-share", "0.4"), ("--choose", "plain"), ("--repair", "best")]
)
def test_a_repair_that_a_group_pays_for_is_not_promised(
    repairkit: Command, unfair: Path, tmp_path: Path, way: tuple[str, ...]
) -> None:
    job = ("patch", unfair / "model.onnx", "--data", unfair / "data.npz", "--group", "group")
    limited = repairkit(*job, "--objective", "accuracy", *FAST, *way)
    if way == ("--repair", "best"):  # another cure does without the few's loss
        assert limited.code == 0
        assert "Improved" in limited.out.splitlines()[0]
        return
    assert limited.code == 4
    assert "'few'" in limited.err
    assert "than the 5 points that --max-group-drop allows" in limited.err
    assert not list(tmp_path.glob("*.patched*"))


def test_who_pays_is_said_first_everywhere(
    repairkit: Command, unfair: Path, tmp_path: Path
) -> None:
    job = ("patch", unfair / "model.onnx", "--data", unfair / "data.npz", "--group", "group")
    allowed = repairkit(*job, "--objective", "accuracy", "--max-group-drop", "1", "--json", *FAST)
    assert allowed.code == 0, allowed.err
    document = json.loads(allowed.out)
    assert [payer["name"] for payer in document["payers"]] == ["few"]
    assert document["verdict"]["tone"] == "mixed"
    assert document["choice"]["max_group_drop"] == 1
    first = document["verdict"]["sentence"].partition(". ")[0]
    assert "surely lowers the accuracy of group few" in first
    page, card = (Path(document[key]).read_text() for key in ("page", "model_card"))
    assert 'class="verdict mixed"' in page
    assert visible(first) in page
    assert "accuracy of group few" in card.partition("Made by")[0]
    for path in tmp_path.glob("model.patched*"):
        path.unlink()

    shown = repairkit(*job, "--remove", SHORTCUT)
    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[0].startswith("Mixed: Freezing 1 filter lifts")
    assert "surely lowers the accuracy of group few (-" in shown.out.splitlines()[0]


def test_crossed_groups_print_one_table_and_the_rest_on_request(
    repairkit: Command, unfair: Path
) -> None:
    job = (
        "patch", unfair / "model.onnx", "--data", unfair / "data.npz", "--group", "town,group",
        "--remove", "conv:2",
    )  # fmt: skip
    plain = repairkit(*job, "-o", "plain.onnx")
    assert plain.code == 0, plain.err
    crossed = "town × group"  # noqa: RUF001 - as groups are named
    assert plain.out.count("Groups by ") == plain.out.count(f"Groups by {crossed}") == 1
    assert "Fairness by" not in plain.out
    assert "--details" in plain.out
    full = repairkit(*job, "--details", "-o", "full.onnx")
    assert full.out.count("Groups by ") == full.out.count("Fairness by ") == 3
    assert full.out.count("Rates of class") == 3


def test_a_metric_that_no_two_groups_define_is_refused_before_anything_is_spent(
    repairkit: Command, unfair: Path, tmp_path: Path
) -> None:
    stored = dict(np.load(unfair / "data.npz"))
    np.savez(tmp_path / "apart.npz", **{**stored, "site": np.where(stored["y"], "wet", "dry")})
    job = (unfair / "model.onnx", "--data", tmp_path / "apart.npz", "--group", "site")
    for command in (
        ("score", *job, "--metric", "equal_opportunity_difference"),
        ("patch", *job, "--target", "equal_opportunity_difference<=0.1"),
    ):
        answer = repairkit(*command)
        assert answer.code == 1
        assert "not defined on the" in answer.err.splitlines()[-1]
