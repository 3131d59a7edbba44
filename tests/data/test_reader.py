from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repairkit.core.errors import DataError, SettingsError
from repairkit.data.annotations import CROSS
from repairkit.data.dataset import Dataset
from repairkit.data.preprocessing import Preprocessing
from repairkit.data.reader import DataRequest, read_data
from tests.data.builders import PLAIN, noise, save_folder, save_manifest, spec

PEOPLE = "path,label,race,sex\na.png,cat,x,f\nb.png,dog,y,m\n"


def read(path: Path, **options: Any) -> Dataset:
    return read_data(path, DataRequest(**{"spec": spec(), "preprocessing": PLAIN, **options}))


def save_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"x": noise(3, 8, 8, 3), "y": np.array([0, 1, 2]), **arrays})
    return path


def test_a_folder_is_read(tmp_path: Path) -> None:
    data = read(save_folder(tmp_path / "data", {"cat": 1, "dog": 2}))
    assert data.annotations.labels.tolist() == [0, 1, 1]
    assert data.annotations.class_names == ("cat", "dog")
    assert data.annotations.groups is None
    assert data.split is None
    batch = data.images.batch(np.array([2, 0]))
    assert batch.shape == (2, 3, 8, 8)
    assert np.array_equal(batch[1], noise(8, 8, 3, seed=1).transpose(2, 0, 1))


def test_a_manifest_is_read_with_its_groups(tmp_path: Path) -> None:
    data = read(save_manifest(tmp_path / "m.csv", PEOPLE), groups=("race", "sex"))
    assert data.annotations.group_names == (f"x{CROSS}f", f"y{CROSS}m")
    assert data.annotations.groups is not None
    assert data.annotations.groups.tolist() == [0, 1]
    assert data.annotations.attributes["race"].tolist() == ["x", "y"]
    assert any("numbered by sorted name" in note for note in data.notes)


def test_an_archive_is_read_with_its_columns(tmp_path: Path) -> None:
    path = save_npz(
        tmp_path / "a.npz",
        y=np.array([[2], [0], [1]]),
        split=np.array(["test", "test", "selection"]),
        sex=np.array([b"f", b"m", b"m"]),
    )
    data = read(path, groups=("sex",), n_classes=3)
    assert data.annotations.labels.tolist() == [2, 0, 1]
    assert data.annotations.group_names == ("f", "m")
    assert data.split is not None
    assert data.split.tolist() == ["test", "test", "selection"]


def test_a_regressors_labels_are_targets(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz", y=np.array([0.5, -1, 7], dtype=np.float32))
    labels = read(path, regression=True).annotations.labels
    assert labels.dtype == np.float64
    assert labels.tolist() == [0.5, -1, 7]
    folder = save_folder(tmp_path / "ages", {"30": 1, "4.5": 1})
    assert read(folder, regression=True).annotations.labels.tolist() == [30, 4.5]


def test_preprocessing_settings_reach_the_batch(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz")
    settings = Preprocessing(scale=0.5, layout="nhwc")
    batch = read(path, spec=spec(8, 8, 3), preprocessing=settings).images.batch(np.array([1]))
    assert np.array_equal(batch, noise(3, 8, 8, 3)[1:2] * np.float32(0.5))


def test_the_digest_does_not_depend_on_the_path_or_the_settings(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "one", {"cat": 1, "dog": 2})
    digest = read(folder).digest
    assert len(digest) == 64
    shutil.copytree(folder, tmp_path / "two")
    assert read(tmp_path / "two", preprocessing=Preprocessing(scale=0.5)).digest == digest
    (tmp_path / "two" / "dog").rename(tmp_path / "two" / "cow")
    assert read(tmp_path / "two").digest != digest


def test_labels_are_judged_before_images_are_read(tmp_path: Path) -> None:
    manifest = save_manifest(tmp_path / "m.csv", "path,label\nmissing.png,5\n")
    with pytest.raises(DataError, match=r"m\.csv, row 2: label 5 is outside the classes 0 to 2"):
        read(manifest, n_classes=3)


def test_fewer_names_than_classes_are_noted_and_more_are_refused(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "data", {"cat": 1, "dog": 1})
    assert "names 2 classes and the model has 5" in read(folder, n_classes=5).notes[-1]
    assert len(read(folder, n_classes=2).notes) == 1
    with pytest.raises(DataError, match=r"has 2 class folders \(cat, dog\) and the model has 1"):
        read(folder, n_classes=1)


def test_class_names_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="classes holds 2 names and the model has 3 classes"):
        read(tmp_path, class_names=("a", "b"), n_classes=3)
    with pytest.raises(SettingsError, match="classes name a more than once"):
        read(tmp_path, class_names=("a", "a"))


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; check --data"):
        read(tmp_path / "nothing")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match=r"a\.json: is of no kind that is read as data; expected"):
        read(tmp_path / "a.json")


def test_an_array_without_an_axis_tells_of_the_file_and_of_no_image(tmp_path: Path) -> None:
    found = read(save_npz(tmp_path / "a.npz", settings=np.array("anything")))
    assert "settings" not in found.annotations.attributes
    with pytest.raises(DataError, match="y has shape a single number"):
        read(save_npz(tmp_path / "b.npz", y=np.array(1)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.array([0, 1])}, "y has shape 2 and x holds 3 images"),
        (
            {"y": np.eye(3)},
            r"expected one value per image, shape 3; .* that is y\.argmax\(axis=1\)",
        ),
        ({"y": np.eye(3) * 2}, "y has shape 3 x 3 and x holds 3 images; expected .*, shape 3$"),
        ({"age": np.zeros(4)}, "age has shape 4"),
        (
            {"split": np.array([0j, 1, 2])},
            "split holds complex128; expected the part of each image",
        ),
        ({"x": np.zeros((0, 3, 8, 8))}, "x holds no image"),
        ({"x": np.array(1)}, "x holds no image"),
        ({"y": np.array([0, None, 1])}, "y: is a pickled object array"),
        ({"y": np.array([0, np.nan, 1])}, r"a\.npz, image 1: label is nan"),
    ],
)
def test_an_archive_that_contradicts_itself_is_refused(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(save_npz(tmp_path / "a.npz", **arrays))


def test_an_archive_without_images_or_labels_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=noise(1, 8, 8, 3), labels=np.array([1]))
    with pytest.raises(DataError, match="has no array 'y'; found labels, x; expected x"):
        read(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz")
    with pytest.raises(DataError, match="has no array 'x'; found nothing"):
        read(tmp_path / "b.npz")


def test_bytes_of_another_encoding_are_refused_and_never_made_alike(tmp_path: Path) -> None:
    names = np.array(["Å", "Ø", "Å"])
    latin = np.char.encode(names, "latin-1")
    with pytest.raises(DataError, match=r"town holds bytes that are no UTF-8 text, such as b'"):
        read(save_npz(tmp_path / "a.npz", town=latin), groups=("town",))
    plain = read(save_npz(tmp_path / "b.npz", town=np.char.encode(names, "utf-8")), groups=["town"])
    assert plain.annotations.group_names == ("Å", "Ø")


def test_parts_may_be_numbered_in_every_source(tmp_path: Path) -> None:
    found = read(save_npz(tmp_path / "a.npz", split=np.array([2, 0, 1])))
    assert found.split is not None
    text = "path,label,split\na.png,cat,2\nb.png,dog,0\na.png,cat,1\n"
    table = read(save_manifest(tmp_path / "m.csv", text))
    assert table.split is not None
    assert found.split.tolist() == table.split.tolist() == ["2", "0", "1"]
