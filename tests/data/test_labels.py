from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from repairkit.core.errors import DataError
from repairkit.data.annotations import read_classes, read_targets

NAMES = ("cat", "dog", "emu")


def locate(index: int) -> str:
    return f"image {index}"


def classes(raw: list[Any], *names: str, n_classes: int | None = None) -> list[int]:
    labels = read_classes(np.array(raw), names, n_classes, locate)
    assert labels.values.dtype == np.int64
    return labels.values.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("raw", [[0, 2, 1], [0.0, 2.0, 1.0], ["0", "2", "1"], ["0.0", "2", "1"]])
def test_class_numbers_are_kept_however_they_are_written(raw: list[Any]) -> None:
    assert classes(raw, n_classes=3) == [0, 2, 1]
    assert classes(raw) == [0, 2, 1]


def test_names_are_numbered_as_the_classes_are() -> None:
    assert classes(["emu", "cat"], *NAMES) == [2, 0]
    assert read_classes(np.array(["emu"]), NAMES, 3, locate).class_names == NAMES


def test_names_alone_are_numbered_in_sorted_order_with_a_note() -> None:
    labels = read_classes(np.array(["dog", "cat", "dog"]), (), None, locate)
    assert labels.values.tolist() == [1, 0, 1]
    assert labels.class_names == ("cat", "dog")
    assert "numbered by sorted name: 0 = cat, 1 = dog" in labels.notes[0]


def test_numbers_that_are_class_names_are_names() -> None:
    assert classes(["7", "3"], "3", "7") == [1, 0]
    assert classes(["1", "0"], "cat", "dog") == [1, 0]


@pytest.mark.parametrize(
    ("raw", "names", "n_classes", "message"),
    [
        ([0, 3, 9], (), 3, "^image 1: label 3 is outside the classes 0 to 2;"),
        ([0, -1], (), None, "image 1: label -1 is outside the classes 0 and up"),
        (["0", "3"], NAMES, None, "image 1: label 3 is outside the classes 0 to 2"),
        (["cat", "dgo"], NAMES, 3, r"image 1: label 'dgo' is none .*did you mean 'dog'"),
        (["a", "b", "c"], (), 2, "image 2: label c is one of 3 names and the model has 2 classes"),
        ([0.5], (), 2, r"image 0: label 0\.5 is no whole class number; .*regression"),
        ([0.0, np.nan], (), 2, "image 1: label is nan"),
        (["1", "nan"], (), 2, "image 1: label is nan"),
        (["cat", " "], (), 2, "image 1: the label is missing"),
        ([1j], (), 2, "image 0: label has type complex128"),
    ],
)
def test_labels_that_are_no_classes_are_refused(
    raw: list[Any], names: tuple[str, ...], n_classes: int | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        classes(raw, *names, n_classes=n_classes)


@pytest.mark.parametrize("raw", [[1, 0], [True, False], ["1", "0"], [1.0, 0.0], ["1e0", ".0"]])
def test_targets_are_floats_however_they_are_written(raw: list[Any]) -> None:
    values = read_targets(np.array(raw), locate).values
    assert values.dtype == np.float64
    assert values.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (["1", "cat"], "image 1: label cat is no number; a regressor needs"),
        (["1", ""], "image 1: label  is no number"),
        ([1.0, np.nan], "image 1: label is nan"),
        ([1.0, np.inf], "image 1: label is inf"),
        ([1j], "image 0: label 1j is no number"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(raw: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_targets(np.array(raw), locate)
