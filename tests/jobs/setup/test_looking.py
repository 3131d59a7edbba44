"""A first look is taken at images that no test sees, and only where it means something."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from repairkit.core.errors import PreprocessingError
from repairkit.core.process.stages import Deadline
from repairkit.core.suite import Suite
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.engine.working import Working
from repairkit.jobs.look.inspection import look_at_data
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.score.scoring import score
from repairkit.jobs.setup.first_look import FirstLook, first_look_lines
from repairkit.jobs.setup.looking import looked_at
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings, Subject

SIDE = 4
N = 120
# So that neither reversed channels nor reversed classes do the work of the other.
CHANNEL_OF = np.array([1, 0, 2])


def write_colours(folder: Path, *, n: int = N) -> Path:
    """Images of three colours, and a model that tells them apart when they are scaled by 1/255."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    x = rng.integers(60, 120, (n, SIDE, SIDE, 3))
    x[np.arange(n), :, :, CHANNEL_OF[labels]] += 60
    np.savez(
        folder / "data.npz",
        x=x.astype(np.uint8),
        y=labels,
        group=np.where(np.arange(n) % 2, "a", "b"),
        adversarial=np.zeros(n, np.int64),
        target=np.zeros(n, np.int64),
    )
    # Each channel speaks for its class where it is as bright as trained, and for none elsewhere.
    weights = {
        "w": 14 * np.eye(3)[:, :, None, None],
        "b": np.full(3, -14 * 150 / 255),
        "g": 5 * np.eye(3)[:, CHANNEL_OF],
        "c": np.array([0.0, 0.1, 0.2]),
    }
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "w", "b"], ["a"], name="conv"),
        helper.make_node("Cos", ["a"], ["k"]),
        helper.make_node("Flatten", ["k"], ["f"]),
        helper.make_node("Gemm", ["f", "g", "c"], ["scores"], name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture
def colours(tmp_path: Path) -> tuple[Subject, Settings]:
    subject = read_subject(write_colours(tmp_path))
    return subject, Settings(data=tmp_path / "data.npz", preprocessing=Preprocessing(scale=1 / 255))


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which images the model is asked about from now on."""
    seen: list[int] = []
    ask: Callable[[Working, Suite], Any] = Working.run_plain

    def run_plain(self: Working, suite: Suite) -> Any:
        seen.extend(suite.indices.tolist())
        return ask(self, suite)

    monkeypatch.setattr(Working, "run_plain", run_plain)
    return seen


@pytest.mark.parametrize("plan", [PartPlan(), PartPlan(selection="all"), PartPlan(test=0.9)])
def test_no_test_image_is_looked_at(
    colours: tuple[Subject, Settings], monkeypatch: pytest.MonkeyPatch, plan: PartPlan
) -> None:
    subject, settings = colours
    if plan.test == 0.9:
        plan = PartPlan(0.05, 0.05, 0.9)
    bench = prepare(subject, replace(settings, parts=plan))
    seen = watched(monkeypatch)
    bench = looked_at(bench, None, thorough="all")
    assert seen
    assert not set(seen) & set(bench.parts.test.indices.tolist())
    assert isinstance(bench.look, FirstLook)
    assert bench.look.doubt == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preprocessing": Preprocessing()}, "--scale 1/255"),
        ({"preprocessing": Preprocessing(scale=1 / 127.5, mean=(1.0,))}, "--scale 1/255 --mean 0"),
        ({"preprocessing": Preprocessing(scale=1 / 255, color="bgr")}, "--color rgb"),
        ({"class_names": ("2", "1", "0")}, "--classes=0,1,2"),
    ],
)
def test_what_is_wrong_is_named_and_stops(
    colours: tuple[Subject, Settings], change: dict[str, Any], words: str
) -> None:
    subject, settings = colours
    wrong = replace(settings, **change)
    with pytest.raises(PreprocessingError, match="or go on as it is") as stop:
        score(subject, wrong, ScoreSettings("leave-one-out"))
    assert words in str(stop.value)
    assert "\n" not in str(stop.value)
    accepted = replace(wrong, accept_preprocessing=True)
    scored = score(subject, accepted, ScoreSettings("leave-one-out"))
    assert scored.document["read"]["first_look"]["accepted"]
    assert any("doubtful" in note for note in scored.document["notes"])


def test_two_faults_at_once_are_named_together(colours: tuple[Subject, Settings]) -> None:
    subject, settings = colours
    wrong = replace(settings, preprocessing=Preprocessing(), class_names=("2", "1", "0"))
    with pytest.raises(PreprocessingError, match="--scale 1/255") as stop:
        score(subject, wrong, ScoreSettings("leave-one-out"))
    assert "--classes=0,1,2" in str(stop.value)


def test_what_a_user_judges_is_not_doubted(
    colours: tuple[Subject, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_of_colours.py").write_text(
        "def first(outputs, labels, attributes):\n    return outputs[:, 0]\n"
    )
    monkeypatch.chdir(tmp_path)
    subject, settings = colours
    wrong = replace(
        settings, preprocessing=Preprocessing(), metrics=("mine_of_colours:first",), trust=True
    )
    assert prepare(subject, wrong).look is None
    scored = score(subject, wrong, ScoreSettings("leave-one-out"))
    assert "first_look" not in scored.document["read"]


def test_a_job_that_was_accepted_goes_on_without_being_asked_again(
    colours: tuple[Subject, Settings], tmp_path: Path
) -> None:
    subject, settings = colours
    wrong = replace(settings, preprocessing=Preprocessing())
    how = ScoreSettings("leave-one-out")
    out = tmp_path / "run"
    score(subject, replace(wrong, accept_preprocessing=True), how, out=out)
    document = json.loads((out / "run.json").read_text())
    assert "accept_preprocessing" not in document["settings"]
    resumed = score(subject, wrong, how, out=out, resume=True)
    assert resumed.document["key"] == document["key"]


def test_images_that_an_attack_made_are_left_out(
    colours: tuple[Subject, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, settings = colours
    stored = dict(np.load(tmp_path / "data.npz"))
    stored["adversarial"][::2] = 1
    stored["x"][::2] = 0  # all of them are wrong
    np.savez(tmp_path / "attacked.npz", **stored)
    bench = prepare(subject, replace(settings, data=tmp_path / "attacked.npz"))
    seen = watched(monkeypatch)
    look = looked_at(bench, None).look
    assert isinstance(look, FirstLook)
    assert look.guessing.accuracy == 1.0
    assert all(index % 2 for index in seen)


def test_little_time_leaves_the_other_ways_out_and_says_so(
    colours: tuple[Subject, Settings],
) -> None:
    subject, settings = colours
    bench = prepare(subject, replace(settings, preprocessing=Preprocessing()))
    look = looked_at(bench, Deadline(0.0, 1.0)).look  # which is long over
    assert isinstance(look, FirstLook)
    assert look.guessing.n_images == 2
    assert len(look.ways) == 1
    assert "2 images tell little" in look.note
    assert look.doubt == ""
    assert look.note in list(first_look_lines(look.to_json()))


def test_the_same_seed_looks_at_the_same_images(colours: tuple[Subject, Settings]) -> None:
    subject, settings = colours
    looks = [look_at_data(subject, replace(settings, seed=seed))[0] for seed in (1, 1)]
    found = [look.to_json() for look in looks if isinstance(look, FirstLook)]
    assert len(found) == 2
    for look in found:
        look["seconds"] = 0.0
    assert found[0] == found[1]
    assert found[0]["in_use"] == found[0]["best"] == "1/255, RGB"


def test_splits_of_other_names_are_looked_at_but_for_the_test(
    colours: tuple[Subject, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, settings = colours
    stored = dict(np.load(tmp_path / "data.npz"))
    split = np.resize(["train", "val", "test", "train"], N)
    np.savez(tmp_path / "split.npz", **stored, split=split)
    seen = watched(monkeypatch)
    look = look_at_data(subject, replace(settings, data=tmp_path / "split.npz"))[0]
    assert isinstance(look, FirstLook)
    assert set(split[seen]) == {"train", "val"}
