"""Two files compared: frozen filters, patches, answers, the document, its page, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import repairkit as rk
from repairkit.core.filters import Filter, FrozenFilter, Patch
from repairkit.graph import baking
from repairkit.graph.kinds.sites import survey
from repairkit.graph.stored.model_files import ModelFile
from repairkit.jobs.diff.frozen_filters import frozen_filters
from repairkit.jobs.setup.workbench import Settings
from repairkit.report.diff_page import render_diff
from tests import ensembles, models, zoo
from tests.conftest import Answer, Project
from tests.jobs.diff import disguises
from tests.jobs.diff.test_graph_changes import compared
from tests.report.documents import HOSTILE
from tests.report.test_page import Reading
from tests.running import run

WITH_FILTERS = {name: make() for name, make in disguises.KINDS.items() if survey(make()).sites}


@given(st.sampled_from(sorted(WITH_FILTERS)), st.data())
@settings(max_examples=40, deadline=None)
def test_frozen_filters_are_named_with_their_constants(name: str, data: st.DataObject) -> None:
    model = WITH_FILTERS[name]
    found = survey(model)
    site = data.draw(st.sampled_from(found.sites))
    channels = data.draw(st.sets(st.integers(0, site.n_channels - 1), min_size=1))
    if site.n_values is not None:
        channels = set(sorted(channels)[:1])  # an ensemble may need its negative leaves
    wanted = np.full(site.level_shape, data.draw(st.sampled_from([0.0, 0.5, -1.25])))
    try:
        levels = baking.representable(found, {site.name: wanted})[site.name]
        frozen = [
            FrozenFilter(Filter(site.name, c), _constant(levels[c])) for c in sorted(channels)
        ]
        frozen = [each for each in frozen if not baking.is_idle(found, each)]
        baked = baking.bake(found, Patch(tuple(frozen))).model
    except rk.api.repairing.errors.ModelError:  # the layer cannot hold this constant
        return
    changes = compared(model, baked)
    a, b = (ModelFile(Path("m.onnx"), m, "") for m in (model, baked))
    forth, back = frozen_filters(a, b, changes), frozen_filters(b, a, compared(baked, model))
    assert {(f.filter, f.constant) for f in forth.in_b} == {(f.filter, f.constant) for f in frozen}
    # What A has at a constant by itself, such as a tree of one leaf, is frozen there.
    assert all(baking.is_idle(found, each) for each in forth.in_a)
    assert (back.in_a, back.in_b) == (forth.in_b, forth.in_a)


def _constant(level: Any) -> Any:
    return float(level) if not np.ndim(level) else tuple(map(float, level))


def test_frozen_filters_are_named_in_a_model_with_other_names() -> None:
    model = models.own_bias()
    found = survey(model)
    baked = baking.bake(found, Patch((FrozenFilter(Filter("conv", 2), 0.5),))).model
    other = disguises.reordered(disguises.renamed(baked), 3)
    a, b = (ModelFile(Path("m.onnx"), m, "") for m in (model, other))
    seen = frozen_filters(a, b, compared(model, other))
    assert seen.in_b == (FrozenFilter(Filter("other conv", 2), 0.5),)


def test_a_patch_is_recognised_in_both_directions_and_beside_its_model(project: Project) -> None:
    out = project.folder / "patched.onnx"
    rk.patch(project.model, project.data, out=out, remove=["conv:1", "conv:3"])
    changes = rk.diff(project.model, out, project.data)
    document = changes.to_json()
    assert [row["filter"] for row in document["filters"]["frozen_in_b"]] == ["conv:1", "conv:3"]
    assert document["patch"]["exactly"]
    assert document["patch"]["patched"] == "b"
    assert document["patch"]["file"].endswith("patched.patch.json")
    assert {row["a"] for row in document["tensors_changed"]} == {"w", "b"}
    assert all(row["channels"] == [1, 3] for row in document["tensors_changed"])
    turned = rk.diff(out, project.model, project.data).to_json()
    assert turned["patch"]["exactly"]
    assert turned["patch"]["patched"] == "a"
    assert turned["filters"]["frozen_in_a"] == document["filters"]["frozen_in_b"]
    # One further number, and it is the patch no more.
    (more,) = disguises.written(
        project.folder, more=disguises.with_changed_byte(onnx.load(out), "fc_b", 0)
    )
    other = rk.diff(project.model, more, patch_file=project.folder / "patched.patch.json")
    assert other.document["patch"]["exactly"] is False
    assert other.document["patch"]["reason"]


def test_answers_are_compared_as_the_models_give_them(project: Project) -> None:
    other = onnx.load(project.model)
    for tensor in other.graph.initializer:
        if tensor.name == "fc_b":
            array = np.frombuffer(tensor.raw_data, np.float32) + np.array([0.0, 0.4, 0.0])
            tensor.raw_data = array.astype(np.float32).tobytes()
    (path,) = disguises.written(project.folder, other=other)
    held = np.load(project.data)
    logits = [run(m, {"image": held["x"]})[0] for m in (onnx.load(project.model), other)]
    classes = [each.argmax(1) for each in logits]
    images = rk.diff(project.model, path).document["images"]  # the project's own data
    answers = images["answers"]
    assert images["n_images"] == len(held["y"])
    assert answers["n_changed"] == (classes[0] != classes[1]).sum() > 0
    assert {(m["from"], m["to"], m["n"]) for m in answers["moves"]} == {
        (str(x), str(y), ((classes[0] == x) & (classes[1] == y)).sum())
        for x in range(3)
        for y in range(3)
        if x != y and ((classes[0] == x) & (classes[1] == y)).any()
    }
    for side, picked in zip("ab", classes, strict=True):
        assert answers["accuracy"][side] == pytest.approx((picked == held["y"]).mean())
        for row in answers["groups"]:
            members = held["group"] == row["group"]
            share = (picked == held["y"])[members].mean()
            assert row["accuracy"][side] == pytest.approx(share)
    (output,) = images["outputs"]
    assert output["largest"] == pytest.approx(np.abs(logits[1] - logits[0]).max(), rel=1e-4)


def test_noise_is_seeded_and_a_model_that_takes_none_is_compared_all_the_same(
    tmp_path: Path,
) -> None:
    a, b = disguises.written(tmp_path, a=models.own_bias(), b=disguises.renamed(models.own_bias()))
    changes = rk.diff(a, b, settings=Settings())
    assert changes.differs
    assert changes.same_computation
    assert changes.document["verdict"]["level"] == "same computation"
    assert changes.document["images"]["outputs"][0]["largest"] == 0.0
    forest, text = ensembles.forest(1).model, ensembles.forest(2).model
    text.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    a, b = disguises.written(tmp_path, forest=forest, text=text)
    document = rk.diff(a, b, settings=Settings()).document
    assert document["images"]["source"] is None
    assert document["images"]["reason"]
    assert document["inputs"][0]["computes"]


def test_weights_in_a_file_beside_the_model_are_compared_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repairkit.graph.stored.model_files.KEPT_OUTSIDE_ABOVE", 0)
    (plain,) = disguises.written(tmp_path, plain=models.own_bias())
    outside = []
    for name, byte in (("one", 0), ("two", 37)):
        folder = tmp_path / name
        folder.mkdir()
        model = models.own_bias()
        changed = disguises.with_changed_byte(model, "w", byte) if byte else model
        onnx.save(
            changed, folder / "m.onnx", save_as_external_data=True, location="w.bin",
            size_threshold=0,
        )  # fmt: skip
        outside.append(folder / "m.onnx")
    same = rk.diff(plain, outside[0], settings=Settings()).document
    assert same["verdict"]["same_computation"]
    assert [row["what"] for row in same["storage"]] == ["w.bin"]
    other = rk.diff(*outside, settings=Settings()).document
    (row,) = other["tensors_changed"]
    assert (row["a"], row["n_differ"], row["channels"]) == ("w", 1, [0])


def test_exit_codes_and_one_document(
    repairkit: Callable[..., Answer], project: Project, tmp_path: Path
) -> None:
    (other,) = disguises.written(
        tmp_path, other=disguises.with_changed_byte(models.own_bias(), "w", 5)
    )
    plain = repairkit("diff", project.model, other)
    assert plain.code == 0
    assert "other numbers" in plain.out
    told = repairkit("diff", project.model, other, "--exit-code", "--json")
    assert told.code == 3
    assert json.loads(told.out)["tensors_changed"][0]["n_differ"] == 1
    same = repairkit("diff", project.model, project.model, "--exit-code")
    assert same.code == 0
    assert "identical" in same.out
    missing = repairkit("diff", project.model, "nowhere.onnx")
    assert missing.code == 1
    assert "nowhere.onnx" in missing.err
    page = repairkit("diff", project.model, other, "--html", other)
    assert page.code == 1
    assert "page of repairkit's" in page.err
    patch = repairkit("diff", project.model, other, "--patch", project.data)
    assert patch.code == 1


def test_names_have_no_effect_on_the_page(tmp_path: Path) -> None:
    page = Reading(render_diff(disguises.hostile_document(tmp_path)))
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith("#") for address in page.addresses)
    assert any(HOSTILE[0] in text for text in page.shown)


@zoo.needs_zoo
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlperf_resnet8", "mesonet", "tfl_resnet8_quant"])
def test_real_models_are_themselves_and_their_patches(name: str, tmp_path: Path) -> None:
    source = zoo.model(name)
    out = tmp_path / "patched.onnx"
    first = survey(onnx.load(source)).sites[0]
    settings = replace(Settings(), absent="zero")
    rk.patch(source, out=out, remove=[f"{first.name}:1"], level="zero", settings=settings)
    document = rk.diff(source, out, settings=Settings()).document
    assert document["patch"]["exactly"]
    assert [row["filter"] for row in document["filters"]["frozen_in_b"]] == [f"{first.name}:1"]
    (other,) = disguises.written(tmp_path, other=disguises.reordered(onnx.load(source), 1))
    again = rk.diff(source, other, settings=Settings())
    assert again.same_computation
