"""Attacks on a real network in ONNX Runtime, and repairs against them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repairkit.attacks import Pgd, Square
from repairkit.core.attacked import with_twins
from repairkit.core.errors import AdapterError, DataError, RepairkitError, SettingsError
from repairkit.core.filters import Filter
from repairkit.core.framework import FreshAttacks
from repairkit.core.suite import Annotations
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.jobs.attack.adversary import read_attack_settings
from repairkit.jobs.attack.attacking import AttackSettings, attack
from repairkit.jobs.repair.patching import patch
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.score.scoring import score
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings, Subject
from tests.conftest import Answer

frameworks = pytest.importorskip("torch") and pytest.importorskip("tests.frameworks")
STANDARD = Preprocessing(scale=1 / 255, mean=(0.5,), std=(0.25,))


@dataclass(frozen=True)
class Place:
    """Two trained networks, the first as ONNX too, and images of theirs."""

    folder: Path
    model: Path
    data: Path
    own: Any
    other: Any

    @property
    def subject(self) -> Subject:
        return read_subject(self.model)

    @property
    def settings(self) -> Settings:
        return Settings(data=self.data, preprocessing=STANDARD)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("attacked")
    own = frameworks.TorchModel(frameworks.trained(0))
    own.export(folder / "model.onnx")
    pixels, labels = frameworks.draw_pixels(500, 9)
    np.savez(folder / "data.npz", x=pixels, y=labels, camera=np.arange(500) % 2)
    other = frameworks.TorchModel(frameworks.trained(5, width=12))
    return Place(folder, folder / "model.onnx", folder / "data.npz", own, other)


@pytest.fixture(scope="module")
def made(place: Place) -> Path:
    """A white-box attack's file."""
    out = place.folder / "made.npz"
    attack(place.subject, place.settings, AttackSettings(), out=out, source=("own", place.own))
    return out


def test_the_file_holds_what_the_attack_promises(place: Place, made: Path) -> None:
    told = read_attack_settings(made)
    with np.load(made) as stored, np.load(place.data) as given:
        arrays, pixels, labels = dict(stored), given["x"], given["y"]
    clean, adversarial = arrays["adversarial"] == 0, arrays["adversarial"] == 1
    assert told["source"]["knowledge"] == "white-box"
    assert told["source"]["parity"] < 1e-5
    assert told["figures"]["test"]["attack_success"]["value"] > 0.8
    assert told["figures"]["test"]["clean_accuracy"]["value"] > 0.9
    # Clean images are the data's own, adversarial ones lie near those of the same number.
    assert np.array_equal(arrays["y"], labels[arrays["image"]])
    assert np.array_equal(arrays["camera"], arrays["image"] % 2)
    shown = arrays["x"][:, 0] * 0.25 + 0.5
    change = np.abs(shown - pixels[arrays["image"]] / 255)
    assert change[clean].max() < 1e-6
    assert 15.9 / 255 < change[adversarial].max() < 16.01 / 255
    assert shown.min() > -1e-6
    assert shown.max() < 1 + 1e-6
    assert (arrays["target"][adversarial] != arrays["y"][adversarial]).all()
    assert set(arrays["split"][adversarial]) == {"selection", "test"}
    # All images that are not test choose, so that none is left that is for means alone.
    assert set(arrays["split"]) == {"selection", "test"}
    assert (arrays["split"][clean] != "test").sum() == told["parts"]["calibration"]


def test_means_of_attacked_data_are_of_its_clean_images_that_are_not_test(
    place: Place, made: Path
) -> None:
    bench = prepare(place.subject, Settings(data=made))
    about = bench.parts.calibration.annotations.attributes
    assert not about["adversarial"].any()
    assert len(about["image"]) == len(set(about["image"].tolist())) == 350
    tested = bench.parts.test.annotations.attributes["image"]
    assert not set(about["image"].tolist()) & set(tested.tolist())


def test_images_that_are_not_attacked_are_kept_for_means(place: Place, made: Path) -> None:
    how = AttackSettings(Square(n_queries=1), at_most=20)
    few = attack(place.subject, place.settings, how, out=place.folder / "few.npz").out
    with np.load(few) as stored:
        kept = stored["image"][stored["split"] == "calibration"]
        others = stored["image"][stored["split"] != "calibration"]
    with np.load(made) as stored:
        tested = stored["image"][stored["split"] == "test"]
    assert len(kept) == 330
    assert not set(kept.tolist()) & (set(others.tolist()) | set(tested.tolist()))


def test_without_a_test_part_all_images_are_attacked_to_choose_on(place: Place) -> None:
    settings = replace(place.settings, parts=PartPlan(test="none"))
    how = AttackSettings(Square(n_queries=1))
    done = attack(place.subject, settings, how, out=place.folder / "all.npz")
    assert set(done.document["figures"]) == {"largest_change", "selection"}
    with pytest.raises(SettingsError, match=r"has no test; it has selection; .* or --test none"):
        prepare(place.subject, Settings(data=done.out))
    again = Settings(data=done.out, parts=PartPlan(test="none"))
    parts = prepare(place.subject, again).parts
    n_images = done.document["figures"]["selection"]["n_images"]
    assert len(parts.calibration) == n_images
    assert len(parts.selection) == 2 * n_images


def test_it_is_data_for_the_metric(place: Place, made: Path) -> None:
    settings = Settings(data=made, metrics=("robustness", "clean_accuracy"))
    how = ScoreSettings("tmab", {"top_k": 2, "batch_size": 32})
    scored = score(place.subject, settings, how)
    ends = scored.document["metrics"]
    told = read_attack_settings(made)["figures"]["selection"]
    success, accuracy = told["attack_success"]["value"], told["clean_accuracy"]["value"]
    assert ends["robustness"]["all"] == pytest.approx(success - accuracy)
    assert ends["clean_accuracy"]["all"] == pytest.approx(accuracy)
    assert len(scored.table()) == 16


def test_pairs_choose_or_confirm_together() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.permutation(40)
    columns = {
        "image": np.concatenate([numbers, numbers[::-1]]),
        "adversarial": np.repeat([0, 1], 40),
        "target": np.ones(80, np.int64),
    }
    halves = with_twins(
        Annotations(labels=np.zeros(80), attributes=columns), rng.integers(0, 2, 80)
    )
    assert np.array_equal(halves[40:], halves[:40][::-1])
    assert set(halves.tolist()) == {0, 1}


def test_another_source_is_a_transfer_attack_in_either_layout(place: Place) -> None:
    found = []
    for last in (False, True):
        source = frameworks.TorchModel(place.other.network, channels_last=last)
        how = AttackSettings(Pgd(n_steps=5, random_start=False), at_most=50)
        done = attack(
            place.subject,
            place.settings,
            how,
            out=place.folder / f"other-{last}.npz",
            source=("other", source),
        )
        assert done.document["source"]["knowledge"] == "transfer"
        assert done.document["figures"]["test"]["n_images"] == 50
        found.append(np.load(done.out)["x"])
    assert np.allclose(*found, atol=1e-5)


def test_the_onnx_file_alone_is_attacked_through_its_scores(place: Place) -> None:
    how = AttackSettings(Square(n_queries=400), at_most=40)
    done = attack(place.subject, place.settings, how, out=place.folder / "square.npz")
    figures = done.document["figures"]
    assert done.document["source"]["knowledge"] == "black-box"
    assert figures["test"]["attack_success"]["value"] > 0.5
    assert figures["largest_change"] <= 16 / 255 + 1e-6


def test_ready_images_have_the_range_that_they_span_or_are_given(place: Place) -> None:
    pixels, labels = frameworks.draw_pixels(60, 3)
    ready = place.folder / "ready.npz"
    np.savez(ready, x=(pixels[:, None] / 255).astype(np.float32), y=labels)
    how = AttackSettings(Pgd(n_steps=1), at_most=4)
    out = place.folder / "ready-out.npz"

    def told(settings: Settings, how: AttackSettings) -> dict[str, Any]:
        # The network wants -1 to 1 and gets 0 to 1.
        settings = replace(settings, accept_preprocessing=True)
        done = attack(place.subject, settings, how, out=out, source=("own", place.own))
        return dict(done.document["pixel_range"])

    own = told(Settings(data=ready), how)
    assert own["low"][0] == pytest.approx(pixels.min() / 255)
    assert "--range LOW,HIGH" in own["from"]
    given = told(Settings(data=ready), AttackSettings(how.method, (0.0, 1.0), 4))
    assert (given["low"], given["high"]) == ([0.0], [1.0])
    scaled = told(Settings(data=ready, preprocessing=Preprocessing(scale=1 / 255)), how)
    assert scaled["high"] == [1.0]


@pytest.mark.long
def test_a_repair_tells_of_old_fresh_and_transferred_attacks(place: Place, made: Path) -> None:
    transferred = place.folder / "transferred.npz"
    attack(
        place.subject, place.settings, AttackSettings(), out=transferred, source=("o", place.other)
    )
    out = place.folder / "repaired.onnx"
    how = PatchSettings(
        robustness=True,
        max_drop=0.6,
        at_most=6,
        score=ScoreSettings("repair"),
        attacks=FreshAttacks(("own", place.own), (transferred,)),
    )
    done = patch(place.subject, Settings(data=made), how, out=out)
    rows = {row["attack"]: row for row in done.document["attacks"]}
    assert set(rows) == {"the same images", "a fresh attack", "from o"}
    old = rows["the same images"]
    assert old["before"]["attack_success"]["value"] > 0.8
    # Chosen on other images, it holds on these.
    assert done.change["robustness"].ci_high < 0
    assert done.objective == "robustness"
    assert done.after.metrics["attack_success"].value == old["after"]["attack_success"]["value"]
    assert rows["a fresh attack"]["before"]["attack_success"]["value"] > 0.8
    assert "note" not in rows["a fresh attack"]
    assert {row["knowledge"] for row in rows.values()} == {"white-box", "transfer"}
    assert json.loads(done.report_file.read_text())["attacks"] == done.document["attacks"]


def test_the_most_positive_of_robustness_are_frozen(place: Place, made: Path) -> None:
    run = place.folder / "run"
    settings = Settings(data=made, metrics=("robustness_loss",))
    scored = score(place.subject, settings, ScoreSettings("repair"), out=run)
    how = PatchSettings(scores=run, robustness=True, max_drop=0.6, at_most=6)
    done = patch(place.subject, Settings(data=made), how, out=place.folder / "by-scores.onnx")
    values = {row["filter"]: row["value"] for row in scored.table()}
    assert all(values[f.id] > 0 for f in done.patch.filters)
    assert done.document["attacks"][1]["note"].startswith("left out")


@pytest.mark.long
def test_a_last_layer_is_refitted_against_an_attack_and_a_fresh_one_is_not_promised(
    place: Place, made: Path
) -> None:
    how = PatchSettings(
        robustness=True,
        max_drop=0.3,
        repair="last-layer",
        attacks=FreshAttacks(("own", place.own)),
    )
    done = patch(place.subject, Settings(data=made), how, out=place.folder / "refitted.onnx")
    assert done.document["selection"]["fitted_to"] == "own answers"
    assert done.change["robustness"].ci_high < 0
    note = done.document["attacks"][1]["note"]
    assert "changes the last layer" in note
    assert "\n" not in note


@pytest.mark.long
def test_a_set_that_costs_too_much_gives_way_to_a_smaller_one(place: Place, made: Path) -> None:
    """The search uses the limit up, so that other images may find its last set beyond it."""
    seen = []
    for drop in (0.01, 0.02, 0.04, 0.08):
        how = PatchSettings(robustness=True, max_drop=drop, at_most=6, confirm_share=0.4)
        done = patch(
            place.subject, Settings(data=made, seed=4), how, out=place.folder / f"{drop}.onnx"
        )
        told = done.document["selection"]
        lost = told["confirmation"]["clean_accuracy"]
        error = (lost["ci_high"] - lost["ci_low"]) / (2 * 1.96)
        assert lost["value"] - error >= -drop - 1e-3
        kept = [set(point["filters"]) for point in told["trade_off"] if point["kept"]]
        looks = told["confirmation_looks"]
        assert {f.id for f in done.patch.filters} == kept[-looks]
        noted = any(
            "cost more than allowed on the images that confirm" in n for n in done.document["notes"]
        )
        assert noted == (looks > 1)
        seen.append(looks)
    assert max(seen) > 1, seen


@pytest.mark.long
def test_the_adapter_s_model_is_frozen_as_the_onnx_file_is(place: Place, made: Path) -> None:
    """The file holds no map of layers, so the filters are found in the network first."""
    pytorch = pytest.importorskip("repairkit_adapters.pytorch")
    source = pytorch.wrap(place.own.network, (1, frameworks.SIDE, frameworks.SIDE))
    weights = [p.detach().clone() for p in place.own.network.parameters()]
    named = (Filter("/0/Conv", 1), Filter("/0/Conv", 5), Filter("/2/Conv", 3))
    how = PatchSettings(remove=named, attacks=FreshAttacks(("own", source)))
    done = patch(place.subject, Settings(data=made), how, out=place.folder / "by-adapter.onnx")
    fresh = done.document["attacks"][1]
    assert fresh["knowledge"] == "white-box"
    assert fresh["n_images"] == 150
    assert fresh["after"]["attack_success"]["value"] > 0.5
    for before, after in zip(weights, place.own.network.parameters(), strict=True):
        assert (before == after).all()


def test_a_source_of_another_model_is_refused_in_a_repair(place: Place, made: Path) -> None:
    how = PatchSettings(
        remove=(Filter("/0/Conv", 0),), attacks=FreshAttacks(("other", place.other))
    )
    with pytest.raises(AdapterError, match="gives other answers than the model that is repaired"):
        patch(place.subject, Settings(data=made), how, out=place.folder / "no.onnx")


def test_transfers_of_images_that_were_scored_on_are_refused(place: Place, made: Path) -> None:
    mixed = place.folder / "mixed.npz"
    settings = Settings(data=place.data, preprocessing=STANDARD, seed=7)
    how = AttackSettings(Pgd(n_steps=1), at_most=50)
    attack(place.subject, settings, how, out=mixed, source=("other", place.other))
    plan = PatchSettings(remove=(Filter("/0/Conv", 0),), attacks=FreshAttacks(None, (mixed,)))
    with pytest.raises(DataError, match="scored or chosen on"):
        patch(place.subject, Settings(data=made), plan, out=place.folder / "no.onnx")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _, __: {"how": AttackSettings()}, "pgd follows gradients"),
        (lambda p, _: {"how": AttackSettings(Square()), "source": ("o", p.own)}, "leave --source"),
        (lambda p, _: {"out": p.folder / "x.zip"}, "end the name"),
        (lambda p, _: {"out": p.data}, "is the data"),
        (lambda _, m: {"settings": Settings(data=m)}, "adversarial images already"),
        (
            lambda p, _: {"settings": Settings(data=p.data, parts=PartPlan(test="all"))},
            "share images",
        ),
        (
            lambda p, _: {
                "source": ("wide", frameworks.TorchModel(p.own.network[:-1])),
                "how": AttackSettings(),
            },
            "288 classes|knows",
        ),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(
    place: Place, made: Path, change: Callable[[Place, Path], dict[str, Any]], said: str
) -> None:
    given: dict[str, Any] = {
        "settings": place.settings,
        "how": AttackSettings(Square(n_queries=1), at_most=2),
        "out": place.folder / "refused.npz",
        **change(place, made),
    }
    settings, how = given.pop("settings"), given.pop("how")
    with pytest.raises(RepairkitError, match=said) as caught:
        attack(place.subject, settings, how, **given)
    assert "\n" not in str(caught.value)


def test_robustness_without_an_attack_s_file_names_the_remedy(place: Place) -> None:
    with pytest.raises(SettingsError, match="repairkit attack"):
        patch(
            place.subject,
            place.settings,
            PatchSettings(robustness=True),
            out=place.folder / "no.onnx",
        )


def test_a_file_that_no_attack_wrote_is_no_transfer(place: Place, made: Path) -> None:
    told: list[Any] = []
    plan = PatchSettings(robustness=True, attacks=FreshAttacks(None, (place.data,)))
    with pytest.raises(DataError, match="was not written by repairkit attack"):
        patch(
            place.subject,
            Settings(data=made),
            plan,
            out=place.folder / "no.onnx",
            on_progress=told.append,
        )
    assert not told, "filters were scored before the mistake was found"
    spoilt = dict(np.load(made)) | {"attack": np.array('{"method": "pgd"}')}
    np.savez(place.folder / "spoilt.npz", **spoilt)
    with pytest.raises(DataError, match="was not written by repairkit attack"):
        read_attack_settings(place.folder / "spoilt.npz")


def test_parts_that_tear_pairs_apart_are_refused(place: Place, made: Path) -> None:
    plan = PatchSettings(remove=(Filter("/0/Conv", 0),), attacks=FreshAttacks(("own", place.own)))
    with np.load(made) as stored:
        torn = np.where(stored["adversarial"] == stored["image"] % 2, "test", "selection")
        np.savez(place.folder / "torn.npz", **{**stored, "split": torn})
    settings = Settings(data=place.folder / "torn.npz")
    with pytest.raises(DataError, match="without the clean ones"):
        patch(place.subject, settings, plan, out=place.folder / "no.onnx")


def test_parts_that_are_drawn_keep_pairs_together(place: Place, made: Path) -> None:
    settings = Settings(data=made, parts=PartPlan(None, 0.5, 0.5))
    parts = prepare(place.subject, settings).parts
    numbers = [set(part.annotations.attributes["image"]) for part in (parts.selection, parts.test)]
    assert not numbers[0] & numbers[1]
    assert [len(part) for part in (parts.selection, parts.test)] == [2 * len(n) for n in numbers]


def test_attacks_on_data_without_any_are_refused(place: Place, made: Path) -> None:
    plan = PatchSettings(remove=(Filter("/0/Conv", 0),), attacks=FreshAttacks(None, (made,)))
    with pytest.raises(SettingsError, match="holds no adversarial images"):
        patch(place.subject, place.settings, plan, out=place.folder / "no.onnx")


def test_the_command_attacks_and_tells(
    place: Place, repairkit: Callable[..., Answer], tmp_path: Path
) -> None:
    common = ("--data", place.data, "--scale", "1/255", "--mean", "0.5", "--std", "0.25")
    options = ("--images", "20", "--queries", "50", "--epsilon", "8/255")
    answer = repairkit("attack", place.model, *common, *options)
    assert answer.code == 0, answer.err
    assert "black-box attack through ONNX Runtime: square, at most 50 queries" in answer.out
    assert "within 8/255" in answer.out
    written = tmp_path / "model.attacked.npz"
    assert read_attack_settings(written)["n_queries"] == 50
    answer = repairkit(
        "patch", place.model, "--data", written, "--remove", "/0/Conv:0", "-o", "patched.onnx"
    )
    assert answer.code == 0, answer.err
    assert "a fresh attack" in answer.out
    assert "an adversary who knows it can attack it afresh" in answer.out
    refused = repairkit("attack", place.model, *common, "--epsilon", "much")
    assert refused.code == 1
    assert refused.err == (
        "repairkit: --epsilon 'much' is not a number; give one such as 16/255 or 0.06\n"
    )
