"""`verify --runtime`: another runtime agrees, or the proof fails and says by how much."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

import repairkit
from repairkit.core.errors import ModelError, SettingsError, VerificationError
from repairkit.core.results import RuntimeAgreement
from repairkit.engine.runtimes import foreign
from repairkit.graph.kinds.sites import survey
from repairkit.jobs.proof import agreeing
from tests import models
from tests.conftest import Answer
from tests.engine.runtimes.test_other_runtimes import package
from tests.running import run

Change = Callable[[list[str], list[Any]], list[Any]]
"""From the names of outputs and the outputs to others."""


def as_it_is(_names: list[str], outputs: list[Any]) -> list[Any]:
    return outputs


@dataclass(frozen=True)
class Pretender:
    """ONNX Runtime as tests call it, without repairkit's engine; its outputs may be changed."""

    change: Change = as_it_is
    refuses: Callable[[ModelProto], bool] = lambda _: False
    tolerance: float = foreign.FLOAT_TOLERANCE
    name = title = "pretender"

    def run(self, model: ModelProto, feeds: Sequence[foreign.Feeds]) -> foreign.Answered:
        if self.refuses(model):
            raise ModelError("pretender cannot load the model (Conv)")
        names = [output.name for output in model.graph.output]
        runs = [self.change(names, run(model, dict(fed), optimise=True)) for fed in feeds]
        return foreign.Answered(runs, "1", "in a test")


@contextmanager
def instead(runtime: Pretender) -> Iterator[None]:
    """Let `openvino` name a runtime of the tests."""
    known = dict(agreeing.RUNTIMES)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(agreeing, "RUNTIMES", {**known, "openvino": lambda _: runtime})
        yield


@dataclass(frozen=True)
class Pair:
    model: Path
    patched: Path

    def verify(self, **words: Any) -> repairkit.Verified:
        return repairkit.verify(self.model, self.patched, **{"runtime": "openvino", **words})


def make_pair(folder: Path, model: ModelProto) -> Pair:
    """A model and its patched copy; two filters of the first site are frozen."""
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    site = survey(model).sites[0]
    frozen = [f"{site.name}:{channel}" for channel in range(min(2, site.n_channels))]
    pair = Pair(folder / "model.onnx", folder / "patched.onnx")
    repairkit.patch(pair.model, remove=frozen, out=pair.patched, level="bias")
    return pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("pair"), models.LAYERS["own_bias"]())


def the_one(verified: repairkit.Verified) -> RuntimeAgreement:
    (found,) = verified.runtimes
    return found


@pytest.mark.parametrize("name", sorted(set(models.LAYERS) - {"computed_weights"}))
def test_in_an_equal_runtime_every_kind_of_layer_agrees(name: str, tmp_path: Path) -> None:
    made = make_pair(tmp_path / "made", models.LAYERS[name]())
    with instead(Pretender()):
        found = the_one(made.verify())
    assert found.n_constant == len(made.verify(runtime=()).patch)
    assert (found.spread, found.offset, found.unread, found.other_answers) == (0.0, 0.0, (), 0)
    assert found.relative <= 1e-6


def shifted(share: float) -> Change:
    """All outputs moved by a share of the largest number: no answer changes."""

    def change(names: list[str], outputs: list[Any]) -> list[Any]:
        n_plain = len([name for name in names if not name.startswith("frozen_")])
        moved = [o + share * np.abs(o).max() for o in outputs[:n_plain]]
        return [*moved, *outputs[n_plain:]]

    return change


@given(st.floats(1e-6, 1e-2), st.floats(1e-6, 1e-2))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_outputs_may_differ_by_the_tolerance_and_no_more(
    pair: Pair, share: float, tolerance: float
) -> None:
    with instead(Pretender(shifted(share))):
        if share < 0.9 * tolerance:
            assert the_one(pair.verify(tolerance=tolerance)).relative == pytest.approx(share, 0.05)
        elif share > 1.1 * tolerance:
            with pytest.raises(VerificationError, match="differ from those of ONNX Runtime"):
                pair.verify(tolerance=tolerance)


def of_watched(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Only what a frozen filter gives is changed."""

    def changed(names: list[str], outputs: list[Any]) -> list[Any]:
        return [
            change(output) if name.startswith("frozen_") else output
            for name, output in zip(names, outputs, strict=True)
        ]

    return changed


def test_a_filter_that_varies_or_holds_another_constant_there_is_no_proof(pair: Pair) -> None:
    noise = np.random.default_rng(0).standard_normal(10**4)
    for change in (
        lambda x: x + 1e-2 * noise[: x.size].reshape(x.shape).astype(x.dtype),
        lambda x: x + np.float32(0.1),
        lambda x: x * np.float32(np.nan),
    ):
        with (
            instead(Pretender(of_watched(change))),
            pytest.raises(VerificationError, match=r"the frozen filter conv:0 is not held"),
        ):
            pair.verify()


def swap_best(_names: list[str], outputs: list[Any]) -> list[Any]:
    """The first image's two best classes change places."""
    scores = outputs[0].copy()
    first, second = np.argsort(scores[0])[::-1][:2]
    scores[0, [first, second]] = scores[0, [second, first]]
    return [scores, *outputs[1:]]


def test_another_answer_is_no_proof_whatever_the_tolerance(pair: Pair) -> None:
    with (
        instead(Pretender(swap_best)),
        pytest.raises(VerificationError, match=r"1 image gets? another answer"),
    ):
        pair.verify(tolerance=0.9)


@given(st.integers(0, 99))
@settings(max_examples=30)
def test_a_tie_is_no_other_answer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    theirs = rng.standard_normal((20, 4))
    mine = theirs + 1e-3 * rng.standard_normal(theirs.shape)
    scale = np.abs(theirs).max()
    lead = np.take_along_axis(theirs, mine.argmax(axis=1)[:, None], 1)[:, 0]
    for tie in (0.0, 1e-4, 1e-2):
        expected = (theirs.argmax(1) != mine.argmax(1)) & (theirs.max(1) - lead > tie * scale)
        np.testing.assert_array_equal(agreeing.clearly_other(mine, theirs, tie), expected)


def test_who_is_to_blame_for_a_refusal(pair: Pair) -> None:
    patched_only = Pretender(
        refuses=lambda model: bool(model.metadata_props) and "patches" in str(model.metadata_props)
    )
    with instead(patched_only), pytest.raises(VerificationError, match="and it runs the original"):
        pair.verify()
    with (
        instead(Pretender(refuses=lambda _: True)),
        pytest.raises(ModelError, match="refuses the original as well"),
    ):
        pair.verify()


def test_a_failure_says_how_far_off_the_original_is(pair: Pair) -> None:
    with (
        instead(Pretender(shifted(0.25))),
        pytest.raises(VerificationError, match=r"by 0\.25 of .*; the original's by 0\.25"),
    ):
        pair.verify()


def test_shapes_must_be_equal(pair: Pair) -> None:
    def flat(_names: list[str], outputs: list[Any]) -> list[Any]:
        return [outputs[0].reshape(-1), *outputs[1:]]

    with instead(Pretender(flat)), pytest.raises(VerificationError, match="have the shapes"):
        pair.verify()


def test_gaps_are_relative_to_the_largest_number_or_to_what_an_output_has_at_the_least() -> None:
    a, b = np.array([1.0, 2.0]), np.array([1.0, 4.0])
    assert agreeing.relative_gap(a, b, 0.0) == 0.5
    assert agreeing.relative_gap(a, b, 8.0) == 0.25
    assert agreeing.relative_gap(a, np.array([1.0, np.nan]), 0.0) == np.inf
    tiny = np.array([0.0, 1e-30])
    assert agreeing.relative_gap(tiny, 2 * tiny, 0.0) == 0.5
    assert agreeing.relative_gap(tiny, 2 * tiny, 1.0) < 1e-20
    codes = np.array([7, 8], np.uint8)
    assert agreeing.relative_gap(codes + np.uint8(1), codes, 255.0) == pytest.approx(1 / 255)


def test_openvino_agrees_on_the_command_line(pair: Pair, repairkit: Callable[..., Answer]) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    answer = repairkit("verify", pair.model, pair.patched, "--runtime", "openvino")
    assert answer.code == 0, answer.err
    assert "openvino 20" in answer.out
    assert "2 frozen filters held exactly" in answer.out
    answer = repairkit("verify", pair.model, pair.patched, "--runtime", "openvino", "--json")
    assert '"n_constant": 2' in answer.out


def test_wrong_words_are_refused(pair: Pair, repairkit: Callable[..., Answer]) -> None:
    for words, said in (
        (("--runtime", "openvin"), "there is no runtime 'openvin'; choose openvino, onnx"),
        (("--runtime", "openvino", "--tolerance", "2"), "a tolerance of 2 makes no sense"),
        (("--tolerance", "0.1"), "add --runtime"),
    ):
        answer = repairkit("verify", pair.model, pair.patched, *words)
        assert answer.code == 1
        assert said in answer.err
    with pytest.raises(SettingsError, match="add --runtime"):
        pair.verify(runtime=(), node_modules=".")


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_a_package_that_answers_otherwise_is_no_proof(
    pair: Pair, repairkit: Callable[..., Answer], tmp_path: Path
) -> None:
    package(tmp_path)  # its outputs are its inputs
    words = ("--runtime", "onnxruntime-node", "--node-modules", tmp_path)
    answer = repairkit("verify", pair.model, pair.patched, *words)
    assert answer.code == 1, answer.err
    assert "onnxruntime-node cannot run the model" in answer.err
