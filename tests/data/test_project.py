from __future__ import annotations

from pathlib import Path

import pytest

from repairkit.core.errors import SettingsError
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.data.project import Project, find_project, read_project

FULL = """
model = "model.onnx"
data = "../faces/labels.csv"
groups = ["race", "sex"]
classes = ["cat", "dog"]
metrics = ["worst_group_accuracy", "recall:cat"]
output = "logits"
seed = 7
[preprocessing]
resize = 256
scale = "1/255"
mean = [0.5, "1/2", 0.5]
[parts]
calibration = "train"
test = 0.3
"""


def project(tmp_path: Path, text: str) -> Project:
    (tmp_path / "repairkit.toml").write_text(text, encoding="utf-8")
    return read_project(tmp_path / "repairkit.toml")


def test_every_setting_is_read_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    read = project(tmp_path, FULL)
    assert read == Project(
        folder=tmp_path,
        model=tmp_path / "model.onnx",
        data=tmp_path / "../faces/labels.csv",
        groups=("race", "sex"),
        class_names=("cat", "dog"),
        preprocessing={"resize": 256, "scale": "1/255", "mean": [0.5, "1/2", 0.5]},
        parts={"calibration": "train", "test": 0.3},
        metrics=("worst_group_accuracy", "recall:cat"),
        output="logits",
        seed=7,
    )
    assert PartPlan(**read.parts) == PartPlan("train", None, 0.3)
    settings = Preprocessing.from_mapping({**read.preprocessing, "resize": "128"}, "options")
    assert settings == Preprocessing(resize=128, scale=1 / 255, mean=(0.5, 0.5, 0.5))


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert project(tmp_path, "") == Project(folder=tmp_path)


def test_absolute_paths_stay_and_one_text_is_a_list_of_one(tmp_path: Path) -> None:
    read = project(tmp_path, 'data = "/data"\nmetrics = "accuracy"\ngroups = "race, sex"\n')
    assert read.data == Path("/data")
    assert read.metrics == ("accuracy",)
    assert read.groups == ("race", "sex")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grups = 'a'", r"unknown key 'grups'; did you mean 'groups'\? \(known keys: model, data"),
        ("model = 3", "model is 3; expected text in quotes"),
        ("model = ''", "model is ''; expected text in quotes"),
        ("groups = [1]", r"groups is \[1\]; expected text, or a list of texts"),
        ("groups = 'a,,b'", "groups is 'a,,b'; expected"),
        ("classes = 3", "classes is 3; expected"),
        ("seed = 'a'", "seed is 'a'; expected a whole number"),
        ("seed = true", "seed is True; expected a whole number"),
        ("seed = -1", "seed is -1; expected a whole number"),
        ("parts = 3", r"parts is 3; expected a section \[parts\]"),
        ("[parts]\ntests = 1", r"\[parts\]: unknown key 'tests'; did you mean 'test'"),
        ("[parts]\ntest = true", r"parts\.test is True; expected"),
        ("[preprocessing]\nsize = 3", r"\[preprocessing\]: unknown key 'size'; did you mean"),
        ("[preprocessing]\nscale = 'a'", r"\[preprocessing\]: scale is 'a'; expected a number"),
        ("model = ", r"is no valid TOML \(Invalid value \(at"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        project(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "repairkit.toml"))
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        read_project(tmp_path / "repairkit.toml")
    (tmp_path / "repairkit.toml").write_bytes(b"model = '\xff'")
    with pytest.raises(SettingsError, match="is no valid TOML"):
        read_project(tmp_path / "repairkit.toml")


def test_the_file_beside_the_model_comes_before_the_one_in_the_folder(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    assert find_project(models / "m.onnx", tmp_path) is None
    project(tmp_path, "seed = 1")
    for model in (None, models / "m.onnx", Path("models/m.onnx")):
        found = find_project(model, tmp_path)
        assert found is not None
        assert found.seed == 1
    project(models, "seed = 2")
    for model in (models / "m.onnx", Path("models/m.onnx")):
        found = find_project(model, tmp_path)
        assert found is not None
        assert found.seed == 2
    found = find_project(None, tmp_path)
    assert found is not None
    assert found.seed == 1
