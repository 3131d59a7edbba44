from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.errors import DataError, SettingsError
from repairkit.core.suite import Suite
from repairkit.data.parts import PartPlan, Parts, split_parts
from tests.data.builders import dataset

LABELS = [0, 1] * 30
GROUPS = [0, 0, 0, 1] * 15
SPLIT = ["train"] * 30 + ["val"] * 20 + ["test"] * 10
OF_VAL = PartPlan(selection="val")


def suites(parts: Parts) -> dict[str, Suite]:
    return {suite.name: suite for suite in (parts.calibration, parts.selection, parts.test)}


def rows(parts: Parts) -> dict[str, list[int]]:
    return {name: suite.indices.tolist() for name, suite in suites(parts).items()}


CELLS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=10, max_size=80)


def of_cells(cells: list[tuple[int, int]]) -> tuple[Any, list[tuple[int, int]]]:
    """Data of these labels and groups, with enough images of each group that every part has one."""
    cells = cells + [(0, 0)] * 5 + [(0, 1)] * 5
    return dataset([cell[0] for cell in cells], [cell[1] for cell in cells]), cells


@settings(deadline=None)
@given(cells=CELLS, seed=st.integers(0, 2**32))
def test_seven_tenths_choose_three_test_and_means_see_all_that_is_not_test(
    cells: list[tuple[int, int]], seed: int
) -> None:
    data, cells = of_cells(cells)
    parts = split_parts(data, PartPlan(), seed=seed)
    chosen = rows(parts)
    assert sorted(chosen["selection"] + chosen["test"]) == list(range(len(cells)))
    assert all(part == sorted(part) for part in chosen.values())
    assert chosen["calibration"] == chosen["selection"]
    assert parts.overlaps == ()
    assert parts.summary.startswith(
        f"calibration: the {len(chosen['calibration'])} images that are not test, "
        "selection: a share of 0.7, test: a share of 0.3; shares drawn by label and group"
    )
    for cell, count in Counter(cells).items():
        for name, share in (("selection", 0.7), ("test", 0.3)):
            assert abs(sum(cells[row] == cell for row in chosen[name]) - share * count) < 1


WISHES = st.one_of(
    st.none(), st.sampled_from(["all", "train", "val", "test"]), st.floats(0.05, 0.3)
)


@settings(deadline=None)
@given(
    selection=WISHES,
    test=st.one_of(WISHES, st.just("none")),
    with_split=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_a_calibration_part_left_open_is_all_that_is_not_test(
    selection: str | float | None, test: str | float | None, with_split: bool, seed: int
) -> None:
    data = dataset(LABELS, split=SPLIT if with_split else None)
    try:
        parts = split_parts(data, PartPlan(selection=selection, test=test), seed=seed)
    except (SettingsError, DataError):
        return
    chosen = {name: set(part) for name, part in rows(parts).items()}
    beside = set(range(60)) - chosen["test"]
    if test == "none" and with_split:  # what a split calls test is left alone
        beside = {row for row in range(60) if SPLIT[row] != "test"}
    assert chosen["calibration"] == (beside or set(range(60)))
    shared = {pair for pair in parts.overlaps if chosen[pair[0]] & chosen[pair[1]]}
    assert shared == set(parts.overlaps)
    assert (("calibration", "test") in shared) == (not beside)
    assert ("calibration", "selection") not in shared
    assert (("selection", "test") in shared) == bool(chosen["selection"] & chosen["test"])


@settings(deadline=None)
@given(test=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_a_selection_part_left_open_takes_what_other_shares_leave(test: float, seed: int) -> None:
    data = dataset([0, 1] * 100)
    chosen = rows(split_parts(data, PartPlan(test=test), seed=seed))
    assert sorted(chosen["selection"] + chosen["test"]) == list(range(200))
    chosen = rows(split_parts(data, PartPlan(0.2, test=0.8 * test), seed=seed))
    assert sorted(chosen["calibration"] + chosen["selection"] + chosen["test"]) == list(range(200))
    assert not set(chosen["calibration"]) & set(chosen["selection"])


def test_a_test_part_left_open_takes_at_most_what_is_left() -> None:
    data = dataset([0] * 100)
    assert len(split_parts(data, PartPlan(selection=0.9), seed=0).test) == 10
    assert len(split_parts(data, PartPlan(selection=0.2), seed=0).test) == 30
    with pytest.raises(SettingsError, match=r"shares of the parts add up to 1\.3"):
        split_parts(data, PartPlan(selection=1), seed=0)


@settings(deadline=None)
@given(cells=CELLS, seed=st.integers(0, 2**32))
def test_without_a_test_part_all_images_choose(cells: list[tuple[int, int]], seed: int) -> None:
    data, cells = of_cells(cells)
    parts = split_parts(data, PartPlan(test="none"), seed=seed)
    every = list(range(len(cells)))
    assert rows(parts) == {"calibration": every, "selection": every, "test": []}
    assert parts.overlaps == ()
    assert parts.summary == (
        f"calibration: all {len(every)} images, selection: all images, test: none."
    )


def test_without_a_test_part_images_that_a_split_calls_test_are_left_alone() -> None:
    names = ["selection", "selection", "test", "extra"] * 5
    parts = split_parts(dataset([0] * 20, split=names), PartPlan(test="none"), seed=0)
    chosen = rows(parts)
    assert {names[row] for row in chosen["selection"]} == {"selection"}
    assert chosen["calibration"] == [row for row in range(20) if names[row] != "test"]
    assert parts.summary == (
        "calibration: the 15 images that are not test, selection: split 'selection', test: none."
    )
    assert parts.notes == ("5 of 20 images are in no part, because their split is 'test' (5)",)
    # Which images choose is not guessed: a model fits those that it was trained on.
    with pytest.raises(
        SettingsError, match="the split column has no selection; it has test, train"
    ):
        split_parts(dataset([0] * 20, split=["train", "test"] * 10), PartPlan(test="none"), seed=0)


def test_without_a_test_part_a_group_of_one_image_will_do() -> None:
    data = dataset([0] * 10, [0] * 9 + [1])
    with pytest.raises(DataError, match=r"--test none, or give more .* group, which has 1 in all"):
        split_parts(data, PartPlan(), seed=0)
    assert len(split_parts(data, PartPlan(test="None"), seed=0).test) == 0


def test_means_never_see_what_an_attack_made() -> None:
    made = np.array([0, 0, 1] * 20)
    columns = {"adversarial": made, "target": np.where(made, 1, -1)}
    parts = split_parts(dataset(LABELS, split=SPLIT, attributes=columns), OF_VAL, seed=0)
    chosen = rows(parts)["calibration"]
    assert chosen == [row for row in range(50) if not made[row]]
    assert f"calibration: the {len(chosen)} clean images that are not test" in parts.summary


def test_parts_of_one_digest_hold_the_same_images() -> None:
    data = dataset(LABELS)
    digests = [split_parts(data, PartPlan(), seed=seed).digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]
    named = PartPlan(selection=0.7, test=0.3)
    assert split_parts(data, named, seed=1).digest == digests[0]
    assert split_parts(data, PartPlan(test="none"), seed=1).digest not in digests


def test_a_note_names_the_classes_that_a_part_lacks() -> None:
    data = dataset([0] * 30 + [1], class_names=("cat", "dog"))
    (note,) = split_parts(data, PartPlan(), seed=0).notes
    assert note.endswith("part holds no image of 1 of the 2 classes of the data: 'dog'")
    assert split_parts(data, PartPlan(test="none"), seed=0).notes == ()


def test_a_part_knows_its_images_and_annotations() -> None:
    parts = split_parts(dataset(LABELS, GROUPS), PartPlan(), seed=0)
    for name, suite in suites(parts).items():
        assert suite is getattr(parts, name)
        positions = np.arange(len(suite))
        assert np.array_equal(suite.batch(positions)[:, 0], suite.indices)
        assert suite.annotations.labels.tolist() == [LABELS[row] for row in suite.indices]
        assert suite.annotations.group_names == ("g0", "g1")


def test_one_seed_gives_one_answer_and_another_seed_another() -> None:
    data = dataset(LABELS)
    assert rows(split_parts(data, PartPlan(), seed=1)) == rows(
        split_parts(data, PartPlan(), seed=1)
    )
    assert len({str(rows(split_parts(data, PartPlan(), seed=seed))) for seed in range(5)}) == 5
    one_of_each = dataset(list(range(20)))
    assert len({str(rows(split_parts(one_of_each, PartPlan(), seed=s))) for s in range(5)}) == 5


def test_targets_are_spread_over_the_parts() -> None:
    parts = split_parts(dataset(np.linspace(0, 1, 200).tolist()), PartPlan(), seed=0)
    for suite in suites(parts).values():
        assert abs(suite.annotations.labels.mean() - 0.5) < 0.03


def test_shares_may_leave_images_unused_but_not_exceed_them() -> None:
    parts = split_parts(dataset(LABELS), PartPlan("0.1", 0.1, "0.5"), seed=0)
    assert {name: len(part) for name, part in rows(parts).items()} == {
        "calibration": 6,
        "selection": 6,
        "test": 30,
    }
    with pytest.raises(SettingsError, match=r"shares of the parts add up to 1\.2; give at most 1"):
        split_parts(dataset(LABELS), PartPlan(selection=0.6, test=0.6), seed=0)


def test_splits_that_bear_the_names_of_the_parts_are_taken() -> None:
    names = ["test", "calibration", "selection", "", "train"] * 2
    parts = split_parts(dataset([0] * 10, split=names), PartPlan(), seed=0)
    assert rows(parts) == {"calibration": [1, 6], "selection": [2, 7], "test": [0, 5]}
    assert parts.summary == (
        "calibration: split 'calibration', selection: split 'selection', test: split 'test'."
    )


def test_splits_of_other_names_must_be_assigned() -> None:
    with pytest.raises(
        SettingsError,
        match=r"no selection; it has test, train, val; .*--selection all\|NAME\|SHARE$",
    ):
        split_parts(dataset(LABELS, split=SPLIT), PartPlan(), seed=0)
    with pytest.raises(
        SettingsError, match=r"--selection, --test all\|NAME\|SHARE, or --test none"
    ):
        split_parts(dataset(LABELS, split=SPLIT[:30] * 2), PartPlan(), seed=0)


def test_named_splits_may_be_mixed_with_shares_of_the_rest() -> None:
    parts = split_parts(dataset(LABELS, split=SPLIT), PartPlan(0.2, "val"), seed=3)
    chosen = rows(parts)
    assert chosen["selection"] == list(range(30, 50))
    assert chosen["test"] == list(range(50, 60))
    assert len(chosen["calibration"]) == 6
    assert max(chosen["calibration"]) < 30
    assert parts.overlaps == ()
    assert "a share of 0.2" in parts.summary
    assert "shares of the images in no named split drawn by label with seed 3" in parts.summary
    parts = split_parts(dataset(LABELS, split=SPLIT), PartPlan(test="test"), seed=3)
    assert rows(parts)["selection"] == list(range(50))
    assert "selection: all images in no named split, test: split 'test'." in parts.summary


def test_all_a_share_and_a_name_work_together() -> None:
    parts = split_parts(dataset(LABELS, split=SPLIT), PartPlan("all", "0.5", "val"), seed=0)
    chosen = rows(parts)
    assert chosen["calibration"] == list(range(60))
    assert chosen["test"] == list(range(30, 50))
    assert len(chosen["selection"]) == 20
    assert parts.overlaps == (("calibration", "selection"), ("calibration", "test"))
    assert parts.summary.endswith("overlapping: calibration and selection, calibration and test.")


def test_parts_of_one_split_overlap() -> None:
    parts = split_parts(dataset(LABELS, split=SPLIT), PartPlan("val", "val", "test"), seed=0)
    assert parts.overlaps == (("calibration", "selection"),)


def test_a_split_named_like_a_share_is_a_split() -> None:
    data = dataset([0] * 6, split=["1", "2", "3"] * 2)
    assert rows(split_parts(data, PartPlan("1", "2", "3"), seed=0))["calibration"] == [0, 3]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            PartPlan(test="tset"),
            r"--test is 'tset'; expected all, none, a share .* a split \(test, train",
        ),
        (PartPlan(test="tset"), "did you mean 'test'"),
        (PartPlan(selection="none"), "--selection is 'none'; expected all, a share like"),
        (PartPlan(calibration="none"), "--calibration is 'none'; expected all, a share like"),
        (
            PartPlan(test="0"),
            "--test is '0'; expected a share above 0 and at most 1, or none for no",
        ),
        (PartPlan(test=1.5), r"--test is 1\.5"),
        (PartPlan(test=float("nan")), "--test is nan"),
        (PartPlan(test=True), "--test is True"),
    ],
)
def test_plans_that_make_no_sense_are_refused(plan: PartPlan, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        split_parts(dataset(LABELS, split=SPLIT), plan, seed=0)


def test_a_name_without_a_split_column_is_refused() -> None:
    with pytest.raises(SettingsError, match="or the data has no split column"):
        split_parts(dataset(LABELS), PartPlan(test="val"), seed=0)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(SettingsError, match="seed is -1"):
        split_parts(dataset(LABELS), PartPlan(), seed=-1)


@pytest.mark.parametrize(
    ("data", "plan", "message"),
    [
        (dataset([0]), PartPlan(), r"test part, a share of 0\.3, would hold no image of 1; change"),
        (
            dataset([0, 0], split=["a", "b"]),
            PartPlan("a", "b", 0.5),
            "the test part, a share of 0.5, would hold no image of 2; change --test",
        ),
        (
            dataset([0] * 20, [0] * 18 + [1] * 2),
            PartPlan(0.2),
            "part, a share of .*, holds no image of group 'g1'",
        ),
        (
            dataset([0] * 4, [0, 0, 0, 1], ["a", "b", "c", "a"]),
            PartPlan("a", "b", "c"),
            "the selection part, split 'b', holds no image of group 'g1'; change --selection",
        ),
    ],
)
def test_a_part_without_images_or_without_a_group_is_refused(
    data: Any, plan: PartPlan, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        split_parts(data, plan, seed=0)
