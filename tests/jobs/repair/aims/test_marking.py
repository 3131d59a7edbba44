"""Images are marked by columns and lists; parts and folds hold their share of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from repairkit.core.errors import DataError
from repairkit.core.marked import to_fix
from repairkit.core.suite import Annotations
from repairkit.data.dataset import Dataset
from repairkit.data.parts import PartPlan, split_parts, strata_of
from repairkit.data.preprocessing import ReadyImages
from repairkit.jobs.repair.aims.marking import mark
from repairkit.repairs.crossfit import assign_folds

MARKS = st.lists(st.booleans(), min_size=2, max_size=40).filter(lambda m: any(m) and not all(m))
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def dataset(n: int, paths: tuple[str, ...] = (), **columns: NDArray[Any]) -> Dataset:
    about = Annotations(labels=np.arange(n) % 2, attributes=columns)
    images = ReadyImages(np.zeros((n, 1), np.float32), np.dtype(np.float32))
    return Dataset(images, about, None, "0" * 64, paths=paths)


def write_list(path: Path, name: str, rows: list[Any]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([[name], *([row] for row in rows)])
    return path


@SHARED
@given(marks=MARKS, seed=st.integers(0, 99))
def test_a_list_in_any_order_marks_what_a_column_marks(
    tmp_path: Path, marks: list[bool], seed: int
) -> None:
    n, wanted = len(marks), np.flatnonzero(marks)
    rng = np.random.default_rng(seed)
    listed = rng.permutation(np.concatenate([wanted, wanted[:1]])).tolist()
    data = dataset(n, wrong=np.array(marks).astype(int))
    by_column = mark(data, "wrong", None)
    by_numbers = mark(data, write_list(tmp_path / "list.csv", "image", listed), None)
    assert to_fix(by_column.annotations).tolist() == marks
    assert to_fix(by_numbers.annotations).tolist() == marks
    assert by_column.digest == by_numbers.digest != data.digest


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (["1", "0", "", "true"], [True, False, False, True]),
        (["Yes", "no", "yes", ""], [True, False, True, False]),
        ([1.0, 0.0, float("nan"), 1.0], [True, False, False, True]),
        ([True, False, False, True], [True, False, False, True]),
    ],
)
def test_yes_and_no_are_read_as_people_write_them(column: list[Any], said: list[bool]) -> None:
    data = dataset(4, wrong=np.array(column))
    assert to_fix(mark(data, "wrong", None).annotations).tolist() == said


def test_paths_are_found_as_the_data_has_them_and_beside_the_list(tmp_path: Path) -> None:
    paths = ("cats/a.png", "cats/b.png", "dogs/a.png", "cats/a.png")
    data, source = dataset(4, paths), tmp_path / "data" / "images.csv"
    (tmp_path / "lists").mkdir()
    for row in ("cats/a.png", "../data/cats/a.png", str(tmp_path / "data" / "cats" / "a.png")):
        fix = write_list(tmp_path / "lists" / "list.csv", "path", [row])
        assert to_fix(mark(data, fix, source).annotations).tolist() == [True, False, False, True]
    fix = write_list(tmp_path / "lists" / "list.csv", "file_name", ["b.png"])
    with pytest.raises(DataError, match=r"row 2: 'b.png' is none of the 4 images"):
        mark(data, fix, source)


def test_numbers_are_those_of_the_data_where_it_has_some(tmp_path: Path) -> None:
    data = dataset(4, image=np.array([7, 7, 8, 9]))
    marked = mark(data, write_list(tmp_path / "list.csv", "image", [7]), None)
    assert to_fix(marked.annotations).tolist() == [True, True, False, False]


@given(n_marked=st.integers(10, 60), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=20)
def test_parts_and_folds_hold_their_share_of_the_marked_images(n_marked: int, seed: int) -> None:
    n = 400
    marks = np.zeros(n, int)
    marks[np.random.default_rng(seed).permutation(n)[:n_marked]] = 1
    data = mark(dataset(n, wrong=marks), "wrong", None)
    parts = split_parts(data, PartPlan(test="0.3"), seed=seed)
    in_test = int(to_fix(parts.test.annotations).sum())
    assert abs(in_test - 0.3 * n_marked) <= 2
    about = parts.selection.annotations
    folds = assign_folds(strata_of(about), 5, np.random.default_rng(seed))
    counts = np.bincount(folds.fold_of[to_fix(about)], minlength=5)
    assert np.ptp(counts) <= 1
