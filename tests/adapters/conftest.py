"""A small PyTorch network that a source names, as the tests of its gradients use it."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3),
    )
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "small_network.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    # Also where the installed distribution does not name its adapters yet.
    named = EntryPoint("pytorch", "repairkit_adapters.pytorch:ADAPTER", "repairkit.adapters")
    monkeypatch.setattr("repairkit.jobs.setup.subject.entry_points", lambda group: [named])  # noqa: ARG005 - named by the caller
    return "small_network:make"


def images(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 2, 8, 8)).astype(np.float32)
