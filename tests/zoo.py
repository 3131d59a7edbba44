"""Real models and data for tests: `../shared/zoo` or `$REPAIRKIT_ZOO`, and the onnx package's."""

from __future__ import annotations

import os
from pathlib import Path

import onnx.backend.test
import pytest

ZOO = Path(os.environ.get("REPAIRKIT_ZOO", Path(__file__).parents[2] / "shared" / "zoo"))
ZOO_MODELS = sorted((ZOO / "models").glob("*.onnx"))
LIGHT_MODELS = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx"))

needs_zoo = pytest.mark.skipif(
    not ZOO_MODELS, reason=f"no model zoo at {ZOO} (set REPAIRKIT_ZOO to its folder)"
)


def model(name: str) -> Path:
    """A model of the zoo."""
    return ZOO / "models" / f"{name}.onnx"


def data(name: str) -> Path:
    """A data file of the zoo."""
    return ZOO / "data" / f"{name}.npz"
