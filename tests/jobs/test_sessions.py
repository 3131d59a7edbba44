"""Every session of a whole model that a job opens is named here.

Slices of the graph, which the fast evaluator opens in any number, are smaller and not counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from repairkit.core.filters import Filter
from repairkit.jobs.repair.patching import patch
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.score.scoring import score
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests.engine.games import deep_model
from tests.models import images

# The fast evaluator prepares a copy of the instrumented model. Each of these needs a session:
FAST = {
    "optimise": 1,  # the runtime writes the optimised graph when it opens a session
    "_everything": 2,  # gives all tensors once, with all filters and with none, and is closed
    "_session": 2,  # a full pass, and all that follows the first layer's filters
}
WORKING = {
    "the model as it is": 1,  # settles the batch, then gives the figures before
    "tapped": 1,  # its numbers may round differently from those of the model as it is
}
JUDGE = {"instrumented, as written": 1}
PROOF = {
    # The very bytes of both models are compared, with the runtime's optimisation off and on.
    "proof, as written": 2,
    "proof, optimised": 2,  # that of the patched model gives the figures after, too
}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a session of a whole model was opened, by what it is for."""
    counts: Counter[str] = Counter()
    whole = sum(node.op_type == "Conv" for node in deep_model().graph.node)
    plain = onnxruntime.InferenceSession

    class Counted(plain):  # type: ignore[misc,valid-type]
        """A session that is counted."""

        def __init__(self, model: Any, *rest: Any, **named: Any) -> None:
            super().__init__(model, *rest, **named)
            nodes = onnx.load_from_string(model).graph.node
            if sum(node.op_type in ("Conv", "FusedConv") for node in nodes) == whole:
                counts[_purpose()] += 1

    monkeypatch.setattr(onnxruntime, "InferenceSession", Counted)
    return counts


def _purpose() -> str:
    """What the session is for, told by the functions that lead to it."""
    frame = sys._getframe()
    calls: list[str] = []
    while frame.f_back is not None:
        frame = frame.f_back
        calls.append(frame.f_code.co_name)
    for name in FAST:
        if name in calls:
            return name
    if "prove" in calls:
        return "proof, as written" if "as_written" in calls else "proof, optimised"
    if "tap" in calls:
        return "tapped"
    return "instrumented, as written" if "_instrumented" in calls else "the model as it is"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    onnx.save(deep_model(), tmp_path / "model.onnx")
    labels = np.random.default_rng(0).integers(0, 3, 60)
    np.savez(tmp_path / "data.npz", x=images(60), y=labels)
    return Settings(data=tmp_path / "data.npz", accept_preprocessing=True)


def test_scoring_opens_three_sessions_beside_the_fast_evaluators(
    settings: Settings, tmp_path: Path, opened: Counter[str]
) -> None:
    score(read_subject(tmp_path / "model.onnx"), settings, ScoreSettings("leave-one-out"))
    beside = {name: n for name, n in opened.items() if name not in FAST}
    assert beside == {**WORKING, **JUDGE}
    assert sum(beside.values()) == 3
    assert all(opened[name] <= most for name, most in FAST.items()), opened


def test_removing_filters_opens_the_proofs_sessions_and_four_more(
    settings: Settings, tmp_path: Path, opened: Counter[str]
) -> None:
    """Figures after are read by a session of the proof; inner tensors by one each time."""
    chosen = PatchSettings(remove=(Filter("left", 1),))
    patch(read_subject(tmp_path / "model.onnx"), settings, chosen, out=tmp_path / "patched.onnx")
    beside = {name: n for name, n in opened.items() if name not in FAST}
    # Means first, the responses that the page shows last: between them much else needs memory.
    assert beside == {**WORKING, "tapped": 2, **JUDGE, **PROOF}
    assert all(opened[name] <= most for name, most in FAST.items()), opened
