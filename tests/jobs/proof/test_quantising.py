"""`verify --quantised`: what a quantised copy keeps of a repair, and what it does not."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, numpy_helper

import repairkit
from repairkit.core.errors import ModelError, SettingsError, VerificationError
from repairkit.core.results import Figure, QuantisedCopy
from repairkit.jobs.proof import kept_gain
from tests import models
from tests.cli.test_commands import harm
from tests.conftest import Answer, Project
from tests.running import run

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "quantising.md"
WAYS = ("QDQ", "QDQ per channel", "QOperator", "QOperator per channel", "dynamic")


@pytest.fixture(autouse=True)
def _quiet_quantiser(caplog: pytest.LogCaptureFixture) -> None:
    """It warns that a model was not prepared by its own tool."""
    caplog.set_level(logging.CRITICAL)


def quantise(source: Path, out: Path, images: np.ndarray, way: str = "QDQ") -> Path:
    """A copy of a tiny model as ONNX Runtime's own quantiser makes it."""
    return quantise_on(source, out, "image", [row[None] for row in images], way)


def quantise_on(source: Path, out: Path, name: str, batches: list[np.ndarray], way: str) -> Path:
    """The same of any model, with what its input of that name is fed with to calibrate."""
    from onnxruntime import quantization

    if way == "dynamic":
        quantization.quantize_dynamic(source, out, op_types_to_quantize=["Conv", "Gemm"])
        return out

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc]
        feeds: Iterator[dict[str, np.ndarray]] = iter([{name: batch} for batch in batches])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    quantization.quantize_static(
        source,
        out,
        Images(),
        quant_format=quantization.QuantFormat[way.split()[0]],
        per_channel=way.endswith("channel"),
        reduce_range=True,
    )
    return out


@dataclass(frozen=True, repr=False, eq=False)
class Repaired:
    """A model, its patched copy and the patch file, with data."""

    folder: Path
    model: Path
    patched: Path
    patch_file: Path
    images: np.ndarray
    labels: np.ndarray

    def verify(self, copy: Path, **words: Any) -> QuantisedCopy:
        usual = {"patch_file": self.patch_file, "quantised": copy}
        found = repairkit.verify(self.model, self.patched, **{**usual, **words}).quantised
        assert found is not None
        return found

    def copy(self, name: str, change: Callable[[ModelProto], None]) -> Path:
        """The patched model, changed by hand."""
        model = onnx.load(self.patched)
        change(model)
        onnx.save(model, self.folder / name)
        return self.folder / name


def made(folder: Path, level: str) -> Repaired:
    """The filter that does harm is frozen."""
    project = Project(folder, folder / "model.onnx", folder / "data.npz")
    harm(project)
    done = repairkit.patch(
        project.model, remove=["conv:2"], out=folder / "patched.onnx", level=level
    )
    stored = np.load(project.data)
    return Repaired(folder, project.model, done.out, done.patch_file, stored["x"], stored["y"])


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Repaired:
    """Frozen at its mean, which codes round."""
    return made(tmp_path_factory.mktemp("repaired"), "mean")


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Repaired:
    """Frozen at zero, which mends all answers."""
    return made(tmp_path_factory.mktemp("mended"), "zero")


@pytest.mark.parametrize("way", WAYS)
def test_frozen_filters_are_constant_in_copies_of_every_form(
    repaired: Repaired, tmp_path: Path, way: str
) -> None:
    copy = quantise(repaired.patched, tmp_path / "copy.onnx", repaired.images[:50], way)
    found = repaired.verify(copy, noise=True)
    assert [each.filter for each in found.filters] == ["conv:2"]
    # What frozen filters give, there and behind the activation, without repairkit.
    patched = onnx.load(repaired.patched)
    patched.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in ("y", "act"))
    _, before, behind = run(patched, {"image": repaired.images[:9]})
    for each in found.filters:
        channel = int(each.filter[-1])
        values = {float(t[:, channel].max()) for t in (before, behind)}
        assert any(each.constant == pytest.approx(value, abs=1e-6) for value in values)
        assert each.spread == 0.0
        assert each.offset <= each.step or way == "dynamic"
        assert (each.step == 0.0) == (way == "dynamic")
    assert found.gain is None
    assert found.no_gain


@pytest.mark.parametrize("way", ["QOperator", "QDQ"])
def test_a_relu_in_front_of_an_operator_on_floats_is_fused_too(way: str, tmp_path: Path) -> None:
    """A normalisation behind it keeps its tensor: the numbers of the layer's own codes."""
    model = models.own_bias()
    statistics = {"scale": 1.5, "shift": 0.2, "mean": 0.1, "var": 0.7}
    for name, value in statistics.items():
        model.graph.initializer.append(numpy_helper.from_array(np.full(4, value, np.float32), name))
    place = next(k for k, node in enumerate(model.graph.node) if node.op_type == "Relu")
    relu, pool = model.graph.node[place], model.graph.node[place + 1]
    behind = [relu.output[0], *statistics]
    node = onnx.helper.make_node("BatchNormalization", behind, ["normal"], "normal")
    model.graph.node.insert(place + 1, node)
    pool.input[0] = "normal"
    onnx.save(model, tmp_path / "model.onnx")
    done = repairkit.patch(
        tmp_path / "model.onnx", remove=["conv:0"], level="bias", out=tmp_path / "patched.onnx"
    )
    copy = quantise(done.out, tmp_path / "copy.onnx", models.images(20), way)
    found = repairkit.verify(tmp_path / "model.onnx", done.out, quantised=copy).quantised
    assert found is not None
    assert found.filters[0].offset <= found.filters[0].step


def test_a_copy_of_the_original_has_no_frozen_filters(repaired: Repaired, tmp_path: Path) -> None:
    copy = quantise(repaired.model, tmp_path / "copy.onnx", repaired.images[:50])
    with pytest.raises(VerificationError, match="conv:2 is not constant in it"):
        repaired.verify(copy, noise=True)


def with_array(model: ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    changed = change(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), name))


def bias_of(model: ModelProto) -> str:
    return next(n for n in model.graph.node if n.op_type == "Conv").input[2]


@pytest.mark.parametrize("by", [0.001, 0.3, -2.0])
def test_a_constant_that_moved_by_more_than_a_step_is_found(repaired: Repaired, by: float) -> None:
    def move(model: ModelProto) -> None:
        with_array(model, bias_of(model), lambda bias: bias + np.float32(by))

    with pytest.raises(
        VerificationError, match=rf"conv:2 is constant in it, but {abs(by):.3g} away"
    ):
        repaired.verify(repaired.copy("moved.onnx", move), noise=True)


def test_a_channel_with_a_scale_of_its_own_may_hold_its_constant_coarsely(tmp_path: Path) -> None:
    """Pixels from 0 to 255 have steps of 1, and so has the constant of a frozen first layer."""
    model = models.own_bias()
    with_array(model, "w", lambda w: w / 255)
    onnx.save(model, tmp_path / "model.onnx")
    images = np.round(np.abs(models.images(40)) * 80).clip(0, 255).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=images, y=np.zeros(40, int))
    done = repairkit.patch(
        tmp_path / "model.onnx", tmp_path / "data.npz", remove=["conv:0"], level="mean",
        calibration="all", out=tmp_path / "patched.onnx",
    )  # fmt: skip
    constant = done.patch.frozen[0].constant
    assert isinstance(constant, float)
    for way, coarse in (("QDQ", False), ("QDQ per channel", True)):
        copy = quantise(done.out, tmp_path / "copy.onnx", images, way)
        index = onnx.load(copy).graph.initializer
        scale = next(numpy_helper.to_array(t) for t in index if t.name == "w_scale")
        assert (np.atleast_1d(scale)[0] == 1.0) == coarse
        words = {"quantised": copy, "noise": True}
        if coarse and abs(round(constant) - constant) > 0.1 and constant > 0:
            with pytest.raises(VerificationError, match="with one scale per channel"):
                repairkit.verify(tmp_path / "model.onnx", done.out, **words)
        else:
            repairkit.verify(tmp_path / "model.onnx", done.out, **words)


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    (scores,) = run(onnx.load(path), {"image": images})
    return float((scores.argmax(axis=1) == labels).mean())


def test_the_gain_is_that_of_test_images_by_numpy(mended: Repaired, tmp_path: Path) -> None:
    images = mended.images[:50]
    copy = quantise(mended.patched, tmp_path / "copy.onnx", images)
    other = quantise(mended.model, tmp_path / "other.onnx", images)
    found = mended.verify(
        copy, quantised_original=other, patch_file=None, metric="accuracy", test="all"
    )
    gain = found.gain
    assert gain is not None
    paths = {
        "original": mended.model,
        "patched": mended.patched,
        "quantised": copy,
        "quantised_original": other,
    }
    for name, path in paths.items():
        expected = accuracy(path, mended.images, mended.labels)
        assert gain.figures[name].value == pytest.approx(expected, abs=0.006), name
    value = {name: figure.value for name, figure in gain.figures.items()}
    assert gain.changes["quantised"].value == pytest.approx(value["quantised"] - value["original"])
    assert gain.changes["among_quantised"].value == pytest.approx(
        value["quantised"] - value["quantised_original"]
    )
    # All labels are the patched model's answers, so a copy can only lose some.
    assert gain.verdict in ("kept", "partly")
    assert gain.n_images == 400


def test_a_lost_gain_is_a_failure_and_says_the_figures(
    mended: Repaired, repairkit: Callable[..., Answer]
) -> None:
    def turn(model: ModelProto) -> None:
        with_array(model, "fc_w", lambda weight: -weight)

    words = ("--patch", mended.patch_file, "--metric", "accuracy", "--quantised")
    gain = mended.verify(mended.copy("turned.onnx", turn), metric="accuracy").gain
    assert gain is not None
    assert gain.verdict == "partly"  # the original is right on still fewer images
    answer = repairkit("verify", mended.model, mended.patched, *words, mended.model)
    assert answer.code == 3
    assert "is not constant in it" in answer.err

    def none(model: ModelProto) -> None:
        with_array(model, "fc_w", lambda weight: 0 * weight)
        with_array(model, "fc_b", lambda bias: np.array([9.0, 0.0, 0.0]) + 0 * bias)

    answer = repairkit(
        "verify", mended.model, mended.patched, *words, mended.copy("none.onnx", none)
    )
    assert answer.code == 3
    assert re.search(r"the gain of the patch is lost in it: accuracy, of the original", answer.err)
    assert "of the patched model 100.0 %, of the copy 0.0 %" in answer.err


def test_the_command_tells_all_and_json_holds_it(
    mended: Repaired, repairkit: Callable[..., Answer]
) -> None:
    import json

    words = ("--patch", mended.patch_file, "--quantised", mended.patched)
    answer = repairkit("verify", mended.model, mended.patched, *words)
    assert answer.code == 0, answer.err
    assert "1 frozen filter constant in the quantised copy" in answer.out
    assert "quantised against patched: 0.0 [0.0, 0.0] points" in answer.out
    document = json.loads(repairkit("verify", mended.model, mended.patched, *words, "--json").out)
    gain = document["quantised"]["gain"]
    assert gain["unseen"] is True
    assert gain["changes"]["quantisation"] == {"value": 0.0, "ci_low": 0.0, "ci_high": 0.0}
    assert {f["spread"] for f in document["quantised"]["filters"]} == {0.0}


def test_other_parts_of_the_same_data_are_refused_and_other_data_is_not_known(
    mended: Repaired, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="give --seed 0 and the parts of the patch"):
        mended.verify(mended.patched, seed=7)
    np.savez(tmp_path / "new.npz", x=mended.images[::-1], y=mended.labels[::-1], group=["a"] * 400)
    for words in ({"data": tmp_path / "new.npz"}, {"patch_file": None}):
        gain = mended.verify(mended.patched, **words).gain
        assert gain is not None
        assert gain.unseen is None


def test_test_images_that_also_chose_are_told(
    mended: Repaired, tmp_path: Path, repairkit: Callable[..., Answer]
) -> None:
    words = ("--selection", "all", "--test", "all")
    out = tmp_path / "again.onnx"
    made = repairkit(
        "patch", mended.model, "--remove", "conv:2", "--level", "zero", *words, "-o", out
    )
    assert made.code == 0, made.err
    patch_file = ("--patch", out.with_name("again.patch.json"))
    answer = repairkit("verify", mended.model, out, *patch_file, "--quantised", out, *words)
    assert answer.code == 0, answer.err
    assert "helped to choose" in answer.out


def test_what_makes_no_sense_is_said(repaired: Repaired, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="add --quantised"):
        repairkit.verify(repaired.model, repaired.patched, metric="accuracy")
    with pytest.raises(SettingsError, match="there is no test part"):
        repaired.verify(repaired.patched, patch_file=None, test="none")
    onnx.save(models.LAYERS["no_bias"](), tmp_path / "other.onnx")
    renamed = onnx.load(tmp_path / "other.onnx")
    renamed.graph.input[0].name = "pixels"
    renamed.graph.node[0].input[0] = "pixels"
    onnx.save(renamed, tmp_path / "renamed.onnx")
    with pytest.raises(ModelError, match="takes pixels, and the model takes image"):
        repaired.verify(tmp_path / "renamed.onnx")
    hidden = onnx.load(repaired.patched)
    for node in hidden.graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = {"y": "hidden", "act": "hidden too"}.get(name, name)
    onnx.save(hidden, tmp_path / "hidden.onnx")
    with pytest.raises(VerificationError, match="has no tensor of the name of 'y'"):
        repaired.verify(tmp_path / "hidden.onnx")


def test_a_patch_of_the_last_layer_is_judged_by_its_gain_or_not_at_all(
    mended: Repaired, tmp_path: Path, repairkit: Callable[..., Answer]
) -> None:
    words = ("--data", mended.folder / "data.npz", "--accept-preprocessing")
    repair = ("--objective", "accuracy", "--repair", "last-layer", "--max-drop", "1")
    made = repairkit("patch", mended.model, *words, *repair, "-o", tmp_path / "refitted.onnx")
    assert made.code == 0, made.err
    copy = ("--quantised", tmp_path / "refitted.onnx")
    answer = repairkit("verify", mended.model, tmp_path / "refitted.onnx", *copy, *words)
    assert answer.code == 0, answer.err
    assert "no filter is frozen wholly" in answer.out
    assert "the gain is kept" in answer.out
    answer = repairkit("verify", mended.model, tmp_path / "refitted.onnx", *copy, "--noise")
    assert answer.code == 1
    assert "nothing of it can be judged" in answer.err


figures = st.tuples(st.floats(-1, 1), st.floats(0, 0.5), st.floats(0, 0.5)).map(
    lambda t: Figure(t[0], t[0] - t[1], t[0] + t[2])
)


@given(figures, figures, figures, st.none() | figures)
def test_the_verdict_follows_the_intervals(
    patch: Figure, copy: Figure, cost: Figure, among: Figure | None
) -> None:
    changes = {"patch": patch, "quantised": copy, "quantisation": cost}
    if among is not None:
        changes["among_quantised"] = among
    verdict, why = kept_gain.gain_verdict(changes)
    decisive = copy if among is None else among
    assert (verdict in ("kept", "partly")) == (decisive.ci_low > 0)
    assert (verdict == "partly") <= (cost.ci_high < 0)
    assert (verdict == "kept") <= (cost.ci_high >= 0)
    lost = decisive.ci_low <= 0 and patch.ci_low > 0 and cost.ci_high < 0
    assert (verdict == "lost") == lost
    assert ("quantised original" in why) <= (among is not None)


def test_the_worked_example_of_the_guide_runs(
    repairkit: Callable[..., Answer], tmp_path: Path
) -> None:
    from repairkit.api import copy_sample, patch

    model = copy_sample(tmp_path / "repairkit-demo")
    frozen = ["conv1:9", "conv2:21", "conv3:4", "conv3:29"]
    patch(model, remove=frozen, level="mean", out=model.with_name("model.patched.onnx"))
    text = GUIDE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# quantise\.py\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "quantise.py", "exec"), {})
    (command,) = re.findall(r"    repairkit (verify .*?)\n\n", text, re.DOTALL)
    answer = repairkit(*command.replace("\\\n", "").split(), "--metric", "worst_group_accuracy")
    assert answer.code == 0, answer.err
    assert "4 frozen filters constant in the quantised copy, on 64 images" in answer.out
    assert "the gain is kept: it is surely better than the quantised original" in answer.out
