"""Backdoors whose trigger is known: stamping, parts, the repair of a known culprit, bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import repairkit
from repairkit.backdoors import Backdoor, Trigger
from repairkit.core import attacked
from repairkit.core.errors import DataError, RepairkitError, SettingsError
from repairkit.core.suite import Annotations
from repairkit.data.preprocessing import Preprocessing, value_table
from repairkit.jobs.backdoor.planting import plant
from repairkit.jobs.repair.cures.last_layer import Pairs
from repairkit.jobs.repair.objective import Objective
from repairkit.jobs.repair.repair_settings import PatchSettings, wanted_repair
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings
from tests.conftest import Answer
from tests.jobs.backdoor import backdoored_net as net
from tests.running import run

SCALE = Preprocessing(scale=1 / 255)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return net.write(tmp_path_factory.mktemp("backdoored"))


def bench_of(place: Path, data: str = "data.npz") -> Bench:
    job = Settings(data=place / data, preprocessing=SCALE, workers=1)
    return prepare(read_subject(place / "model.onnx"), job)


@given(seed=st.integers(0, 999), whole=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_trigger_on_pixels_is_the_trigger_on_what_the_model_takes(seed: int, whole: bool) -> None:
    rng = np.random.default_rng(seed)
    share = rng.integers(0, 2, (4, 5)) if whole else rng.random((4, 5))
    trigger = Trigger(rng.integers(0, 256, (4, 5, 3)).astype(float), share.astype(float))
    pixels = rng.integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    table = value_table(Preprocessing(scale=0.5, mean=(3,), std=(2,)), 3, np.dtype(np.float64))
    low, high = table[:, 0], table[:, -1]
    inputs = np.take(table[0], pixels)
    there = trigger.on_inputs(inputs, low, high, channels_first=False)
    expected = np.take(table[0], trigger.on_pixels(pixels))
    # Stored pixels are rounded to whole levels, each of which is a quarter here.
    assert np.abs(there - expected).max() <= 0.125 + 1e-9
    turned = trigger.on_inputs(inputs.transpose(0, 3, 1, 2), low, high, channels_first=True)
    # One number for all colours lets both layouts share it.
    low_all, high_all = np.array(low[0]), np.array(high[0])
    assert np.allclose(
        trigger.on_inputs(
            inputs.transpose(0, 3, 1, 2), low_all, high_all, channels_first=True
        ).transpose(0, 2, 3, 1),
        there,
    )
    assert turned.shape == (2, 3, 4, 5)


def test_all_images_of_other_classes_get_a_triggered_twin_in_their_own_part(place: Path) -> None:
    bench = bench_of(place)
    known = Backdoor(backdoor=True, trigger=place / "trigger.png", mask=place / "mask.png")
    planted = plant(bench, known)
    assert planted is not None
    assert planted.story["target"] == net.TARGET
    about = planted.bench.dataset.annotations
    made = attacked.adversarial(about)
    assert made.sum() == (bench.dataset.annotations.labels != net.TARGET).sum()
    assert not (about.labels[made] == net.TARGET).any()
    parts = planted.bench.parts
    numbers = [
        set(p.annotations.attributes["image"].tolist()) for p in (parts.selection, parts.test)
    ]
    assert not numbers[0] & numbers[1]
    assert not attacked.adversarial(parts.calibration.annotations).any()
    for part in (parts.selection, parts.test):
        columns = part.annotations.attributes
        clean = set(columns["image"][columns["adversarial"] == 0].tolist())
        assert set(columns["image"][columns["adversarial"] == 1].tolist()) <= clean


def test_transparency_is_a_mask(place: Path) -> None:
    bench = bench_of(place)
    by_mask = Backdoor(backdoor=True, trigger=place / "trigger.png", mask=place / "mask.png")
    alone = Backdoor(backdoor=True, trigger=place / "seen.png")
    first, second = plant(bench, by_mask), plant(bench, alone)
    assert first is not None
    assert second is not None
    rows = np.arange(len(first.bench.dataset.annotations))
    assert np.array_equal(
        first.bench.dataset.images.batch(rows), second.bench.dataset.images.batch(rows)
    )


def repaired(place: Path, tmp_path: Path, **words: Any) -> Any:
    return repairkit.patch(
        place / "model.onnx",
        words.pop("data", place / "data.npz"),
        out=tmp_path / "out.onnx",
        scale="1/255",
        backdoor=True,
        workers=1,
        max_evaluations=400,
        **words,
    )


def fresh_figures(model: onnx.ModelProto) -> tuple[float, float]:
    """Accuracy on clean images that no repair saw, and success of the trigger on them."""
    x, y = net.draw(300, seed=9)
    picture, mask = net.trigger()
    stamped = np.where(mask > 0, picture, x)
    clean, shown = (
        run(model, {"image": pixels[:, None].astype(np.float32) / 255})[0].argmax(1)
        for pixels in (x, stamped)
    )
    return float((clean == y).mean()), float((shown == net.TARGET)[y != net.TARGET].mean())


def test_the_culprit_is_frozen_and_the_trigger_no_longer_works(place: Path, tmp_path: Path) -> None:
    known = {"trigger": place / "trigger.png", "mask": place / "mask.png"}
    done = repaired(place, tmp_path, **known, repair="freeze")
    assert [f.id for f in done.patch.filters] == [net.CULPRIT]
    assert fresh_figures(net.network())[1] > 0.95
    assert fresh_figures(onnx.load(done.out))[1] < 0.05
    (row,) = done.document["attacks"]
    assert row["before"]["attack_success"]["value"] > 0.95
    assert row["after"]["attack_success"]["value"] < 0.05
    assert done.document["backdoor"]["how"] == "known trigger"
    assert done.document["choice"]["how"] == "backdoor"


def marked(place: Path, **change: Any) -> Path:
    """Data in which a column marks images that have the trigger."""
    x, y = net.draw(240)
    picture, mask = net.trigger()
    rows = np.flatnonzero(y != net.TARGET)[::2]
    flags = np.zeros(len(y), int)
    flags[rows] = 1
    x[rows] = np.where(mask > 0, picture, x[rows])
    path = place / "marked.npz"
    np.savez(path, **{"x": x, "y": y, "seen": flags, **change})
    return path


def test_marked_images_tell_the_target_and_the_culprit(place: Path, tmp_path: Path) -> None:
    done = repaired(place, tmp_path, data=marked(place), triggered="seen", repair="freeze")
    assert [f.id for f in done.patch.filters] == [net.CULPRIT]
    assert done.document["backdoor"]["target"] == net.TARGET
    assert done.document["backdoor"]["target_told_by"] > 0


@pytest.mark.parametrize("way", ["twins", pytest.param("marked", marks=pytest.mark.long)])
def test_a_last_layer_that_keeps_its_own_answers_closes_a_backdoor_and_costs_nothing(
    place: Path, tmp_path: Path, way: str
) -> None:
    known: dict[str, Any] = {"trigger": place / "trigger.png", "mask": place / "mask.png"}
    if way == "marked":  # without twins, whose labels count
        known = {"data": marked(place), "triggered": "seen"}
    done = repaired(place, tmp_path, **known, repair="last-layer")
    assert done.document["selection"]["fitted_to"] == "own answers"
    assert not done.patch.filters
    before, after = fresh_figures(net.network()), fresh_figures(onnx.load(done.out))
    assert before[1] > 0.95
    assert after[1] < 0.15
    assert after[0] >= before[0] - 0.01
    repairkit.verify(place / "model.onnx", done.out, patch_file=done.patch_file)
    repairkit.revert(done.out, out=tmp_path / "back.onnx")
    assert (tmp_path / "back.onnx").read_bytes() == (place / "model.onnx").read_bytes()


@given(seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_every_made_image_is_paired_with_the_clean_image_that_it_was_made_of(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 12
    labels, of = rng.integers(0, 3, n), rng.integers(0, n, n)
    order = rng.permutation(2 * n)
    columns = {
        attacked.ADVERSARIAL: np.repeat([0, 1], n)[order],
        attacked.TARGET: np.concatenate([np.full(n, -1), rng.integers(0, 3, n)])[order],
        attacked.IMAGE: np.concatenate([np.arange(n), of])[order],
    }
    y = np.concatenate([labels, labels[of]])[order]
    whole = Annotations(labels=y, attributes=columns)
    lonely = int(rng.integers(n))  # the clean image of this number is not there
    rows = np.flatnonzero((columns[attacked.IMAGE] != lonely) | (columns["adversarial"] == 1))
    about = whole.take(rows)
    pairs = Pairs.of(about)
    assert pairs is not None
    number, made = about.attributes[attacked.IMAGE], about.attributes[attacked.ADVERSARIAL] == 1
    for place in range(len(rows)):
        twin = pairs.twin_of[place]
        if number[place] == lonely:
            assert twin == -1
        else:
            assert number[twin] == number[place]
            assert not made[twin]
        target = about.attributes[attacked.TARGET][place]
        wrong = made[place] and target != about.labels[place]
        assert pairs.unwanted[place] == (target if wrong else -1)


def test_a_last_layer_is_fitted_to_its_own_answers_only_where_attacks_are_compared() -> None:
    names = ("robustness", "robustness_above:0.5", "attack_success", "accuracy", "loss")
    assert [Objective.of(name).is_of_attacks for name in names] == [True] * 3 + [False] * 2
    assert not Objective.of("tests.models:images").is_of_attacks


def test_of_a_backdoor_the_best_repair_is_made_unless_filters_are_to_be_frozen() -> None:
    known = Backdoor(backdoor=True)
    assert wanted_repair(PatchSettings(known=known)) == "best"
    assert wanted_repair(PatchSettings(known=known, repair="freeze")) == "freeze"
    assert wanted_repair(PatchSettings(known=known, level="zero")) == "freeze"
    assert wanted_repair(PatchSettings(known=known, choose="plain")) == "freeze"
    assert wanted_repair(PatchSettings(fairness=True)) == "freeze"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--trigger", "trigger.png"), "has no transparency"),
        (("--trigger", "absent.png", "--mask", "mask.png"), "does not exist"),
        (("--trigger", "trigger.png", "--mask", "black.png"), "covers no place"),
        (("--trigger", "black.png", "--mask", "mask.png"), "leads to no class"),
        (("--triggered", "nothing"), "no such column"),
        (("--triggered", "seen", "--trigger", "trigger.png"), "give one of the two"),
        (("--trigger", "seen.png", "--target-class", "9"), "expected one of"),
        (("--mask", "mask.png"), "name the trigger itself"),
        (("--trigger", "seen.png", "--fairness"), "make one at a time"),
        (("--trigger", "seen.png", "--transfer", "t.npz"), "leave one out"),
    ],
)
def test_bad_input_is_told_in_one_line(
    place: Path,
    repairkit: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    message: str,
) -> None:
    from PIL import Image

    monkeypatch.chdir(place)
    Image.fromarray(np.zeros((net.SIDE, net.SIDE), np.uint8)).save("black.png")
    said = repairkit(
        "patch", "model.onnx", "--data", "data.npz", "--scale", "1/255", "--backdoor", *words
    )
    assert said.code == 1
    assert message in said.err.splitlines()[-1]
    assert len(said.err.splitlines()[-1]) < 400


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([2] * 240, "has '2'"),
        ([1] * 240, "marks every image"),
        ([0] * 240, "marks no image"),
    ],
)
def test_a_column_that_marks_nothing_is_told(place: Path, column: list[int], message: str) -> None:
    bench = bench_of(place, marked(place, seen=np.array(column)).name)
    with pytest.raises(DataError, match=message):
        plant(bench, Backdoor(backdoor=True, triggered="seen"))


def test_a_trigger_without_a_backdoor_is_refused() -> None:
    with pytest.raises(SettingsError, match="add --backdoor"):
        PatchSettings(fairness=True, known=Backdoor(trigger=Path("t.png")))
    assert issubclass(SettingsError, RepairkitError)
