"""What was read is told in few lines that are true of it."""

from __future__ import annotations

from typing import Any

import pytest

from repairkit.workflows.told_reading import reading_lines, told_of_ends


def _read(images: int, parts: dict[str, int], unused: int = 0) -> dict[str, Any]:
    return {
        "images": images,
        "labels": "",
        "outputs": "",
        "parts": parts,
        "in_no_part": unused,
        "classes": {},
        "groups": {},
        "left_out": [],
    }


@pytest.mark.parametrize(
    ("parts", "unused", "shared"),
    [
        ({"calibration": 3, "selection": 4, "test": 5}, 0, False),
        ({"calibration": 3, "selection": 4, "test": 4}, 1, False),
        ({"calibration": 12, "selection": 12, "test": 12}, 0, True),
        ({"calibration": 12, "selection": 6, "test": 6}, 0, True),
    ],
)
def test_shared_images_are_not_told_as_if_they_were_apart(
    parts: dict[str, int], unused: int, shared: bool
) -> None:
    told = "\n".join(reading_lines(_read(12, parts, unused)))
    assert ("share images" in told) == shared


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
