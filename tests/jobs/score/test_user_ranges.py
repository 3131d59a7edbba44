"""A user's metric need not say which numbers it can give, unless a method needs bounds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import onnx
import pytest

import repairkit
from repairkit.core.errors import SettingsError
from repairkit.jobs.setup.workbench import Settings
from tests.models import no_bias

MODULE = """
import numpy as np

def margin(outputs, labels, attributes):
    return 40 * (outputs[np.arange(len(labels)), labels] - outputs.mean(axis=1))
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "margins.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    onnx.save(no_bias(), tmp_path / "m.onnx")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2, 6, 6)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=rng.integers(0, 3, 40))
    return tmp_path


def _settings(place: Path) -> Settings:
    return Settings(data=place / "d.npz", metrics=("margins:margin",), workers=1)


@pytest.mark.parametrize("method", ["exact", "leave-one-out", "permutation", "regression"])
def test_methods_that_need_no_bounds_ask_for_none(place: Path, method: str) -> None:
    run = place / "run"
    repairkit.score(place / "m.onnx", settings=_settings(place), method=method, out=run)
    text = (run / "scores.csv").read_text()
    values = [float(row["value"]) for row in csv.DictReader(text.splitlines())]
    assert np.isfinite(values).all()
    assert np.abs(values).max() > 1


@pytest.mark.parametrize("method", ["tmab", "marginals"])
def test_methods_that_need_bounds_say_what_to_do(place: Path, method: str) -> None:
    with pytest.raises(SettingsError, match=r"set margin\.score_range = \(low, high\)"):
        repairkit.score(
            place / "m.onnx",
            settings=_settings(place),
            method=method,
            out=place / "run",
        )


def test_filters_are_removed_and_the_metric_told_without_a_range(place: Path) -> None:
    out = place / "out.onnx"
    done = repairkit.patch(place / "m.onnx", out=out, remove=["conv:1"], settings=_settings(place))
    assert set(done.before.metrics) >= {"margins:margin"}
