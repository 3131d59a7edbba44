"""What was read is told in few lines that are true of it."""

from __future__ import annotations

from typing import Any

import pytest

from repairkit.jobs.setup.looking import reading_lines, told_of_ends


def _read(images: int, parts: dict[str, int], unused: int = 0, means: str = "") -> dict[str, Any]:
    return {
        "images": images,
        "labels": "",
        "outputs": "",
        "parts": parts,
        "means": means,
        "in_no_part": unused,
        "classes": {},
        "groups": {},
        "left_out": [],
    }


@pytest.mark.parametrize(
    ("parts", "unused", "means", "shared"),
    [
        ({"calibration": 3, "selection": 4, "test": 5}, 0, "", False),
        ({"calibration": 3, "selection": 4, "test": 4}, 1, "", False),
        ({"calibration": 12, "selection": 12, "test": 12}, 0, "", True),
        ({"calibration": 12, "selection": 6, "test": 6}, 0, "", True),
        ({"calibration": 8, "selection": 8, "test": 4}, 0, "the 8 images that are not test", False),
        ({"calibration": 8, "selection": 9, "test": 4}, 0, "the 8 images that are not test", True),
    ],
)
def test_shared_images_are_not_told_as_if_they_were_apart(
    parts: dict[str, int], unused: int, means: str, shared: bool
) -> None:
    told = "\n".join(reading_lines(_read(12, parts, unused, means)))
    assert ("share images" in told) == shared
    assert f"calibration {parts['calibration']} ({means})" in told or not means


def test_a_part_without_images_is_told_as_none_and_not_counted() -> None:
    read = _read(12, {"calibration": 12, "selection": 12, "test": 0}, 0, "all 12 images")
    told = list(reading_lines({**read, "groups": {"a": [5, 5, 0], "b": [7, 7, 0]}}))
    assert told[1:] == [
        "images by part: calibration 12 (all 12 images), selection 12, test none",
        "images of the 2 groups (calibration/selection): a 5/5, b 7/7",
    ]


def test_without_images_nothing_is_counted() -> None:
    assert list(reading_lines(_read(0, dict.fromkeys(("a", "b"), 0)))) == ["no images were given"]


@pytest.mark.parametrize(
    ("name", "full", "empty", "told"),
    [
        ("accuracy", 0.1, 0.1, True),
        ("accuracy", 0.11, 0.1, False),
        ("loss", 2.4, 2.3, True),
        ("loss", 2.2, 2.3, False),
        ("demographic_parity_difference", 0.2, 0.0, False),
    ],
)
def test_a_model_that_does_no_better_than_without_filters_is_told(
    name: str, full: float, empty: float, told: bool
) -> None:
    notes = told_of_ends({name: {"all": full, "none": empty}})
    assert bool(notes) == told
