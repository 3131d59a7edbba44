from __future__ import annotations

from pathlib import Path

import pytest

from repairkit.core.errors import DataError
from repairkit.data.dataset import Records
from repairkit.data.sources.folder import read_folder
from tests.data.builders import PLAIN, noise, save_folder, save_png, spec


def read(folder: Path, *class_names: str) -> Records:
    return read_folder(folder, spec(), PLAIN, class_names)


def test_classes_are_numbered_by_sorted_folder_name(tmp_path: Path) -> None:
    records = read(save_folder(tmp_path / "data", {"dog": 2, "Ant": 1, "cat": 1}))
    assert records.class_names == ("Ant", "cat", "dog")
    assert records.labels.tolist() == ["Ant", "cat", "dog", "dog"]
    assert records.notes == (
        "classes were numbered by sorted folder name: 0 = Ant, 1 = cat, 2 = dog",
    )
    assert records.locate(3) == str(tmp_path / "data" / "dog" / "1.png")
    assert len(records.load().images) == 4


def test_class_names_number_the_folders_and_may_be_more(tmp_path: Path) -> None:
    records = read(save_folder(tmp_path / "data", {"cat": 1, "dog": 1}), "dog", "cow", "cat")
    assert records.class_names == ("dog", "cow", "cat")
    assert records.notes == ()


def test_a_folder_that_is_no_class_is_refused(tmp_path: Path) -> None:
    save_folder(tmp_path / "data", {"cat": 1, "dgo": 1})
    with pytest.raises(DataError, match=r"'dgo' is none of the classes \(cat, dog\); did you mean"):
        read(tmp_path / "data", "cat", "dog")


def test_nested_and_linked_images_count_and_hidden_ones_do_not(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "data", {"cat": 1})
    save_png(folder / "cat" / "more" / "b.JPG", noise(8, 8, 3))
    save_png(folder / "cat" / "._c.png", noise(8, 8, 3))
    save_png(folder / ".ipynb_checkpoints" / "d.png", noise(8, 8, 3))
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "cat" / "circle").symlink_to(folder / "cat")
    records = read(folder)
    assert [Path(records.locate(i)).name for i in range(len(records.labels))] == ["0.png", "b.JPG"]


def test_empty_folders_and_loose_images_are_noted(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "data", {"cat": 1, "dog": 0})
    save_png(folder / "loose.png", noise(8, 8, 3))
    records = read(folder)
    notes = " ".join((*records.notes, *records.left_out))
    assert "no image in the class folder(s) dog" in notes
    assert "1 image(s) lie beside the class folders" in notes


def test_numbers_as_names_that_sort_otherwise_are_noted(tmp_path: Path) -> None:
    save_folder(tmp_path / "few", {"0": 1, "1": 1})
    assert read(tmp_path / "few").notes == ()
    save_folder(tmp_path / "many", {str(i): 1 for i in range(11)})
    assert "torchvision and Keras" in read(tmp_path / "many").notes[0]


def test_a_folder_without_classes_or_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no sub-folder; expected one sub-folder"):
        read(tmp_path)
    save_folder(tmp_path, {"cat": 0})
    with pytest.raises(DataError, match=r"holds no image \(\.jpg"):
        read(tmp_path)


def test_a_folder_of_parts_is_not_taken_for_classes(tmp_path: Path) -> None:
    for part in ("train", "val"):
        save_folder(tmp_path / part, {"cat": 1, "dog": 1})
    with pytest.raises(DataError, match=r"\(train, val\) look like parts .*give one of them"):
        read(tmp_path)
    assert len(read(tmp_path / "val").labels) == 2
