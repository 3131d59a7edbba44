"""Labels are read in one way from every source, and columns make groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.errors import DataError
from repairkit.core.suite import Annotations
from repairkit.data.annotations import CROSS as AND
from repairkit.data.annotations import (
    columns_to_group,
    cross_groups,
    empty_crosses,
    read_classes,
    read_targets,
)

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


def cross(columns: dict[str, list[Any]], *names: str) -> tuple[list[int], tuple[str, ...]]:
    attributes = {name: np.array(values) for name, values in columns.items()}
    groups, group_names = cross_groups(attributes, names, lambda index: f"image {index}")
    assert groups.dtype == np.int64
    return groups.tolist(), group_names


def test_crossed_values_are_joined_by_a_cross() -> None:
    assert ascii(AND) == "' \\xd7 '"


def test_columns_are_crossed_and_only_what_occurs_is_named() -> None:
    columns = {"race": ["White", "Black", "Black"], "sex": ["man", "woman", "woman"]}
    assert cross(columns, "race", "sex") == ([1, 0, 0], (f"Black{AND}woman", f"White{AND}man"))
    assert cross(columns, "sex") == ([0, 1, 1], ("man", "woman"))


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), min_size=1))
def test_every_image_bears_the_name_of_its_values(rows: list[tuple[str, str]]) -> None:
    groups, names = cross({"one": [r[0] for r in rows], "two": [r[1] for r in rows]}, "one", "two")
    assert [names[group] for group in groups] == [AND.join(row) for row in rows]
    assert list(names) == sorted(set(names))


def test_numbers_are_named_as_they_are_written() -> None:
    assert cross({"a": [2.0, 0.5]}, "a") == ([1, 0], ("0.5", "2"))
    assert cross({"a": [True, False]}, "a")[1] == ("False", "True")
    assert cross({"a": [np.inf]}, "a")[1] == ("inf",)


def test_an_unknown_column_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'rase': the data has race, sex; did you mean 'race'\?"):
        cross({"race": ["a"], "sex": ["b"]}, "rase")
    with pytest.raises(DataError, match="the data has no attributes"):
        cross({}, "race")


@pytest.mark.parametrize("values", [["a", ""], ["a", " "], [1.0, np.nan]])
def test_a_missing_value_is_refused(values: list[Any]) -> None:
    with pytest.raises(DataError, match="image 1: no value for 'race'"):
        cross({"race": values}, "race")


def test_two_groups_never_share_a_name() -> None:
    columns = {"a": np.array(["x", f"x{AND}y"]), "b": np.array([f"y{AND}z", "z"])}
    with pytest.raises(DataError, match="2 groups would be called"):
        cross_groups(columns, ["a", "b"], str)


LABELLED = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("xyz")), min_size=1, max_size=30)


@given(rows=LABELLED, named=st.integers(0, 4))
def test_classes_cross_with_columns_as_any_column_does(
    rows: list[tuple[int, str]], named: int
) -> None:
    names = ("cat", "dog", "eel", "fox")[:named]
    labels, texts = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    about = Annotations(labels=labels, class_names=names, attributes={"tag": texts})
    columns = columns_to_group(about, ["label", "tag"])
    groups, found = cross_groups(columns, ["label", "tag"], str)
    told = [names[label] if label < named else str(label) for label, _ in rows]
    wanted = [f"{name}{AND}{text}" for name, text in zip(told, texts, strict=True)]
    assert [found[group] for group in groups] == wanted
    notes = empty_crosses(columns, ["label", "tag"], found)
    n_crosses = len(set(told)) * len(set(texts.tolist()))
    assert bool(notes) == (len(found) < n_crosses)
    if notes:
        assert notes[0].startswith(f"{n_crosses - len(found)} of the {n_crosses} groups by label")
    assert empty_crosses(columns, ["label"], set(told)) == ()


def test_an_attribute_that_is_called_label_stands_for_itself() -> None:
    about = Annotations(labels=np.array([0, 1]), attributes={"label": np.array(["sunny", "rainy"])})
    assert columns_to_group(about, ["label"])["label"].tolist() == ["sunny", "rainy"]


def test_targets_make_no_groups() -> None:
    about = Annotations(labels=np.array([0.5, 1.5]), attributes={"sex": np.array(["m", "w"])})
    assert set(columns_to_group(about, ["sex"])) == {"sex"}
    with pytest.raises(DataError, match=r"targets of a regressor.* another column with --group"):
        columns_to_group(about, ["sex", " label "])
