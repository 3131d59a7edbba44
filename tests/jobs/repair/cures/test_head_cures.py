"""Class biases and a refitted last layer, chosen on some images and computed for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from repairkit.core.errors import ModelError
from repairkit.core.suite import Indices
from repairkit.graph.baking import bake
from repairkit.jobs.repair.cures.last_layer import (
    MOVE_BIASES,
    REFIT_LAST_LAYER,
    ClassBiases,
    HeadChoice,
    LastLayer,
    find_class_head,
)
from repairkit.jobs.repair.cures.supplies import Supplies
from repairkit.jobs.repair.objective import ChoosingCriterion, Limit, Objective, Wishes
from repairkit.jobs.setup.preparing import opened_beside, outputs_of, prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings
from repairkit.repairs.cure import Cured, Nothing
from tests import class_heads, models, zoo
from tests.class_heads import HEADS
from tests.running import run

CURES = {"bias": ClassBiases, "last-layer": LastLayer}


def _bench(folder: Path, model: onnx.ModelProto, n: int = 300) -> Bench:
    """Images labelled by the class whose score is the furthest above its mean.

    The model itself says nearly always the same class, so that class biases cure it.
    """
    x = models.images(n, seed=3)
    scores = run(model, {"image": x})[0].reshape(n, -1).astype(np.float64)
    centred = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    y = centred.argmax(axis=1) if scores.shape[1] > 1 else (centred[:, 0] > 0).astype(int)
    onnx.save(model, folder / "model.onnx")
    group = np.where(np.arange(n) % 3 == 0, "left", "right")
    np.savez(folder / "data.npz", x=x, y=y, group=group)
    settings = Settings(data=folder / "data.npz", groups=("group",), workers=1)
    return prepare(read_subject(folder / "model.onnx"), settings)


def _criterion(bench: Bench, wishes: Wishes) -> ChoosingCriterion:
    return ChoosingCriterion(
        wishes=wishes,
        metrics=bench.metrics,
        form=bench.form,
        annotations=bench.parts.selection.annotations,
        plain=bench.working.run_plain(bench.parts.selection),
    )


def _reasons(bench: Bench, criterion: ChoosingCriterion) -> dict[str, str]:
    """Why a model cannot take the cures of the last layer, by their names."""
    supplies = Supplies(strata=np.zeros(len(bench.parts.selection), np.int64), twins=None)
    reasons = {}
    for strategy in (MOVE_BIASES, REFIT_LAST_LAYER):
        try:
            strategy.cure(bench, criterion, supplies)
        except ModelError as error:
            reasons[strategy.name] = str(error)
    return reasons


def _choice(bench: Bench, objective: str = "accuracy", max_drop: float = 0.01) -> HeadChoice:
    about = bench.parts.selection.annotations
    wishes = Wishes(objective=Objective(objective, ()), limits=(Limit("accuracy", max_drop),))
    criterion = _criterion(bench, wishes)
    return HeadChoice(
        head=find_class_head(bench),
        criterion=criterion,
        labels=about.labels,
        groups=about.groups,
        strata=about.labels.astype(np.int64),
    )


def _cured(cure: Any, within: Indices) -> Cured:
    found = cure.on(within)
    assert isinstance(found, Cured)
    return found


@pytest.mark.parametrize("name", [n for n in HEADS if n != "matmul_alone"])
@pytest.mark.parametrize("kind", CURES)
def test_what_a_cure_says_is_what_the_baked_model_gives(
    kind: str, name: str, tmp_path: Path
) -> None:
    bench = _bench(tmp_path, HEADS[name]())
    choice = _choice(bench)
    found = _cured(CURES[kind](choice), np.arange(0, len(choice.labels), 2))
    assert found.gain.value > 0
    for step in (found.first(2), found):  # a half of the change, and the whole
        baked = bake(bench.original, step.patch).model
        outputs = outputs_of(bench, opened_beside(bench, baked), bench.parts.selection)
        assert step.outputs.shape == outputs.shape
        assert step.outputs.dtype == outputs.dtype
        scale = max(np.abs(outputs).max(), 1.0)
        assert np.abs(step.outputs - outputs).max() <= 1e-5 * scale


@pytest.mark.parametrize("kind", CURES)
def test_images_that_do_not_choose_have_no_say(kind: str, tmp_path: Path) -> None:
    bench = _bench(tmp_path, class_heads.softmax())
    within = np.arange(0, len(bench.parts.selection), 2)
    choice = _choice(bench)
    labels = choice.labels.copy()
    outside = np.setdiff1d(np.arange(len(labels)), within)
    read = choice.head.read
    found = _cured(CURES[kind](choice), within)
    labels[outside] = (labels[outside] + 1) % 3
    for rows in (read.features, read.scores):
        assert rows is not None
        rows[outside] = 0.0
    again = HeadChoice(
        head=choice.head,
        criterion=choice.criterion,
        labels=labels,
        groups=choice.groups,
        strata=choice.strata,
    )
    assert _cured(CURES[kind](again), within).patch == found.patch


@pytest.mark.parametrize("kind", CURES)
def test_a_last_layer_is_cured_on_images_that_chose_nothing(kind: str, tmp_path: Path) -> None:
    bench = _bench(tmp_path, class_heads.gemm(), n=600)
    choice = _choice(bench)
    within = np.arange(0, len(choice.labels), 2)
    found = _cured(CURES[kind](choice), within)
    others = np.setdiff1d(np.arange(len(choice.labels)), within)
    before, after = (
        (outputs[others].argmax(axis=1) == choice.labels[others]).mean()
        for outputs in (choice.head.read.outputs, found.outputs)
    )
    assert after > before + 0.1


@pytest.mark.parametrize("kind", CURES)
def test_a_share_of_a_cure_changes_that_share(kind: str, tmp_path: Path) -> None:
    choice = _choice(_bench(tmp_path, class_heads.gemm()))
    found = _cured(CURES[kind](choice), np.arange(len(choice.labels)))
    plain = choice.head.read.outputs  # logits
    whole = found.outputs - plain
    assert found.n_steps == 4
    for n_steps, share in ((1, 0.25), (2, 0.5), (3, 0.75)):
        step = found.first(n_steps)
        assert np.allclose(step.outputs - plain, share * whole, atol=1e-4)
        assert step.name == found.name == kind


@pytest.mark.parametrize("kind", CURES)
def test_limits_that_nothing_keeps_leave_the_model_as_it_is(kind: str, tmp_path: Path) -> None:
    choice = _choice(_bench(tmp_path, class_heads.gemm()), max_drop=-1.0)
    assert isinstance(CURES[kind](choice).on(np.arange(len(choice.labels))), Nothing)


def test_a_last_layer_without_a_place_for_biases_is_told_in_one_line(tmp_path: Path) -> None:
    bench = _bench(tmp_path, class_heads.matmul_alone())
    choice = _choice(bench)
    reasons = _reasons(bench, choice.criterion)
    assert set(reasons) == {"bias"}
    assert "no place for class biases" in reasons["bias"]
    assert "\n" not in reasons["bias"]
    assert _cured(LastLayer(choice), np.arange(len(choice.labels))).patch.head is not None


def test_an_output_that_the_last_layer_does_not_make_is_refused(tmp_path: Path) -> None:
    model = class_heads.gemm()
    model.graph.node[-1].output[0] = "raw"
    turned = onnx.helper.make_node("Gather", ["raw", "order"], ["scores"], "turn", axis=1)
    model.graph.node.append(turned)
    order = onnx.numpy_helper.from_array(np.array([2, 0, 1]), "order")
    model.graph.initializer.append(order)
    bench = _bench(tmp_path, model)
    criterion = _criterion(bench, Wishes(objective=Objective("accuracy", ())))
    reasons = _reasons(bench, criterion)
    assert set(reasons) == {"bias", "last-layer"}
    assert all("a Gather stands before it" in reason for reason in reasons.values())


@zoo.needs_zoo
def test_class_biases_and_a_last_layer_help_a_real_model_on_fresh_images(tmp_path: Path) -> None:
    data = np.load(zoo.data("cifar10_jpeg_test10k"))
    x, y = data["x"][:760], data["y"][:760]
    split = np.array(["selection"] * 300 + ["calibration"] * 60 + ["test"] * 400)
    np.savez(tmp_path / "data.npz", x=x, y=y, split=split)
    settings = Settings(data=tmp_path / "data.npz", workers=1)
    bench = prepare(read_subject(zoo.model("mlperf_resnet8")), settings)
    choice, test = _choice(bench), bench.parts.test
    plain = bench.working.run_plain(test)
    before = (plain.argmax(axis=1) == test.annotations.labels).mean()
    for kind in CURES.values():
        found = _cured(kind(choice), np.arange(len(choice.labels)))
        model = bake(bench.original, found.patch).model
        after = (
            outputs_of(bench, opened_beside(bench, model), test).argmax(axis=1)
            == test.annotations.labels
        )
        assert after.mean() > before + 0.01
